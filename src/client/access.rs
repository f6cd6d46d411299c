//! Read and Discover, and which formats are written (LwM2M Core 1.1 §6.3.1, §6.3.2, §7.4).

use std::collections::BTreeSet;

use crate::client::reporting::Reporting;
use crate::client::tree::{Content, Instance, Refusal, Tree};
use crate::coap::{Code, Response};
use crate::lwm2m::codec::{self, Context};
use crate::lwm2m::link::Link;
use crate::lwm2m::{ContentFormat, Id, Level, Path, Record, Target, Value, Version};
use crate::time::UnixTime;

impl From<Refusal> for Code {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound => Self::NOT_FOUND,
            Refusal::NotAllowed => Self::METHOD_NOT_ALLOWED,
            Refusal::BadValue => Self::BAD_REQUEST,
        }
    }
}

/// Which formats the client writes, the preferred one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formats {
    structured: Vec<ContentFormat>,
}

impl Default for Formats {
    /// SenML CBOR, SenML JSON, TLV, LwM2M CBOR. Not the last first, for it has no times.
    fn default() -> Self {
        Self {
            structured: vec![
                ContentFormat::SENML_CBOR,
                ContentFormat::SENML_JSON,
                ContentFormat::TLV,
                ContentFormat::LWM2M_CBOR,
            ],
        }
    }
}

impl Formats {
    /// One format for everything that has structure, beside text and opaque.
    pub fn only(format: ContentFormat) -> Self {
        Self {
            structured: vec![format],
        }
    }

    /// What a server of this version can be given: one of 1.0 knows TLV only, and LwM2M CBOR came
    /// with 1.2.
    fn of(&self, version: Version) -> Vec<ContentFormat> {
        if version < Version::V1_1 {
            return vec![ContentFormat::TLV];
        }
        let mut formats = self.structured.clone();
        formats.retain(|format| *format != ContentFormat::LWM2M_CBOR || version >= Version::V1_2);
        formats
    }

    /// The value of `ct` on the root link of a registration.
    pub(super) fn advertised(&self, version: Version) -> String {
        let mut numbers: Vec<u16> = self.of(version).iter().map(|format| format.0).collect();
        if version >= Version::V1_1 {
            numbers.push(ContentFormat::CBOR.0);
        }
        numbers.sort_unstable();
        let numbers: Vec<String> = numbers.iter().map(u16::to_string).collect();
        numbers.join(" ")
    }

    /// What to answer in. Without Accept it is our choice: for one value a 1.0 server expects
    /// text (or opaque), later ones take what they take for everything else.
    fn choose(
        &self,
        version: Version,
        path: &Path,
        records: &[Record],
        accept: Option<ContentFormat>,
    ) -> Result<ContentFormat, Code> {
        let structured = self.of(version);
        // a format of one value needs the path of one value: a resource instance, or a resource
        // that is not an array
        let single = match records {
            [record] if record.path == *path => Some(&record.value),
            _ => None,
        };
        let plain = match single {
            Some(Value::Opaque(_)) => ContentFormat::OPAQUE,
            _ => ContentFormat::TEXT,
        };
        match accept {
            None if single.is_some() && version < Version::V1_1 => Ok(plain),
            None => structured.first().copied().ok_or(Code::NOT_ACCEPTABLE),
            Some(format) if structured.contains(&format) => Ok(format),
            Some(format) if single.is_some() && format == plain => Ok(format),
            // base64 is the text form of bytes
            Some(ContentFormat::TEXT) if single.is_some() => Ok(ContentFormat::TEXT),
            Some(ContentFormat::CBOR) if single.is_some() && version >= Version::V1_1 => {
                Ok(ContentFormat::CBOR)
            }
            Some(_) => Err(Code::NOT_ACCEPTABLE),
        }
    }
}

impl Formats {
    /// What to answer a composite operation in: TLV has no place for several objects.
    fn choose_composite(
        &self,
        version: Version,
        accept: Option<ContentFormat>,
    ) -> Result<ContentFormat, Code> {
        let formats = self.of(version).into_iter();
        formats
            .filter(|format| *format != ContentFormat::TLV)
            .find(|format| accept.is_none_or(|accept| accept == *format))
            .ok_or(Code::NOT_ACCEPTABLE)
    }
}

/// Objects whose content no server of the device management interface sees
/// (LwM2M Core 1.2 §6.3): Security, OSCORE and COSE.
pub(super) fn is_hidden(object: Id) -> bool {
    matches!(object, 0 | 21 | 23)
}

