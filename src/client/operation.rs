//! Which LwM2M operation a CoAP request is (LwM2M Transport 1.1 §6.4).

use crate::coap::{Code, Observe, Request};
use crate::lwm2m::{Arguments, ContentFormat, Id, Level, Path};

/// An operation of the device management or the information reporting interface.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operation<'a> {
    /// Read, with what it accepts.
    Read(Path, Option<ContentFormat>),
    /// Discover, to this depth below the node (LwM2M Core 1.2 §6.3.2).
    Discover(Path, Option<u8>),
    /// Observe, with the attributes that it brings (LwM2M Core 1.2 §6.4.1).
    Observe(Path, Option<ContentFormat>, &'a [String]),
    /// Cancel Observation; answered like a Read.
    CancelObservation(Path, Option<ContentFormat>),
    /// Write, replacing all of the node or only what the payload names.
    Write(Path, ContentFormat, Mode),
    /// Write-Attributes, as it stands in the query.
    WriteAttributes(Path, &'a [String]),
    /// Execute.
    Execute(Path, Arguments),
    /// Create, in the format of the payload.
    Create(Id, ContentFormat),
    /// Delete.
    Delete(Path),
    /// Read-Composite, Observe-Composite or Cancel-Composite: the format of the paths, what it
    /// accepts, and whether it observes.
    Fetch(
        ContentFormat,
        Option<ContentFormat>,
        Option<Observe>,
        &'a [String],
    ),
    /// Write-Composite, in the format of the payload.
    Patch(ContentFormat),
}

/// What a Write does to what it does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// PUT: it goes.
    Replace,
    /// POST: it stays.
    Partial,
}

impl Operation<'_> {
    /// The node that is meant.
    pub(super) fn path(&self) -> Path {
        *match self {
            Self::Create(object, _) => return Path::object(*object),
            Self::Fetch(..) | Self::Patch(_) => return Path::ROOT,
            Self::Read(path, _)
            | Self::Discover(path, _)
            | Self::Observe(path, _, _)
            | Self::CancelObservation(path, _)
            | Self::Write(path, _, _)
            | Self::WriteAttributes(path, _)
            | Self::Execute(path, _)
            | Self::Delete(path) => path,
        }
    }
}

/// Finds the operation by method, depth of the path and Content-Format.
///
/// # Errors
/// The code to answer with: 4.04 for what is no path, 4.05 for what the interface does not have
/// there, 4.15 for a payload in a format that the operation does not take, 4.00 for the rest.
pub(super) fn parse(request: &Request) -> Result<Operation<'_>, Code> {
    let path = path(&request.path).ok_or(Code::NOT_FOUND)?;
    let accept = request.accept.map(ContentFormat);
    match request.method {
        Code::FETCH | Code::IPATCH => composite(path, request),
        _ if path == Path::ROOT => Err(Code::METHOD_NOT_ALLOWED),
        Code::GET if accept == Some(ContentFormat::LINK_FORMAT) => discover(path, &request.query),
        Code::GET => Ok(match request.observe {
            None => Operation::Read(path, accept),
            Some(Observe::Register) => Operation::Observe(path, accept, &request.query),
            Some(Observe::Deregister) => Operation::CancelObservation(path, accept),
        }),
        Code::PUT => put(path, request),
        Code::POST => post(path, request),
        Code::DELETE if matches!(path.level(), Level::Instance | Level::ResourceInstance) => {
            Ok(Operation::Delete(path))
        }
        _ => Err(Code::METHOD_NOT_ALLOWED),
    }
}

fn path(segments: &[String]) -> Option<Path> {
    let mut path = Path::ROOT;
    for segment in segments {
        let id: Id = segment.parse().ok()?;
        // "+3" and "03" are other names, not other spellings
        if id.to_string() != *segment {
            return None;
        }
        path = path.child(id)?;
    }
    Some(path)
}

fn discover(path: Path, query: &[String]) -> Result<Operation<'static>, Code> {
    if path.level() == Level::ResourceInstance {
        return Err(Code::METHOD_NOT_ALLOWED);
    }
    let depth = query.iter().find_map(|query| query.strip_prefix("depth="));
    match depth.map(str::parse) {
        None => Ok(Operation::Discover(path, None)),
        Some(Ok(depth @ 0..=3)) => Ok(Operation::Discover(path, Some(depth))),
        Some(_) => Err(Code::BAD_REQUEST),
    }
}

/// Composite operations are at the root, and their body says in what format it is.
fn composite(path: Path, request: &Request) -> Result<Operation<'_>, Code> {
    if path != Path::ROOT {
        return Err(Code::METHOD_NOT_ALLOWED);
    }
    let format = request.content_format.map(ContentFormat);
    let format = format.ok_or(Code::BAD_REQUEST)?;
    let accept = request.accept.map(ContentFormat);
    Ok(match request.method {
        Code::FETCH => Operation::Fetch(format, accept, request.observe, &request.query),
        _ => Operation::Patch(format),
    })
}

fn put(path: Path, request: &Request) -> Result<Operation<'_>, Code> {
    match request.content_format.map(ContentFormat) {
        None if request.payload.is_empty() && !request.query.is_empty() => {
            Ok(Operation::WriteAttributes(path, &request.query))
        }
        None => Err(Code::BAD_REQUEST),
        Some(_) if path.level() == Level::Object => Err(Code::METHOD_NOT_ALLOWED),
        Some(format) => write(path, format, Mode::Replace),
    }
}

