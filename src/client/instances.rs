//! Create and Delete (LwM2M Core 1.1 §6.3.6, §6.3.7).

use std::collections::BTreeMap;

use crate::client::access::is_hidden;
use crate::client::tree::{Content, Instance, Tree};
use crate::coap::Code;
use crate::lwm2m::codec::{self, Context, Decoded};
use crate::lwm2m::path::MAX_ID;
use crate::lwm2m::{ContentFormat, Id, Level, Path, Record};
use crate::time::UnixTime;

/// The most instances of an object that a server creates.
const INSTANCES_MAX: usize = 64;

/// Create. Returns the instance, and whether its number is our choice.
///
/// Only objects that have a model for new instances are created in. Values of resources that
/// cannot be written, or that the model does not have, are passed over.
pub(super) fn create(
    tree: &mut Tree,
    object: Id,
    format: ContentFormat,
    payload: &[u8],
    now: UnixTime,
) -> Result<(Path, bool), Code> {
    let known = tree.objects().get(&object).ok_or(Code::NOT_FOUND)?;
    let model = known.model.clone().ok_or(Code::METHOD_NOT_ALLOWED)?;
    if known.instances.len() >= INSTANCES_MAX {
        return Err(Code::SERVICE_UNAVAILABLE);
    }
    let taken = |id: &Id| known.instances.contains_key(id);
    let free = (0..MAX_ID).find(|id| !taken(id));
    let free = Path::instance(object, free.ok_or(Code::BAD_REQUEST)?);
    if !codec::can_decode(format) {
        return Err(Code::UNSUPPORTED_CONTENT_FORMAT);
    }
    let read = |base: Path| {
        let mut records = Vec::new();
        let context = Context {
            base,
            alternate: None,
            now,
            types: tree,
        };
        codec::decode(format, payload, &context, &mut records)
            .and_then(Decoded::complete)
            .map(|()| records)
    };
    let named = read(Path::object(object)).ok();
    let named = named.filter(|records| !records.is_empty());
    let (records, ours) = match named {
        Some(records) => (records, false),
        None => (read(free).map_err(|_| Code::BAD_REQUEST)?, true),
    };
    let path = match records.first() {
        Some(first) => first.path.truncate(2),
        None => free,
    };
    let instance = path.instance_id().filter(|id| !taken(id));
    let instance = instance.ok_or(Code::BAD_REQUEST)?;
    let resources = filled(model, path, records)?;
    let version = known.version;
    tree.insert(object, version, instance, resources);
    Ok((path, ours))
}

/// The model of an instance with values; 4.00 where a mandatory one is missing or a value is none.
fn filled(mut model: Instance, path: Path, records: Vec<Record>) -> Result<Instance, Code> {
    // In a tree of its own, so that values are admitted as everywhere.
    let mut given: BTreeMap<Path, Record> = BTreeMap::new();
    for record in records {
        if !path.contains(&record.path) || given.insert(record.path, record).is_some() {
            return Err(Code::BAD_REQUEST);
        }
    }
    for (_, Record { path, value, .. }) in given {
        let resource = path.resource_id().and_then(|id| model.get_mut(&id));
        let Some(resource) = resource.filter(|resource| resource.operations.write) else {
            continue;
        };
        let value = resource
            .data_type
            .and_then(|data_type| value.coerce(data_type).ok())
            .filter(|value| resource.admits(value))
            .ok_or(Code::BAD_REQUEST)?;
        match (&mut resource.content, path.resource_instance_id()) {
            (Content::Single(held), None) => *held = Some(value),
            (Content::Multiple(held), Some(index)) => _ = held.insert(index, value),
            _ => return Err(Code::BAD_REQUEST),
        }
    }
    let is_missing = |content: &Content| match content {
        Content::Executable => false,
        Content::Single(value) => value.is_none(),
        Content::Multiple(values) => values.is_empty(),
    };
    let mut resources = model.values();
    match resources.any(|resource| resource.mandatory && is_missing(&resource.content)) {
        true => Err(Code::BAD_REQUEST),
        false => Ok(model),
    }
}

