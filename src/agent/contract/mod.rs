//! What stands on which topic, as data: the one list from which `lwm2mqtt generate schema` makes a
//! JSON Schema and an AsyncAPI document, and to which tests hold every message that they see.

use std::sync::LazyLock;

use serde_json::{Map, Value as Json, json};

/// The payloads, as JSON Schema definitions by name.
const PAYLOADS: &str = include_str!("payloads.json");

/// Who publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publisher {
    /// The gateway.
    Gateway,
    /// Whoever asks the gateway for something.
    Asker,
}

/// A topic, or all that differ in their parameters alone.
#[derive(Clone, Copy, Debug)]
pub struct Topic {
    /// Its name in documents.
    pub name: &'static str,
    /// Below the base, with parameters in braces, one level each.
    pub address: &'static str,
    /// Who publishes there.
    pub publisher: Publisher,
    /// Whether messages are retained.
    pub retained: bool,
    /// 0 or 1.
    pub qos: u8,
    /// The definition of the payload.
    pub payload: &'static str,
}

const fn retained(name: &'static str, address: &'static str, payload: &'static str) -> Topic {
    Topic {
        name,
        address,
        publisher: Publisher::Gateway,
        retained: true,
        qos: 1,
        payload,
    }
}

const fn passing(name: &'static str, address: &'static str, payload: &'static str) -> Topic {
    Topic {
        retained: false,
        ..retained(name, address, payload)
    }
}

const fn request(name: &'static str, address: &'static str, payload: &'static str) -> Topic {
    Topic {
        publisher: Publisher::Asker,
        ..passing(name, address, payload)
    }
}

const fn at_most_once(topic: Topic) -> Topic {
    Topic { qos: 0, ..topic }
}

/// Every topic below the base (MQTT contract §3). A mapping can put values on others.
#[rustfmt::skip]
pub const TOPICS: &[Topic] = &[
    retained("bridgeState", "bridge/state", "state"),
    retained("bridgeSentinel", "bridge/sentinel", "sentinel"),
    retained("bridgeInfo", "bridge/info", "info"),
    at_most_once(passing("bridgeHealth", "bridge/health", "health")),
    passing("bridgeEvent", "bridge/event", "event"),
    request("bridgeRequest", "bridge/request/{verb}", "request"),
    request("bridgeRequestOfSubject", "bridge/request/{subject}/{verb}", "request"),
    passing("bridgeResponse", "bridge/response/{verb}", "response"),
    passing("bridgeResponseOfSubject", "bridge/response/{subject}/{verb}", "response"),
    retained("birth", "d/{device}", "birth"),
    retained("availability", "d/{device}/availability", "availability"),
    retained("value", "d/{device}/v/{instance}/{signal}", "sample"),
    retained("target", "d/{device}/target/{instance}/{signal}", "target"),
    passing("history", "d/{device}/t/{instance}/{signal}", "history"),
    passing("deviceEvent", "d/{device}/e/{instance}/{signal}", "sample"),
    at_most_once(passing("raw", "d/{device}/raw/{object}/{instance}/{resource}", "sample")),
    at_most_once(passing("rawOfMultiple", "d/{device}/raw/{object}/{instance}/{resource}/{resourceInstance}", "sample")),
    retained("update", "d/{device}/fw", "update"),
    at_most_once(retained("queue", "d/{device}/queue", "queue")),
    passing("reply", "d/{device}/reply", "reply"),
    request("setSeveral", "d/{device}/set", "write"),
    request("set", "d/{device}/set/{instance}/{signal}", "write"),
    request("get", "d/{device}/get/{instance}/{signal}", "read"),
    request("do", "d/{device}/do/{command}", "command"),
    request("doAtInstance", "d/{device}/do/{instance}/{command}", "command"),
    request("operation", "d/{device}/lwm2m/{operation}", "operation"),
    request("cancel", "d/{device}/cancel", "cancel"),
];

/// What a parameter of an address is.
const PARAMETERS: [(&str, &str); 10] = [
    ("device", "The name of a device, one level"),
    ("instance", "The name of an object instance"),
    (
        "signal",
        "The name of a resource, or what a mapping calls it",
    ),
    ("command", "A command of the mapping, or of the registry"),
    (
        "operation",
        "An operation of LwM2M: read, write, execute, observe, …",
    ),
    ("verb", "What to do"),
    ("subject", "With what: device, mapping, firmware, retained"),
    ("object", "The number of an object"),
    ("resource", "The number of a resource"),
    ("resourceInstance", "The number of a resource instance"),
];

/// The definitions of payloads.
static DEFINITIONS: LazyLock<Map<String, Json>> = LazyLock::new(|| {
    // A test holds the file to be JSON.
    serde_json::from_str(PAYLOADS).unwrap_or_default()
});

impl Topic {
    /// Whether a topic below the base is one of these.
    pub fn is_of(&self, topic: &str) -> bool {
        let mut levels = topic.split('/');
        let fits = self.address.split('/').all(|part| {
            levels
                .next()
                .is_some_and(|level| part == level || (part.starts_with('{') && !level.is_empty()))
        });
        fits && levels.next().is_none()
    }

    /// The parameters of its address, in order.
    fn parameters(&self) -> impl Iterator<Item = &'static str> {
        let parts = self.address.split('/');
        parts.filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}

/// The topic that a name below the base belongs to.
pub fn topic(below_base: &str) -> Option<&'static Topic> {
    TOPICS.iter().find(|topic| topic.is_of(below_base))
}

