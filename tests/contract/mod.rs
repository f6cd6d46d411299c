//! Holds every message of the gateway that a test sees to what `lwm2mqtt generate schema` says of it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jsonschema::Validator;
use lwm2mqtt::agent::contract::{self, Publisher};
use serde_json::Value as Json;

static VALIDATORS: LazyLock<BTreeMap<&str, Validator>> = LazyLock::new(|| {
    let payloads = contract::TOPICS.iter().map(|topic| topic.payload);
    payloads
        .map(|name| {
            let schema = contract::payload_schema(name);
            (name, jsonschema::validator_for(&schema).unwrap())
        })
        .collect()
});

/// A message of the gateway on a topic below its base is one that the schema knows. Answers go
/// wherever the one who asks wants them, and values where a mapping wants them, in its format: those
/// are not known by their topic.
pub fn assert_known(below_base: &str, content_type: Option<&str>, retained: bool, payload: &[u8]) {
    let Some(topic) = contract::topic(below_base) else {
        assert!(
            !below_base.starts_with("bridge/"),
            "no topic of the schema: {below_base}"
        );
        return;
    };
    let text = || String::from_utf8_lossy(payload).into_owned();
    if topic.publisher != Publisher::Gateway || content_type.is_some_and(|it| it.contains("text/"))
    {
        return;
    }
    assert!(
        retained == topic.retained || topic.payload == "sample",
        "{below_base}: retained {retained}"
    );
    if payload.is_empty() {
        assert!(retained && topic.retained, "{below_base} is deleted");
        return;
    }
    let json: Json = serde_json::from_slice(payload)
        .unwrap_or_else(|error| panic!("{below_base}: {error}: {}", text()));
    let validator = &VALIDATORS[topic.payload];
    let mistakes: Vec<_> = validator
        .iter_errors(&json)
        .map(|mistake| format!("{} at {}", mistake, mistake.instance_path()))
        .collect();
    assert!(
        mistakes.is_empty(),
        "{below_base} is not what the schema says of {}: {mistakes:?}: {}",
        topic.payload,
        text()
    );
}
