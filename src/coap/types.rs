//! What the layers above the message layer see: peers, codes, requests and responses.

use std::fmt;

use crate::route::Route;

/// Who is at the other end, as far as messages are concerned (RFC 7252 §4.4: an endpoint).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Without security an address is all that tells one from another.
    Route(Route),
    /// The other end of a secure session, wherever it is; sessions are numbered and no number is
    /// used twice (RFC 7252 §9.1.1).
    Session(u64),
}

impl From<Route> for Peer {
    fn from(route: Route) -> Self {
        Self::Route(route)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(route) => route.fmt(f),
            Self::Session(number) => write!(f, "session {number}"),
        }
    }
}

/// A token of 0 to 8 bytes (RFC 7252 §5.3.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Token {
    len: u8,
    bytes: [u8; 8],
}

impl Token {
    /// `None` when there are more than 8 bytes.
    pub fn new(token: &[u8]) -> Option<Self> {
        let mut bytes = [0; 8];
        bytes.get_mut(..token.len())?.copy_from_slice(token);
        Some(Self {
            len: token.len() as u8,
            bytes,
        })
    }

    /// The bytes on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A method or response code, `class.detail` (RFC 7252 §12.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u8);

impl Code {
    pub const EMPTY: Self = Self(0);

    // RFC 7252 §12.1.1, RFC 8132 §6
    pub const GET: Self = Self(0x01);
    pub const POST: Self = Self(0x02);
    pub const PUT: Self = Self(0x03);
    pub const DELETE: Self = Self(0x04);
    pub const FETCH: Self = Self(0x05);
    pub const PATCH: Self = Self(0x06);
    pub const IPATCH: Self = Self(0x07);

    // RFC 7252 §12.1.2, RFC 7959 §6, RFC 8132 §6
    pub const CREATED: Self = Self::response(2, 1);
    pub const DELETED: Self = Self::response(2, 2);
    pub const VALID: Self = Self::response(2, 3);
    pub const CHANGED: Self = Self::response(2, 4);
    pub const CONTENT: Self = Self::response(2, 5);
    pub const CONTINUE: Self = Self::response(2, 31);
    pub const BAD_REQUEST: Self = Self::response(4, 0);
    pub const UNAUTHORIZED: Self = Self::response(4, 1);
    pub const BAD_OPTION: Self = Self::response(4, 2);
    pub const FORBIDDEN: Self = Self::response(4, 3);
    pub const NOT_FOUND: Self = Self::response(4, 4);
    pub const METHOD_NOT_ALLOWED: Self = Self::response(4, 5);
    pub const NOT_ACCEPTABLE: Self = Self::response(4, 6);
    pub const REQUEST_ENTITY_INCOMPLETE: Self = Self::response(4, 8);
    pub const CONFLICT: Self = Self::response(4, 9);
    pub const PRECONDITION_FAILED: Self = Self::response(4, 12);
    pub const REQUEST_ENTITY_TOO_LARGE: Self = Self::response(4, 13);
    pub const UNSUPPORTED_CONTENT_FORMAT: Self = Self::response(4, 15);
    pub const INTERNAL_SERVER_ERROR: Self = Self::response(5, 0);
    pub const NOT_IMPLEMENTED: Self = Self::response(5, 1);
    pub const SERVICE_UNAVAILABLE: Self = Self::response(5, 3);

    /// The response code `class.detail`; `class` 2 to 5, `detail` 0 to 31.
    pub const fn response(class: u8, detail: u8) -> Self {
        Self(class << 5 | detail)
    }

    /// 0 for methods, 2 success, 4 the asking side's error, 5 the answering side's error.
    pub const fn class(self) -> u8 {
        self.0 >> 5
    }

    /// Whether this is a response of class 2.
    pub const fn is_success(self) -> bool {
        self.class() == 2
    }