fn post(path: Path, request: &Request) -> Result<Operation<'_>, Code> {
    match (path.level(), request.content_format.map(ContentFormat)) {
        (Level::Object, Some(format)) => match path.object_id() {
            Some(object) if !is_single_value(format) => Ok(Operation::Create(object, format)),
            _ => Err(Code::UNSUPPORTED_CONTENT_FORMAT),
        },
        (Level::Object, None) => Err(Code::BAD_REQUEST),
        (Level::Instance, Some(format)) => write(path, format, Mode::Partial),
        (Level::Instance, None) => Err(Code::BAD_REQUEST),
        (Level::Resource, None | Some(ContentFormat::TEXT)) => execute(path, request),
        (Level::Resource, Some(format)) if !is_single_value(format) => {
            write(path, format, Mode::Partial)
        }
        (Level::Resource, Some(_)) => Err(Code::UNSUPPORTED_CONTENT_FORMAT),
        _ => Err(Code::METHOD_NOT_ALLOWED),
    }
}

fn write(path: Path, format: ContentFormat, mode: Mode) -> Result<Operation<'static>, Code> {
    match path.level() == Level::Instance && is_single_value(format) {
        true => Err(Code::UNSUPPORTED_CONTENT_FORMAT),
        false => Ok(Operation::Write(path, format, mode)),
    }
}

/// Arguments come as text; the specification also shows `?0=U` in the query.
fn execute(path: Path, request: &Request) -> Result<Operation<'_>, Code> {
    let text = std::str::from_utf8(&request.payload).map_err(|_| Code::BAD_REQUEST)?;
    let mut arguments = Arguments::parse(text).ok_or(Code::BAD_REQUEST)?;
    if arguments.is_empty() {
        for query in &request.query {
            let (digit, value) = match query.split_once('=') {
                Some((digit, value)) => (digit, Some(value.trim_matches('\'').to_owned())),
                None => (query.as_str(), None),
            };
            let digit = digit.parse().map_err(|_| Code::BAD_REQUEST)?;
            arguments.add(digit, value).ok_or(Code::BAD_REQUEST)?;
        }
    }
    Ok(Operation::Execute(path, arguments))
}

/// Whether a format carries exactly one value, so never an instance (LwM2M Core 1.1 §7.4).
pub(super) fn is_single_value(format: ContentFormat) -> bool {
    matches!(
        format,
        ContentFormat::TEXT | ContentFormat::OPAQUE | ContentFormat::CBOR
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Code, path: &str, format: Option<ContentFormat>) -> Request {
        let mut request = Request::new(method, path.split('/').filter(|part| !part.is_empty()));
        request.content_format = format.map(|format| format.0);
        request
    }

    /// The operation's name, or the code it is refused with.
    fn name(request: &Request) -> String {
        match parse(request) {
            Err(code) => code.to_string(),
            Ok(operation) => format!("{operation:?}")
                .split('(')
                .next()
                .unwrap()
                .to_owned(),
        }
    }

    #[test]
    fn the_operation_follows_from_method_path_and_content_format() {
        use ContentFormat as F;
        for (method, path, format, expected) in [
            (Code::GET, "/3", None, "Read"),
            (Code::GET, "/3/0/6/0", None, "Read"),
            (Code::GET, "/", None, "4.05"),
            (Code::GET, "/rd", None, "4.04"),
            (Code::GET, "/03", None, "4.04"),
            (Code::GET, "/1/2/3/4/5", None, "4.04"),
            (Code::PUT, "/3/0", Some(F::TLV), "Write"),
            (Code::PUT, "/3/0", Some(F::TEXT), "4.15"),
            (Code::PUT, "/3/0/14", Some(F::TEXT), "Write"),
            (Code::PUT, "/3/0/14", None, "4.00"),
            (Code::PUT, "/3", Some(F::TLV), "4.05"),
            (Code::POST, "/3", Some(F::TLV), "Create"),
            (Code::POST, "/3", Some(F::TEXT), "4.15"),
            (Code::POST, "/3/0", Some(F::SENML_CBOR), "Write"),
            (Code::POST, "/3/0/4", None, "Execute"),
            (Code::POST, "/3/0/4", Some(F::TEXT), "Execute"),
            (Code::POST, "/3/0/6", Some(F::TLV), "Write"),
            (Code::POST, "/3/0/6", Some(F::OPAQUE), "4.15"),
            (Code::POST, "/3/0/6/0", Some(F::TLV), "4.05"),
            (Code::DELETE, "/3/0", None, "Delete"),
            (Code::DELETE, "/3/0/6/0", None, "Delete"),
            (Code::DELETE, "/3/0/6", None, "4.05"),
            (Code::FETCH, "/", Some(F::SENML_CBOR), "Fetch"),
            (Code::FETCH, "/3", Some(F::SENML_CBOR), "4.05"),
            (Code::FETCH, "/", None, "4.00"),
            (Code::IPATCH, "/", Some(F::SENML_CBOR), "Patch"),
        ] {
            assert_eq!(
                name(&request(method, path, format)),
                expected,
                "{method:?} {path} {format:?}"
            );
        }
    }

    #[test]
    fn a_put_with_a_query_and_nothing_else_writes_attributes() {
        let mut put = request(Code::PUT, "/3303/0/5700", None);
        put.query = vec!["pmin=5".into()];
        assert_eq!(name(&put), "WriteAttributes");
        put.payload = vec![1];
        assert_eq!(name(&put), "4.00");
    }

    #[test]
    fn accept_link_format_is_discover_whatever_observe_says() {
        let mut get = request(Code::GET, "/3", None);
        get.accept = Some(40);
        get.observe = Some(Observe::Register);
        assert_eq!(name(&get), "Discover");
        get.query = vec!["depth=9".into()];
        assert_eq!(name(&get), "4.00");
    }
}
