//! The options that we know, read and written (RFC 7252 §5.10, RFC 7641, RFC 7959, RFC 9175).

use std::fmt;

use crate::coap::block::Block;
use crate::coap::types::{Code, Observe, Request, Response};

/// Numbers of the options that we know.
mod number {
    pub(super) const URI_HOST: u16 = 3;
    pub(super) const ETAG: u16 = 4;
    pub(super) const OBSERVE: u16 = 6;
    pub(super) const URI_PORT: u16 = 7;
    pub(super) const LOCATION_PATH: u16 = 8;
    pub(super) const URI_PATH: u16 = 11;
    pub(super) const CONTENT_FORMAT: u16 = 12;
    pub(super) const MAX_AGE: u16 = 14;
    pub(super) const URI_QUERY: u16 = 15;
    pub(super) const ACCEPT: u16 = 17;
    pub(super) const BLOCK2: u16 = 23;
    pub(super) const BLOCK1: u16 = 27;
    pub(super) const SIZE2: u16 = 28;
    pub(super) const PROXY_URI: u16 = 35;
    pub(super) const PROXY_SCHEME: u16 = 39;
    pub(super) const SIZE1: u16 = 60;
    pub(super) const REQUEST_TAG: u16 = 292;
}

/// What the options of a message say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) uri_path: Vec<String>,
    pub(super) uri_query: Vec<String>,
    pub(super) location_path: Vec<String>,
    pub(super) content_format: Option<u16>,
    pub(super) accept: Option<u16>,
    pub(super) observe: Option<u32>,
    pub(super) max_age: Option<u32>,
    pub(super) etag: Option<Tag>,
    pub(super) block1: Option<Block>,
    pub(super) block2: Option<Block>,
    pub(super) size1: Option<u32>,
    pub(super) size2: Option<u32>,
    pub(super) request_tag: Vec<Tag>,
    /// There was a Uri-Host; there may be one.
    pub(super) uri_host: bool,
    /// There was a Uri-Port; there may be one.
    pub(super) uri_port: bool,
}

/// An ETag (1 to 8 bytes) or a Request-Tag (0 to 8 bytes).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag {
    length: u8,
    bytes: [u8; 8],
}

/// Why a message with these options cannot be used. Faults of elective options are not among them:
/// those options are ignored (RFC 7252 §5.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OptionFault {
    /// A critical option that we do not know, or that may not be repeated, or whose length is out
    /// of range (RFC 7252 §5.4.1, §5.4.3, §5.4.5).
    Critical(u16),
    /// A path or query that is not UTF-8 (RFC 7252 §5.10.1).
    NotUtf8(u16),
    /// SZX 7 (RFC 7959 §2.2).
    ReservedBlockSize(u16),
    /// Proxy-Uri or Proxy-Scheme: we are no proxy (RFC 7252 §5.10.2).
    Proxy,
}

impl Options {
    /// The options of a request, without those of block-wise transfer.
    pub(super) fn of_request(request: &Request) -> Self {
        Self {
            uri_path: request.path.clone(),
            uri_query: request.query.clone(),
            content_format: request.content_format,
            accept: request.accept,
            observe: request.observe.map(|observe| match observe {
                Observe::Register => 0,
                Observe::Deregister => 1,
            }),
            ..Self::default()
        }
    }

    /// The options of a response, without Observe and those of block-wise transfer.
    pub(super) fn of_response(response: &Response) -> Self {
        Self {
            location_path: response.location.clone(),
            content_format: response.content_format,
            max_age: response.max_age,
            ..Self::default()
        }
    }

    /// The request that these options make with a method and a body.
    pub(super) fn into_request(self, method: Code, payload: Vec<u8>) -> Request {
        Request {
            method,
            path: self.uri_path,
            query: self.uri_query,
            content_format: self.content_format,
            accept: self.accept,
            observe: match self.observe {
                Some(0) => Some(Observe::Register),
                Some(1) => Some(Observe::Deregister),
                _ => None,
            },
            payload,
        }
    }

    /// The response that these options make with a code and a body.
    pub(super) fn into_response(self, code: Code, payload: Vec<u8>) -> Response {
        Response {
            code,
            content_format: self.content_format,
            observe: self.observe,
            location: self.location_path,
            max_age: self.max_age,
            payload,
        }
    }

    /// The bytes of the texts, about.
    pub(super) fn weight(&self) -> usize {
        [&self.uri_path, &self.uri_query, &self.location_path]
            .into_iter()
            .flatten()
            .map(|text| text.len() + size_of::<String>())
            .sum()
    }