/// A JSON Schema (draft 2020-12) with a definition for each payload, and the topics that have it.
pub fn schema(base: &str) -> Json {
    let topics: Vec<Json> = TOPICS
        .iter()
        .map(|topic| {
            json!({
                "name": topic.name,
                "address": format!("{base}/{}", topic.address),
                "publisher": match topic.publisher { Publisher::Gateway => "gateway", Publisher::Asker => "asker" },
                "retained": topic.retained,
                "qos": topic.qos,
                "payload": { "$ref": format!("#/$defs/{}", topic.payload) },
            })
        })
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What lwm2mqtt publishes and takes on MQTT",
        "description": "An empty retained payload means that the topic is no more.",
        "x-topics": topics,
        "$defs": *DEFINITIONS,
    })
}

/// The schema of one payload, whole by itself.
pub fn payload_schema(name: &str) -> Json {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$ref": format!("#/$defs/{name}"),
        "$defs": *DEFINITIONS,
    })
}

/// An AsyncAPI 3.0 document of all topics, from the gateway's point of view.
pub fn async_api(base: &str) -> Json {
    let (mut channels, mut operations, mut messages) = (Map::new(), Map::new(), Map::new());
    for topic in TOPICS {
        let title = DEFINITIONS
            .get(topic.payload)
            .map_or(&Json::Null, |it| &it["title"]);
        let mut channel = json!({
            "address": format!("{base}/{}", topic.address),
            "messages": { topic.payload: { "$ref": format!("#/components/messages/{}", topic.payload) } },
        });
        let parameters: Map<String, Json> = topic
            .parameters()
            .map(|name| {
                let parameter = json!({ "$ref": format!("#/components/parameters/{name}") });
                (name.to_owned(), parameter)
            })
            .collect();
        if !parameters.is_empty() {
            channel["parameters"] = parameters.into();
        }
        channels.insert(topic.name.to_owned(), channel);
        let operation = json!({
            "action": match topic.publisher { Publisher::Gateway => "send", Publisher::Asker => "receive" },
            "channel": { "$ref": format!("#/channels/{}", topic.name) },
            "bindings": { "mqtt": { "qos": topic.qos, "retain": topic.retained } },
        });
        operations.insert(topic.name.to_owned(), operation);
        messages.entry(topic.payload).or_insert_with(|| {
            json!({
                "title": title,
                "contentType": "application/json",
                "payload": { "$ref": format!("#/components/schemas/{}", topic.payload) },
            })
        });
    }
    let parameters: Map<String, Json> = PARAMETERS
        .iter()
        .map(|(name, meaning)| ((*name).to_owned(), json!({ "description": meaning })))
        .collect();
    let schemas: Map<String, Json> = DEFINITIONS
        .iter()
        .map(|(name, definition)| (name.clone(), in_components(definition)))
        .collect();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "lwm2mqtt",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Devices of LwM2M on MQTT. A mapping can put values on further topics.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages, "parameters": parameters, "schemas": schemas },
    })
}

/// A definition with its references to where AsyncAPI keeps them.
fn in_components(definition: &Json) -> Json {
    match definition {
        Json::Object(object) => object
            .iter()
            .map(|(key, value)| match (key.as_str(), value) {
                ("$ref", Json::String(to)) => {
                    let to = to.replace("#/$defs/", "#/components/schemas/");
                    (key.clone(), Json::String(to))
                }
                _ => (key.clone(), in_components(value)),
            })
            .collect::<Map<_, _>>()
            .into(),
        Json::Array(items) => items.iter().map(in_components).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// All that a document refers to.
    fn references(document: &Json, found: &mut BTreeSet<String>) {
        match document {
            Json::Object(object) => {
                found.extend(object.get("$ref").and_then(Json::as_str).map(str::to_owned));
                object.values().for_each(|value| references(value, found));
            }
            Json::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn whatever_a_document_refers_to_is_in_it() {
        for document in [schema("lwm2mqtt"), async_api("site/lwm2mqtt")] {
            let mut found = BTreeSet::new();
            references(&document, &mut found);
            assert!(found.len() > 10);
            for reference in found {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
        }
    }

    #[test]
    fn a_topic_is_known_by_its_levels() {
        for (below_base, name) in [
            ("d/dev1", Some("birth")),
            ("d/dev1/v/air/temperature", Some("value")),
            ("d/dev1/raw/3/0/6/1", Some("rawOfMultiple")),
            (
                "bridge/response/device/list",
                Some("bridgeResponseOfSubject"),
            ),
            ("d/dev1/v/air", None),
            ("d/dev1/v//x", None),
            ("bridge", None),
        ] {
            assert_eq!(
                topic(below_base).map(|topic| topic.name),
                name,
                "{below_base}"
            );
        }
    }

    #[test]
    fn the_document_lists_every_topic_as_it_is() {
        let document = include_str!("../../../docs/mqtt.md");
        for topic in TOPICS {
            let line = format!(
                "| `{}` | {} | {} | {} | {} |",
                topic.address,
                match topic.publisher {
                    Publisher::Gateway => "gateway",
                    Publisher::Asker => "asker",
                },
                if topic.retained { "yes" } else { "no" },
                topic.qos,
                DEFINITIONS[topic.payload]["title"].as_str().unwrap(),
            );
            assert!(document.contains(&line), "docs/mqtt.md: {line}");
        }
    }

    #[test]
    fn no_two_topics_share_a_name_and_each_parameter_is_explained() {
        let names: BTreeSet<_> = TOPICS.iter().map(|topic| topic.name).collect();
        assert_eq!(names.len(), TOPICS.len());
        let used: BTreeSet<_> = TOPICS.iter().flat_map(Topic::parameters).collect();
        let explained: BTreeSet<_> = PARAMETERS.iter().map(|(name, _)| *name).collect();
        assert_eq!(used, explained);
    }
}