/// Delete, of an instance of an object that instances are created in, or of a resource instance.
pub(super) fn delete(tree: &mut Tree, path: &Path) -> Result<(), Code> {
    if path.object_id().is_some_and(is_hidden) {
        return Err(Code::UNAUTHORIZED);
    }
    tree.require(path)?;
    match path.level() {
        Level::ResourceInstance => {
            let resource = tree.resource(path).ok_or(Code::NOT_FOUND)?;
            if !resource.operations.write {
                return Err(Code::METHOD_NOT_ALLOWED);
            }
            tree.clear(path);
            Ok(())
        }
        Level::Instance => {
            let object = path.object_id().unwrap_or_default();
            let known = tree.objects().get(&object).ok_or(Code::NOT_FOUND)?;
            if known.model.is_none() {
                return Err(Code::METHOD_NOT_ALLOWED);
            }
            tree.remove(object, path.instance_id().unwrap_or_default());
            Ok(())
        }
        _ => Err(Code::METHOD_NOT_ALLOWED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tree::Resource;
    use crate::lwm2m::{DataType, Value};

    const NOW: UnixTime = UnixTime::from_millis(1_795_360_765_120);

    fn tree() -> Tree {
        let mut tree = Tree::new();
        let level = Resource::writable(Value::Integer(1)).within(0.0, 9.0);
        let model = [
            (0, Resource::vacant(DataType::String).mandatory()),
            (1, level),
            (2, Resource::readable(Value::Integer(5))),
        ];
        tree.offer(9000, None, model.into_iter().collect());
        tree.insert(3, None, 0, [(4, Resource::executable())]);
        tree
    }

    fn create(tree: &mut Tree, object: Id, payload: &str) -> Result<(String, bool), String> {
        let format = ContentFormat::SENML_JSON;
        super::create(tree, object, format, payload.as_bytes(), NOW)
            .map(|(path, ours)| (path.to_string(), ours))
            .map_err(|code| code.to_string())
    }

    // conformance: P25
    #[test]
    fn an_instance_is_created_whole_or_not_at_all() {
        let mut tree = tree();
        let whole = r#"[{"bn":"/9000/7/","n":"0","vs":"x"},{"n":"2","v":8},{"n":"99","v":1}]"#;
        assert_eq!(
            create(&mut tree, 9000, whole),
            Ok(("/9000/7".into(), false))
        );
        let value = |tree: &Tree, id| tree.value(&Path::resource(9000, 7, id)).cloned();
        assert_eq!(value(&tree, 0), Some(Value::String("x".into())));
        assert_eq!(value(&tree, 1), Some(Value::Integer(1)));
        assert_eq!(value(&tree, 2), Some(Value::Integer(5)), "not writable");
        for (object, payload, code) in [
            (9000, whole, "4.00"),
            (9000, r#"[{"n":"/9000/8/1","v":3}]"#, "4.00"),
            (
                9000,
                r#"[{"bn":"/9000/8/","n":"0","vs":"x"},{"n":"1","v":10}]"#,
                "4.00",
            ),
            (
                9000,
                r#"[{"n":"/9000/8/0","vs":"x"},{"n":"/9000/9/0","vs":"x"}]"#,
                "4.00",
            ),
            (9000, "[", "4.00"),
            (3, r#"[{"n":"/3/1/4","vs":"x"}]"#, "4.05"),
            (4, r#"[{"n":"/4/1/4","vs":"x"}]"#, "4.04"),
        ] {
            assert_eq!(
                create(&mut tree, object, payload),
                Err(code.into()),
                "{payload}"
            );
        }
        assert!(!tree.contains(&Path::instance(9000, 8)));
    }

    #[test]
    fn an_instance_without_a_number_gets_the_lowest_that_is_free() {
        let mut tree = tree();
        let format = ContentFormat::TLV;
        for expected in ["/9000/0", "/9000/1"] {
            let (path, ours) = super::create(&mut tree, 9000, format, b"\xc1\x00x", NOW).unwrap();
            assert_eq!((path.to_string().as_str(), ours), (expected, true));
        }
    }

    // conformance: 1.1-int-685
    #[test]
    fn what_was_created_is_deleted_and_nothing_else() {
        let mut tree = tree();
        create(&mut tree, 9000, r#"[{"n":"/9000/7/0","vs":"x"}]"#).unwrap();
        for (path, code) in [
            ("/9000/6", Some("4.04")),
            ("/3/0", Some("4.05")),
            ("/9000/7/0", Some("4.05")),
            ("/9000/7", None),
            ("/9000/7", Some("4.04")),
        ] {
            let deleted = delete(&mut tree, &path.parse().unwrap());
            let deleted = deleted.err().map(|code| code.to_string());
            assert_eq!(deleted.as_deref(), code, "{path}");
        }
    }
}