    /// Takes in one option as it stood in the message.
    pub(super) fn take(&mut self, option: u16, value: &[u8]) -> Result<(), OptionFault> {
        use number as n;
        match option {
            n::URI_PATH => text(option, value, &mut self.uri_path),
            n::URI_QUERY => text(option, value, &mut self.uri_query),
            n::ACCEPT => critical(option, short(value), &mut self.accept),
            n::BLOCK1 => critical(option, block(option, value)?, &mut self.block1),
            n::BLOCK2 => critical(option, block(option, value)?, &mut self.block2),
            // Who we are is the shell's to know: one host, one port, whatever they are called.
            n::URI_HOST if (1..=255).contains(&value.len()) => once(option, &mut self.uri_host),
            n::URI_PORT if value.len() <= 2 => once(option, &mut self.uri_port),
            n::PROXY_URI | n::PROXY_SCHEME => Err(OptionFault::Proxy),
            n::LOCATION_PATH => {
                if let Ok(segment) = str::from_utf8(value) {
                    self.location_path.push(segment.to_owned());
                }
                Ok(())
            }
            n::CONTENT_FORMAT => elective(short(value), &mut self.content_format),
            n::OBSERVE => elective(uint(value).filter(|_| value.len() <= 3), &mut self.observe),
            n::MAX_AGE => elective(uint(value), &mut self.max_age),
            n::ETAG => elective(
                Tag::new(value).filter(|_| !value.is_empty()),
                &mut self.etag,
            ),
            n::SIZE1 => elective(uint(value), &mut self.size1),
            n::SIZE2 => elective(uint(value), &mut self.size2),
            n::REQUEST_TAG => {
                self.request_tag.extend(Tag::new(value));
                Ok(())
            }
            // Odd numbers are critical (RFC 7252 §5.4.6).
            _ if option & 1 == 1 => Err(OptionFault::Critical(option)),
            _ => Ok(()),
        }
    }

    /// Hands over each option that is set, in any order, values of one option in theirs.
    pub(super) fn each(&self, mut write: impl FnMut(u16, Vec<u8>)) {
        use number as n;
        for (option, texts) in [
            (n::LOCATION_PATH, &self.location_path),
            (n::URI_PATH, &self.uri_path),
            (n::URI_QUERY, &self.uri_query),
        ] {
            for text in texts {
                write(option, text.clone().into_bytes());
            }
        }
        for (option, value) in [
            (n::OBSERVE, self.observe),
            (n::CONTENT_FORMAT, self.content_format.map(u32::from)),
            (n::MAX_AGE, self.max_age),
            (n::ACCEPT, self.accept.map(u32::from)),
            (n::BLOCK2, self.block2.map(Block::value)),
            (n::BLOCK1, self.block1.map(Block::value)),
            (n::SIZE2, self.size2),
            (n::SIZE1, self.size1),
        ] {
            if let Some(value) = value {
                write(option, uint_bytes(value));
            }
        }
        for (option, tags) in [
            (n::ETAG, self.etag.as_slice()),
            (n::REQUEST_TAG, &self.request_tag),
        ] {
            for tag in tags {
                write(option, tag.as_bytes().to_vec());
            }
        }
    }
}

impl OptionFault {
    /// The code of the response to a confirmable request with this fault.
    pub(super) fn code(self) -> Code {
        match self {
            Self::Critical(_) | Self::NotUtf8(_) => Code::BAD_OPTION,
            Self::ReservedBlockSize(_) => Code::BAD_REQUEST,
            // 5.05 Proxying Not Supported
            Self::Proxy => Code::response(5, 5),
        }
    }
}

/// The diagnostic payload of the response (RFC 7252 §5.5.2).
impl fmt::Display for OptionFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Critical(option) => write!(f, "option {option} not understood"),
            Self::NotUtf8(option) => write!(f, "option {option} is not UTF-8"),
            Self::ReservedBlockSize(option) => write!(f, "option {option} with reserved SZX 7"),
            Self::Proxy => f.write_str("not a proxy"),
        }
    }
}