/// Read: the values at and below a node, in a format of the server's or our own choice.
pub(super) fn read(
    tree: &Tree,
    formats: &Formats,
    version: Version,
    target: &Target,
    accept: Option<ContentFormat>,
    now: UnixTime,
) -> Result<Response, Code> {
    let mut records = Vec::new();
    let format = match target {
        Target::Node(path) => {
            tree.read(path, &mut records)?;
            formats.choose(version, path, &records, accept)?
        }
        Target::Composite(paths) => {
            read_all(tree, paths, &mut records);
            formats.choose_composite(version, accept)?
        }
    };
    let context = Context {
        base: target.base(),
        alternate: None,
        now,
        types: tree,
    };
    let payload =
        codec::encode(format, &records, &context).map_err(|_| Code::INTERNAL_SERVER_ERROR)?;
    let mut response = Response::new(Code::CONTENT);
    response.content_format = Some(format.0);
    response.payload = payload;
    Ok(response)
}

/// Read-Composite: what is not there or cannot be read is left out, and hidden objects are
/// (LwM2M Core 1.1 §6.3.8).
fn read_all(tree: &Tree, paths: &[Path], records: &mut Vec<Record>) {
    for path in paths {
        let objects: Vec<Path> = match path.level() {
            Level::Root => tree.objects().keys().map(|id| Path::object(*id)).collect(),
            _ => vec![*path],
        };
        for path in objects {
            if !path.object_id().is_some_and(is_hidden) {
                // Why one cannot be read is not said.
                let _ = tree.read(&path, records);
            }
        }
    }
    let mut seen = BTreeSet::new();
    records.retain(|record| seen.insert(record.path));
}

/// Discover: which nodes there are, with the attributes of the server that asks.
///
/// A resource shows the attributes that it inherits too, a higher node only its own
/// (LwM2M Core 1.1 §6.3.2).
pub(super) fn discover(
    tree: &Tree,
    reporting: &Reporting,
    version: Version,
    path: &Path,
    depth: Option<u8>,
) -> Result<Response, Code> {
    tree.require(path)?;
    let default = match path.level() {
        Level::Object => 2,
        _ => 1,
    };
    let deepest = path.ids().len() + usize::from(depth.unwrap_or(default));
    let mut links = Vec::new();
    let [object_id, below @ ..] = path.ids() else {
        return Err(Code::METHOD_NOT_ALLOWED);
    };
    let object = tree.objects().get(object_id).ok_or(Code::NOT_FOUND)?;
    let object_path = Path::object(*object_id);
    if below.is_empty() {
        let mut link = link(&object_path, reporting, false);
        if let Some(version) = explicit_version(*object_id, object.version, version) {
            link.attributes.push(("ver".into(), Some(version)));
        }
        links.push(link);
    }
    for (&id, instance) in &object.instances {
        let Some(instance_path) = object_path.child(id) else {
            continue;
        };
        if path.contains(&instance_path) && deepest >= 2 {
            links.push(link(&instance_path, reporting, false));
        }
        discover_resources(
            instance,
            &instance_path,
            path,
            deepest,
            reporting,
            &mut links,
        );
    }
    let payload: Vec<String> = links.iter().map(Link::to_string).collect();
    let mut response = Response::new(Code::CONTENT);
    response.content_format = Some(ContentFormat::LINK_FORMAT.0);
    response.payload = payload.join(",").into_bytes();
    Ok(response)
}

fn discover_resources(
    instance: &Instance,
    instance_path: &Path,
    asked: &Path,
    deepest: usize,
    reporting: &Reporting,
    links: &mut Vec<Link>,
) {
    for (&id, resource) in instance {
        let Some(path) = instance_path.child(id) else {
            continue;
        };
        if !asked.contains(&path) || deepest < 3 || !resource.is_present() {
            continue;
        }
        let mut link = link(&path, reporting, path == *asked);
        let Content::Multiple(values) = &resource.content else {
            links.push(link);
            continue;
        };
        let dim = ("dim".into(), Some(values.len().to_string()));
        link.attributes.insert(0, dim);
        links.push(link);
        if deepest >= 4 {
            let instances = values.keys().filter_map(|&id| path.child(id));
            links.extend(instances.map(|path| self::link(&path, reporting, false)));
        }
    }
}

fn link(path: &Path, reporting: &Reporting, inherited: bool) -> Link {
    let attributes = match inherited {
        true => reporting.inherited(path),
        false => reporting.attached(path),
    };
    let attributes = attributes.to_queries().into_iter();
    Link {
        target: path.to_string(),
        attributes: attributes
            .map(|query| match query.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (query, None),
            })
            .collect(),
    }
}

