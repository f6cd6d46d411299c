//! Write, replacing or partial: all of it or nothing (LwM2M Core 1.1 §6.3.3).

use std::collections::{BTreeMap, BTreeSet};

use crate::client::access::is_hidden;
use crate::client::operation::{Mode, is_single_value};
use crate::client::tree::{Content, Tree};
use crate::coap::Code;
use crate::lwm2m::codec::{self, Change, Context, DecodeError, Decoded};
use crate::lwm2m::{ContentFormat, Level, Path};
use crate::time::UnixTime;

/// Write: all of it or nothing. Returns the resources that were written.
pub(super) fn write(
    tree: &mut Tree,
    path: &Path,
    format: ContentFormat,
    mode: Mode,
    payload: &[u8],
    now: UnixTime,
) -> Result<BTreeSet<Path>, Code> {
    let multiple = writable_target(tree, path, mode)?;
    if !codec::can_decode(format) || (multiple && is_single_value(format)) {
        return Err(Code::UNSUPPORTED_CONTENT_FORMAT);
    }
    let mut records = Vec::new();
    let context = Context {
        base: *path,
        alternate: None,
        now,
        types: tree,
    };
    codec::decode(format, payload, &context, &mut records)
        .and_then(Decoded::complete)
        .map_err(|_| Code::BAD_REQUEST)?;

    let mut admitted = BTreeMap::new();
    for record in records {
        if !path.contains(&record.path) || record.path.ids().len() < 3 {
            return Err(Code::BAD_REQUEST);
        }
        // an instance may be written by a server that knows more resources than we have
        if path.level() == Level::Instance && tree.resource(&record.path).is_none() {
            continue;
        }
        let value = tree.admit(&record.path, record.value)?;
        if admitted.insert(record.path, value).is_some() {
            return Err(Code::BAD_REQUEST);
        }
    }
    let mut written: BTreeSet<Path> = admitted.keys().map(|path| path.truncate(3)).collect();
    match (mode, path.level()) {
        (Mode::Replace, Level::Instance) => {
            let omitted = omitted(tree, path, &written)?;
            let arrays = written.iter().filter(|path| is_array(tree, path));
            let cleared: Vec<Path> = omitted.iter().chain(arrays).copied().collect();
            cleared.iter().for_each(|path| tree.clear(path));
            written.extend(omitted);
        }
        // no record at all is the empty array
        (Mode::Replace, Level::Resource) if multiple => {
            tree.clear(path);
            written.insert(*path);
        }
        _ if admitted.is_empty() && path.level() != Level::Instance => {
            return Err(Code::BAD_REQUEST);
        }
        _ => {}
    }
    for (path, value) in admitted {
        tree.set(&path, value);
    }
    Ok(written)
}

/// Write-Composite: all of it or nothing, over all objects. Returns the resources that were
/// written.
pub(super) fn write_composite(
    tree: &mut Tree,
    format: ContentFormat,
    payload: &[u8],
    now: UnixTime,
) -> Result<BTreeSet<Path>, Code> {
    let mut changes = Vec::new();
    let context = Context {
        base: Path::ROOT,
        alternate: None,
        now,
        types: tree,
    };
    match codec::decode_changes(format, payload, &context, &mut changes).map(Decoded::complete) {
        Ok(Ok(())) => {}
        Err(DecodeError::Unsupported(_)) => return Err(Code::UNSUPPORTED_CONTENT_FORMAT),
        _ => return Err(Code::BAD_REQUEST),
    }
    let mut admitted = Vec::new();
    for Change { path, value } in changes {
        if path.object_id().is_none_or(is_hidden) {
            return Err(Code::UNAUTHORIZED);
        }
        let value = match value {
            Some(value) => Some(tree.admit(&path, value)?),
            None => {
                writable_target(tree, &path, Mode::Replace)?;
                None
            }
        };
        admitted.push((path, value));
    }
    if admitted.is_empty() {
        return Err(Code::BAD_REQUEST);
    }
    let written = admitted.iter().map(|(path, _)| path.truncate(3)).collect();
    for (path, value) in admitted {
        match value {
            Some(value) => _ = tree.set(&path, value),
            None => tree.clear(&path),
        }
    }
    Ok(written)
}

/// Whether the target is an array, after refusing targets that cannot be written at all.
fn writable_target(tree: &Tree, path: &Path, mode: Mode) -> Result<bool, Code> {
    if path.level() == Level::Instance {
        tree.require(path)?;
        return Ok(false);
    }
    let resource = tree.resource(path).ok_or(Code::NOT_FOUND)?;
    if !resource.operations.write {
        return Err(Code::METHOD_NOT_ALLOWED);
    }
    let multiple = matches!(resource.content, Content::Multiple(_));
    match path.level() {
        Level::ResourceInstance => tree.require(path)?,
        // LwM2M Core 1.1 §6.3.3: only arrays are updated in part
        Level::Resource if mode == Mode::Partial && !multiple => {
            return Err(Code::METHOD_NOT_ALLOWED);
        }
        _ => {}
    }
    Ok(multiple && path.level() == Level::Resource)
}