impl Tag {
    /// `None` when there are more than 8 bytes.
    pub(super) fn new(value: &[u8]) -> Option<Self> {
        let mut bytes = [0; 8];
        bytes.get_mut(..value.len())?.copy_from_slice(value);
        Some(Self {
            length: value.len() as u8,
            bytes,
        })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Reads a uint of 0 to 4 bytes (RFC 7252 §3.2); leading zeros are allowed.
pub(super) fn uint(value: &[u8]) -> Option<u32> {
    (value.len() <= 4).then(|| {
        value
            .iter()
            .fold(0, |sum, byte| sum << 8 | u32::from(*byte))
    })
}

/// Writes a uint in the fewest bytes: none for 0.
fn uint_bytes(value: u32) -> Vec<u8> {
    let zeros = value.leading_zeros() as usize / 8;
    value.to_be_bytes()[zeros..].to_vec()
}

/// Reads a uint of 0 to 2 bytes.
fn short(value: &[u8]) -> Option<u16> {
    uint(value)
        .filter(|_| value.len() <= 2)
        .and_then(|value| u16::try_from(value).ok())
}

fn block(option: u16, value: &[u8]) -> Result<Option<Block>, OptionFault> {
    Block::parse(value)
        .transpose()
        .map_err(|_| OptionFault::ReservedBlockSize(option))
}

/// A critical option that may stand once.
fn critical<T>(option: u16, value: Option<T>, slot: &mut Option<T>) -> Result<(), OptionFault> {
    match value {
        Some(value) if slot.is_none() => {
            *slot = Some(value);
            Ok(())
        }
        _ => Err(OptionFault::Critical(option)),
    }
}

/// An elective option: the first good one counts, what is wrong is ignored.
fn elective<T>(value: Option<T>, slot: &mut Option<T>) -> Result<(), OptionFault> {
    if slot.is_none() {
        *slot = value;
    }
    Ok(())
}

fn once(option: u16, seen: &mut bool) -> Result<(), OptionFault> {
    if std::mem::replace(seen, true) {
        return Err(OptionFault::Critical(option));
    }
    Ok(())
}

/// One segment or argument, at most 255 bytes.
fn text(option: u16, value: &[u8], list: &mut Vec<String>) -> Result<(), OptionFault> {
    if value.len() > 255 {
        return Err(OptionFault::Critical(option));
    }
    let text = str::from_utf8(value).map_err(|_| OptionFault::NotUtf8(option))?;
    list.push(text.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // conformance: P10
    #[test]
    fn content_format_0_is_an_option_of_no_length_and_not_no_option() {
        let options = Options {
            content_format: Some(0),
            ..Options::default()
        };
        let mut written = Vec::new();
        options.each(|option, value| written.push((option, value)));
        assert_eq!(written, [(number::CONTENT_FORMAT, vec![])]);

        let mut read = Options::default();
        read.take(number::CONTENT_FORMAT, &[]).unwrap();
        assert_eq!(read.content_format, Some(0));
    }

    #[test]
    fn numbers_take_the_fewest_bytes() {
        for (value, length) in [
            (0, 0),
            (1, 1),
            (255, 1),
            (256, 2),
            (65_536, 3),
            (u32::MAX, 4),
        ] {
            let bytes = uint_bytes(value);
            assert_eq!(bytes.len(), length);
            assert_eq!(uint(&bytes), Some(value));
        }
        assert_eq!(uint(&[0, 0, 0, 0, 1]), None);
    }

    #[test]
    fn critical_faults_are_found_and_elective_ones_ignored() {
        let cases: [(u16, &[u8], OptionFault); 8] = [
            (9, b"", OptionFault::Critical(9)),
            (1, b"", OptionFault::Critical(1)),
            (2049, b"x", OptionFault::Critical(2049)),
            (
                number::ACCEPT,
                &[0, 0, 1],
                OptionFault::Critical(number::ACCEPT),
            ),
            (
                number::URI_HOST,
                b"",
                OptionFault::Critical(number::URI_HOST),
            ),
            (
                number::URI_PATH,
                &[0xc3],
                OptionFault::NotUtf8(number::URI_PATH),
            ),
            (
                number::BLOCK1,
                &[7],
                OptionFault::ReservedBlockSize(number::BLOCK1),
            ),
            (number::PROXY_SCHEME, b"coap", OptionFault::Proxy),
        ];
        for (option, value, fault) in cases {
            assert_eq!(Options::default().take(option, value), Err(fault));
        }
        for (option, value) in [
            (number::OBSERVE, &[0; 4][..]),
            (number::CONTENT_FORMAT, &[0; 3]),
            (number::ETAG, &[]),
            (number::MAX_AGE, &[0; 5]),
            (2048, b"x"),
        ] {
            let mut options = Options::default();
            assert_eq!(options.take(option, value), Ok(()));
            assert_eq!(options, Options::default());
        }
    }

    #[test]
    fn a_repeated_critical_option_is_a_fault_and_a_repeated_elective_one_is_ignored() {
        for (option, value) in [
            (number::URI_HOST, &b"h"[..]),
            (number::URI_PORT, &[22]),
            (number::ACCEPT, &[40]),
            (number::BLOCK2, &[6]),
        ] {
            let mut options = Options::default();
            options.take(option, value).unwrap();
            assert_eq!(
                options.take(option, value),
                Err(OptionFault::Critical(option))
            );
        }
        let mut options = Options::default();
        options.take(number::OBSERVE, &[1]).unwrap();
        options.take(number::OBSERVE, &[2]).unwrap();
        assert_eq!(options.observe, Some(1));
    }
}