/// The version to name, if the server would think of another one.
pub(super) fn explicit_version(
    object: Id,
    version: Option<Version>,
    lwm2m: Version,
) -> Option<String> {
    version
        .filter(|version| *version != Version::implied(object, lwm2m))
        .map(|version| version.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::reporting::Defaults;
    use crate::client::tree::Resource;
    use crate::lwm2m::DataType;
    use crate::lwm2m::attributes::NotificationAttributes;

    const NOW: UnixTime = UnixTime::from_millis(1_795_360_765_120);

    fn tree() -> Tree {
        let mut tree = Tree::new();
        let values = [(0, Value::Integer(10)), (1, Value::Integer(11))];
        tree.insert(
            9000,
            None,
            0,
            [
                (0, Resource::readable(Value::Float(22.5))),
                (1, Resource::writable(Value::Integer(1))),
                (2, Resource::writable(Value::String("old".into()))),
                (3, Resource::multiple(DataType::Integer, values)),
                (4, Resource::executable()),
                (5, Resource::readable(Value::Opaque(vec![1, 2]))),
            ],
        );
        tree
    }

    fn code<T>(result: Result<T, Code>) -> String {
        result.err().map_or("done".into(), |code| code.to_string())
    }

    #[test]
    fn the_format_is_the_one_accepted_or_our_own_choice() {
        let (tree, all) = (tree(), Formats::default());
        let tlv = Formats::only(ContentFormat::TLV);
        let (v1_0, v1_1, v1_2) = (Version::V1_0, Version::V1_1, Version::V1_2);
        for (formats, version, path, accept, expected) in [
            (&all, v1_1, "/9000/0", None, Ok(112)),
            (&all, v1_0, "/9000/0", None, Ok(11542)),
            (&tlv, v1_1, "/9000/0", None, Ok(11542)),
            (&all, v1_1, "/9000/0/0", None, Ok(112)),
            (&all, v1_0, "/9000/0/0", None, Ok(0)),
            (&all, v1_0, "/9000/0/5", None, Ok(42)),
            (&all, v1_0, "/9000/0/3", None, Ok(11542)),
            (&all, v1_1, "/9000/0/0", Some(0), Ok(0)),
            (&all, v1_1, "/9000/0/3/1", Some(0), Ok(0)),
            (&all, v1_1, "/9000/0/0", Some(60), Ok(60)),
            (&all, v1_1, "/9000/0", Some(110), Ok(110)),
            (&all, v1_1, "/9000/0", Some(11542), Ok(11542)),
            (&all, v1_1, "/9000/0", Some(0), Err("4.06")),
            (&all, v1_1, "/9000/0/3", Some(0), Err("4.06")),
            (&all, v1_1, "/9000/0/0", Some(42), Err("4.06")),
            (&all, v1_1, "/9000/0", Some(11543), Err("4.06")),
            (&all, v1_1, "/9000/0", Some(11544), Err("4.06")),
            (&all, v1_2, "/9000/0", Some(11544), Ok(11544)),
            (&all, v1_2, "/9000/0", None, Ok(112)),
            (&all, v1_0, "/9000/0", Some(110), Err("4.06")),
            (&tlv, v1_1, "/9000/0", Some(112), Err("4.06")),
            (&all, v1_1, "/9000/0/4", None, Err("4.05")),
            (&all, v1_1, "/9000/1", None, Err("4.04")),
        ] {
            let path: Path = path.parse().unwrap();
            let result = read(
                &tree,
                formats,
                version,
                &path.into(),
                accept.map(ContentFormat),
                NOW,
            );
            let result = result.map(|response| response.content_format.unwrap());
            let expected = expected.map_err(str::to_owned);
            assert_eq!(
                result.map_err(|code| code.to_string()),
                expected,
                "{path} as {accept:?} for {version}"
            );
        }
    }

    #[test]
    fn discover_shows_what_there_is_to_the_depth_asked_for() {
        let tree = tree();
        let mut reporting = Reporting::default();
        for (path, query) in [("/9000/0", "pmin=5"), ("/9000/0/0", "gt=30")] {
            let attributes = NotificationAttributes::from_queries([query]).unwrap();
            reporting.attach(path.parse().unwrap(), attributes, Defaults::default());
        }
        for (path, depth, expected) in [
            (
                "/9000",
                None,
                "</9000>,</9000/0>;pmin=5,</9000/0/0>;gt=30,</9000/0/1>,</9000/0/2>,\
                 </9000/0/3>;dim=2,</9000/0/4>,</9000/0/5>",
            ),
            ("/9000", Some(0), "</9000>"),
            ("/9000", Some(1), "</9000>,</9000/0>;pmin=5"),
            ("/9000/0", Some(0), "</9000/0>;pmin=5"),
            ("/9000/0/0", None, "</9000/0/0>;pmin=5;gt=30"),
            ("/9000/0/3", Some(0), "</9000/0/3>;dim=2;pmin=5"),
            (
                "/9000/0/3",
                None,
                "</9000/0/3>;dim=2;pmin=5,</9000/0/3/0>,</9000/0/3/1>",
            ),
        ] {
            let path = path.parse().unwrap();
            let response = discover(&tree, &reporting, Version::V1_1, &path, depth).unwrap();
            let shown = String::from_utf8(response.payload).unwrap();
            assert_eq!(shown, expected, "{path} {depth:?}");
        }
        let missing = "/9000/0/77".parse().unwrap();
        let result = discover(&tree, &reporting, Version::V1_1, &missing, None);
        assert_eq!(code(result), "4.04");
    }
}