/// The writable resources that a replaced instance loses; 4.00 if one of them is mandatory.
fn omitted(tree: &Tree, path: &Path, written: &BTreeSet<Path>) -> Result<Vec<Path>, Code> {
    let &[object, instance] = path.ids() else {
        return Ok(Vec::new());
    };
    let object = tree.objects().get(&object);
    let instance = object.and_then(|object| object.instances.get(&instance));
    let mut omitted = Vec::new();
    for (&id, resource) in instance.into_iter().flatten() {
        let Some(path) = path.child(id) else { continue };
        if !resource.operations.write || !resource.is_present() || written.contains(&path) {
            continue;
        }
        if resource.mandatory {
            return Err(Code::BAD_REQUEST);
        }
        omitted.push(path);
    }
    Ok(omitted)
}

fn is_array(tree: &Tree, path: &Path) -> bool {
    tree.resource(path)
        .is_some_and(|resource| matches!(resource.content, Content::Multiple(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tree::Resource;
    use crate::lwm2m::{DataType, Id, Value};

    const NOW: UnixTime = UnixTime::from_millis(1_795_360_765_120);

    fn tree() -> Tree {
        let mut tree = Tree::new();
        let writable = |data_type, values: Vec<(Id, Value)>| Resource {
            operations: Resource::vacant(data_type).operations,
            ..Resource::multiple(data_type, values)
        };
        let integers = |values: &[(Id, i64)]| {
            let values = values.iter();
            values
                .map(|&(id, value)| (id, Value::Integer(value)))
                .collect::<Vec<_>>()
        };
        tree.insert(
            9000,
            None,
            0,
            [
                (0, Resource::readable(Value::Float(22.5))),
                (1, Resource::writable(Value::Integer(1)).mandatory()),
                (2, Resource::writable(Value::String("old".into()))),
                (
                    3,
                    writable(DataType::Integer, integers(&[(0, 10), (1, 11)])),
                ),
                (4, Resource::executable()),
                (5, Resource::readable(Value::Opaque(vec![1, 2]))),
            ],
        );
        tree
    }

    fn code<T>(result: Result<T, Code>) -> String {
        result.err().map_or("done".into(), |code| code.to_string())
    }

    fn write(tree: &mut Tree, path: &str, mode: Mode, json: &str) -> Result<(), Code> {
        let format = ContentFormat::SENML_JSON;
        let path = path.parse().unwrap();
        super::write(tree, &path, format, mode, json.as_bytes(), NOW).map(|_| ())
    }

    fn values(tree: &Tree) -> String {
        let mut records = Vec::new();
        tree.read(&Path::object(9000), &mut records).unwrap();
        let shown = records.iter().map(|record| {
            let ids = record.path.ids().iter().skip(2).map(Id::to_string);
            format!("{}={:?}", ids.collect::<Vec<_>>().join("/"), record.value)
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_partial_write_keeps_what_it_does_not_name() {
        let mut tree = tree();
        let payload =
            r#"[{"bn":"/9000/0/","n":"2","vs":"new"},{"n":"3/1","v":21},{"n":"3/7","v":17}]"#;
        write(&mut tree, "/9000/0", Mode::Partial, payload).unwrap();
        assert_eq!(
            values(&tree),
            "0=Float(22.5) 1=Integer(1) 2=String(\"new\") 3/0=Integer(10) 3/1=Integer(21) \
             3/7=Integer(17) 5=Opaque([1, 2])"
        );
    }

    // conformance: P26
    #[test]
    fn a_replaced_instance_loses_what_is_optional_and_not_named() {
        let mut tree = tree();
        let payload = r#"[{"n":"/9000/0/1","v":5},{"n":"/9000/0/3/7","v":17}]"#;
        write(&mut tree, "/9000/0", Mode::Replace, payload).unwrap();
        assert_eq!(
            values(&tree),
            "0=Float(22.5) 1=Integer(5) 3/7=Integer(17) 5=Opaque([1, 2])"
        );
        let without_mandatory = r#"[{"n":"/9000/0/2","vs":"x"}]"#;
        let result = write(&mut tree, "/9000/0", Mode::Replace, without_mandatory);
        assert_eq!(code(result), "4.00");
    }

    #[test]
    fn a_replaced_array_is_the_new_one() {
        let mut tree = tree();
        let payload = r#"[{"n":"/9000/0/3/7","v":17}]"#;
        write(&mut tree, "/9000/0/3", Mode::Replace, payload).unwrap();
        assert!(
            values(&tree).contains(" 3/7=Integer(17) 5="),
            "{}",
            values(&tree)
        );
        assert!(!values(&tree).contains("3/0"));
    }

    #[test]
    fn a_write_that_fails_anywhere_changes_nothing() {
        for (path, mode, payload, expected) in [
            // read-only, wrong type, outside, unknown target, malformed, not an array
            (
                "/9000/0",
                Mode::Partial,
                r#"[{"n":"/9000/0/1","v":9},{"n":"/9000/0/0","v":1}]"#,
                "4.05",
            ),
            (
                "/9000/0",
                Mode::Partial,
                r#"[{"n":"/9000/0/1","v":9},{"n":"/9000/0/2","v":1}]"#,
                "4.00",
            ),
            (
                "/9000/0",
                Mode::Partial,
                r#"[{"n":"/9000/1/1","v":9}]"#,
                "4.00",
            ),
            (
                "/9000/1",
                Mode::Partial,
                r#"[{"n":"/9000/1/1","v":9}]"#,
                "4.04",
            ),
            (
                "/9000/0/9",
                Mode::Replace,
                r#"[{"n":"/9000/0/9","v":9}]"#,
                "4.04",
            ),
            (
                "/9000/0/0",
                Mode::Replace,
                r#"[{"n":"/9000/0/0","v":9}]"#,
                "4.05",
            ),
            (
                "/9000/0/4",
                Mode::Replace,
                r#"[{"n":"/9000/0/4","v":9}]"#,
                "4.05",
            ),
            (
                "/9000/0/1",
                Mode::Partial,
                r#"[{"n":"/9000/0/1","v":9}]"#,
                "4.05",
            ),
            (
                "/9000/0/1",
                Mode::Replace,
                r#"[{"n":"/9000/0/1","v":1.5}]"#,
                "4.00",
            ),
            ("/9000/0/1", Mode::Replace, "[]", "4.00"),
            ("/9000/0/1", Mode::Replace, "{", "4.00"),
            (
                "/9000/0/3/7",
                Mode::Replace,
                r#"[{"n":"/9000/0/3/7","v":1}]"#,
                "4.04",
            ),
        ] {
            let mut tree = tree();
            let before = values(&tree);
            assert_eq!(
                code(write(&mut tree, path, mode, payload)),
                expected,
                "{path} {payload}"
            );
            assert_eq!(values(&tree), before, "{path} {payload}");
        }
    }

    // conformance: P27, 1.1-int-230
    #[test]
    fn a_composite_write_that_fails_anywhere_changes_nothing() {
        let mut tree = tree();
        tree.insert(9001, None, 0, [(1, Resource::writable(Value::Integer(1)))]);
        let mut write = |json: &str| {
            let format = ContentFormat::SENML_ETCH_JSON;
            code(write_composite(&mut tree, format, json.as_bytes(), NOW).map(|_| ()))
        };
        for (second, expected) in [
            (r#"{"n":"/9000/0/0","v":1}"#, "4.05"),
            (r#"{"n":"/9000/0/77","v":1}"#, "4.04"),
            (r#"{"n":"/9000/1/1","v":1}"#, "4.04"),
            (r#"{"n":"/9000/0/1","v":1.5}"#, "4.00"),
            (r#"{"n":"/9000/0/3/5","v":null}"#, "4.04"),
            (r#"{"n":"/0/0/0","vs":"x"}"#, "4.01"),
        ] {
            let json = format!(r#"[{{"n":"/9001/0/1","v":7}},{second}]"#);
            assert_eq!(write(&json), expected, "{second}");
        }
        let good =
            r#"[{"n":"/9001/0/1","v":7},{"n":"/9000/0/3/1","v":null},{"n":"/9000/0/3/4","v":4}]"#;
        assert_eq!(write(good), "done");
        assert_eq!(
            tree.value(&Path::resource(9001, 0, 1)),
            Some(&Value::Integer(7))
        );
        let shown = values(&tree);
        assert!(shown.contains("3/0=Integer(10) 3/4=Integer(4)"), "{shown}");
    }

    #[test]
    fn an_instance_may_be_written_with_resources_we_do_not_know() {
        let mut tree = tree();
        let payload = r#"[{"n":"/9000/0/1","v":9},{"n":"/9000/0/77","v":1}]"#;
        write(&mut tree, "/9000/0", Mode::Partial, payload).unwrap();
        assert!(values(&tree).contains("1=Integer(9)"));
    }

    #[test]
    fn one_value_is_written_as_text() {
        let mut tree = tree();
        let path = "/9000/0/1".parse().unwrap();
        let format = ContentFormat::TEXT;
        super::write(&mut tree, &path, format, Mode::Replace, b"42", NOW).unwrap();
        assert_eq!(tree.value(&path), Some(&Value::Integer(42)));
        for (path, format, expected) in [
            ("/9000/0/1", ContentFormat(4711), "4.15"),
            ("/9000/0/3", ContentFormat::TEXT, "4.15"),
        ] {
            let path = path.parse().unwrap();
            let result = super::write(&mut tree, &path, format, Mode::Replace, b"42", NOW);
            assert_eq!(code(result), expected);
        }
    }
}