    /// The name in the registry of the RFCs, `Method Not Allowed`; empty for one we do not know.
    pub const fn name(self) -> &'static str {
        match self {
            Self::GET => "GET",
            Self::POST => "POST",
            Self::PUT => "PUT",
            Self::DELETE => "DELETE",
            Self::FETCH => "FETCH",
            Self::PATCH => "PATCH",
            Self::IPATCH => "iPATCH",
            Self::CREATED => "Created",
            Self::DELETED => "Deleted",
            Self::VALID => "Valid",
            Self::CHANGED => "Changed",
            Self::CONTENT => "Content",
            Self::CONTINUE => "Continue",
            Self::BAD_REQUEST => "Bad Request",
            Self::UNAUTHORIZED => "Unauthorized",
            Self::BAD_OPTION => "Bad Option",
            Self::FORBIDDEN => "Forbidden",
            Self::NOT_FOUND => "Not Found",
            Self::METHOD_NOT_ALLOWED => "Method Not Allowed",
            Self::NOT_ACCEPTABLE => "Not Acceptable",
            Self::REQUEST_ENTITY_INCOMPLETE => "Request Entity Incomplete",
            Self::CONFLICT => "Conflict",
            Self::PRECONDITION_FAILED => "Precondition Failed",
            Self::REQUEST_ENTITY_TOO_LARGE => "Request Entity Too Large",
            Self::UNSUPPORTED_CONTENT_FORMAT => "Unsupported Content-Format",
            Self::INTERNAL_SERVER_ERROR => "Internal Server Error",
            Self::NOT_IMPLEMENTED => "Not Implemented",
            Self::SERVICE_UNAVAILABLE => "Service Unavailable",
            _ => "",
        }
    }
}

/// `4.05`
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.class(), self.0 & 0x1f)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} {}", self.name())
    }
}

/// What a GET or FETCH says about observing (RFC 7641 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observe {
    /// Observe = 0
    Register,
    /// Observe = 1
    Deregister,
}

/// A request, whole: block-wise transfer and deduplication are the message layer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// One of the methods of [`Code`].
    pub method: Code,
    /// Uri-Path segments.
    pub path: Vec<String>,
    /// Uri-Query arguments, `name=value` or bare.
    pub query: Vec<String>,
    /// Content-Format of the payload. 0 (text) is sent as an option of no length, which is not the
    /// same as no option.
    pub content_format: Option<u16>,
    /// Accept.
    pub accept: Option<u16>,
    /// Observe.
    pub observe: Option<Observe>,
    /// The body.
    pub payload: Vec<u8>,
}

impl Request {
    /// A request with nothing but a method and a path.
    pub fn new(method: Code, path: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            method,
            path: path.into_iter().map(Into::into).collect(),
            query: Vec::new(),
            content_format: None,
            accept: None,
            observe: None,
            payload: Vec::new(),
        }
    }
}

/// A response or a notification, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// A response code of [`Code`].
    pub code: Code,
    /// Content-Format of the payload.
    pub content_format: Option<u16>,
    /// Observe: the sequence number of a notification, 24 bit. In a response that is to be sent,
    /// `Some` (of any value) accepts the observation and the message layer numbers it.
    pub observe: Option<u32>,
    /// Location-Path segments.
    pub location: Vec<String>,
    /// Max-Age in seconds.
    pub max_age: Option<u32>,
    /// The body.
    pub payload: Vec<u8>,
}

impl Response {
    /// A response with nothing but a code.
    pub const fn new(code: Code) -> Self {
        Self {
            code,
            content_format: None,
            observe: None,
            location: Vec::new(),
            max_age: None,
            payload: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_shown_as_the_rfc_writes_them() {
        assert_eq!(Code::METHOD_NOT_ALLOWED.to_string(), "4.05");
        assert_eq!(Code::CONTINUE.to_string(), "2.31");
        assert_eq!(Code::GET.to_string(), "0.01");
        assert_eq!(
            format!("{:?}", Code::UNSUPPORTED_CONTENT_FORMAT),
            "4.15 Unsupported Content-Format"
        );
    }

    #[test]
    fn a_token_holds_up_to_eight_bytes() {
        assert_eq!(Token::new(&[]).unwrap().as_bytes(), &[] as &[u8]);
        assert_eq!(Token::new(&[1; 8]).unwrap().as_bytes(), &[1; 8]);
        assert_eq!(Token::new(&[1; 9]), None);
    }
}
