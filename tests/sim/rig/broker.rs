//! A scripted broker.

use std::collections::BTreeMap;

use lwm2mqtt::gateway::publish::Publish;
use serde_json::Value as Json;

use crate::contract;

/// What a broker has.
#[derive(Default)]
pub struct Broker {
    pub connected: bool,
    pub retained: BTreeMap<String, Vec<u8>>,
    /// Everything that was published, in order.
    pub log: Vec<(String, Vec<u8>)>,
    /// Whether it acknowledges.
    pub silent: bool,
}

impl Broker {
    /// The retained JSON of a topic.
    pub fn json(&self, topic: &str) -> Json {
        let payload = self.retained.get(topic).unwrap_or_else(|| {
            panic!(
                "nothing retained at {topic}; there is {:?}",
                self.retained.keys()
            )
        });
        serde_json::from_slice(payload).unwrap()
    }

    /// All JSON messages on a topic, oldest first.
    pub fn messages(&self, topic: &str) -> Vec<Json> {
        self.log
            .iter()
            .filter(|(to, _)| to == topic)
            .map(|(_, payload)| serde_json::from_slice(payload).unwrap())
            .collect()
    }
}

/// Whatever is published, no broker ends the connection for its sake: mosquitto does for a control
/// character or a noncharacter in a topic or a property (MQTT 5 §1.5.4, §4.7.3).
pub(super) fn assert_acceptable(publish: &Publish) {
    let topic = &*publish.topic;
    assert!(!topic.is_empty() && !topic.starts_with('$'), "{topic:?}");
    assert!(!topic.contains(['+', '#']), "{topic:?}");
    let properties = publish.properties.iter();
    let texts = properties.flat_map(|properties| &properties.user);
    let texts = texts.flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    for text in texts.chain([topic]) {
        let refused = |c: char| {
            c.is_control()
                || ('\u{FDD0}'..='\u{FDEF}').contains(&c)
                || matches!(u32::from(c) % 0x1_0000, 0xFFFE | 0xFFFF)
        };
        assert!(!text.contains(refused) && text.len() < 0x1_0000, "{text:?}");
    }
    if let Some(below_base) = topic.strip_prefix("lwm2mqtt/") {
        let properties = publish.properties.as_deref();
        let content_type = properties.and_then(|properties| properties.content_type);
        contract::assert_known(below_base, content_type, publish.retain, &publish.payload);
    }
}
