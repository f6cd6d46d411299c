//! Messages to the broker and from it.

use std::sync::Arc;

use crate::lwm2m::Path;
use crate::mapping::breaks_text;
use crate::server::DeviceId;

/// How surely a message arrives (MQTT 5 §4.3). The gateway never sends QoS 2: a retained value or an
/// identified event loses nothing by arriving twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    /// QoS 0: gone once it is handed to the connection.
    AtMostOnce,
    /// QoS 1: kept until the broker's PUBACK.
    #[default]
    AtLeastOnce,
}

/// What may happen to a message while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The newest value of its topic is all that counts: a newer one replaces one that waits.
    State,
    /// Events and replies: each is delivered, in the order of acceptance.
    Event,
    /// History: each is delivered in order, but the oldest give way when the outbox is full.
    Sample,
}

/// One application message on its way to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Shared, because a signal is published many times under one name.
    pub topic: Arc<str>,
    /// Empty and retained: the retained message of this topic is deleted (MQTT 5 §3.3.1.3).
    pub payload: Vec<u8>,
    /// The delivery wanted; a broker may allow less.
    pub qos: Qos,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// What may happen to it while it waits.
    pub class: Class,
    /// What only MQTT 5 can carry; left out towards a 3.1.1 broker. Shared, because all values of a
    /// signal carry the same.
    pub properties: Option<Arc<Properties>>,
    /// Whose value it is, if the store keeps what stands on its topic.
    pub origin: Option<(DeviceId, Path)>,
}

/// PUBLISH properties (MQTT 5 §3.3.2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Content Type, such as `application/json`.
    pub content_type: Option<&'static str>,
    /// Message Expiry Interval in seconds.
    pub expiry: Option<u32>,
    /// Correlation Data of the request that this answers, byte for byte.
    pub correlation: Option<Vec<u8>>,
    /// User Property pairs in order.
    pub user: Vec<(String, String)>,
}

/// An application message from the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: String,
    /// As it came.
    pub payload: Vec<u8>,
    /// MQTT 5: it was published with the retain flag. 3.1.1: it was retained before we subscribed.
    pub retain: bool,
    /// It may have been delivered before.
    pub duplicate: bool,
    /// Response Topic (MQTT 5 §3.3.2.3.5), not checked.
    pub response_topic: Option<String>,
    /// Correlation Data (MQTT 5 §3.3.2.3.6).
    pub correlation: Option<Vec<u8>>,
    /// What is left of the Message Expiry Interval, in seconds (MQTT 5 §3.3.2.3.3).
    pub expiry: Option<u32>,
}

impl Publish {
    /// A retained value at QoS 1.
    pub fn state(topic: Arc<str>, payload: Vec<u8>) -> Self {
        Self {
            topic,
            payload,
            qos: Qos::AtLeastOnce,
            retain: true,
            class: Class::State,
            properties: None,
            origin: None,
        }
    }

    /// An event or a reply at QoS 1, not retained.
    pub fn event(topic: Arc<str>, payload: Vec<u8>) -> Self {
        Self {
            retain: false,
            class: Class::Event,
            ..Self::state(topic, payload)
        }
    }

    /// Deletes the retained message of `topic`.
    pub fn deletion(topic: Arc<str>) -> Self {
        Self::state(topic, Vec::new())
    }

    /// Whether MQTT has a packet for it: a topic name that is not empty and holds no wildcard
    /// (MQTT 5 §4.7), no character that a broker need not take, and no text or data over 65 535 bytes
    /// (§1.5.4). A broker closes the connection on a breach.
    pub fn is_expressible(&self) -> bool {
        let name = !self.topic.is_empty() && !self.topic.contains(['+', '#']);
        name && is_text(&self.topic) && self.properties.as_deref().is_none_or(Properties::fit)
    }

    /// The size of the PUBLISH packet in MQTT 5, in bytes: what a broker's Maximum Packet Size is
    /// held against (MQTT 5 §3.2.2.3.6). In 3.1.1 the packet is never larger.
    pub fn packet_len(&self) -> usize {
        let properties = self.properties.as_deref().map_or(0, Properties::len);
        let packet_id = match self.qos {
            Qos::AtMostOnce => 0,
            Qos::AtLeastOnce => 2,
        };
        let remaining = 2
            + self.topic.len()
            + packet_id
            + variable_len(properties)
            + properties
            + self.payload.len();
        1 + variable_len(remaining) + remaining
    }
}

impl Properties {
    /// The content types that there are.
    const TYPES: [&'static str; 6] = [
        "application/json",
        "text/plain",
        "application/senml+json",
        "application/senml+cbor",
        "application/cbor",
        "application/octet-stream",
    ];

    /// One of the content types that there are, by its name.
    pub fn known_type(name: &str) -> Option<&'static str> {
        Self::TYPES.into_iter().find(|known| *known == name)
    }

    fn fit(&self) -> bool {
        self.correlation
            .as_ref()
            .is_none_or(|data| fits(data.len()))
            && self
                .user
                .iter()
                .all(|(name, value)| is_text(name) && is_text(value))
    }

    /// Encoded size in bytes, without the length in front.
    pub(crate) fn len(&self) -> usize {
        let content_type = self.content_type.map_or(0, |text| 3 + text.len());
        let expiry = self.expiry.map_or(0, |_| 5);
        let correlation = self.correlation.as_ref().map_or(0, |data| 3 + data.len());
        let user: usize = self
            .user
            .iter()
            .map(|(name, value)| 5 + name.len() + value.len())
            .sum();
        content_type + expiry + correlation + user
    }
}

/// Whether it is a UTF-8 Encoded String that no broker refuses (MQTT 5 §1.5.4).
fn is_text(text: &str) -> bool {
    fits(text.len()) && !text.contains(breaks_text)
}

/// Whether a text or data of this length has a length field (MQTT 5 §1.5.4).
const fn fits(len: usize) -> bool {
    len <= u16::MAX as usize
}

/// The size of a Variable Byte Integer (MQTT 5 §1.5.5).
pub(crate) const fn variable_len(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packet_length_counts_every_field() {
        let plain = Publish::state("a/b".into(), vec![0; 10]);
        // fixed header 2, topic 2 + 3, packet identifier 2, property length 1, payload 10
        assert_eq!(plain.packet_len(), 20);
        let unacknowledged = Publish {
            qos: Qos::AtMostOnce,
            ..plain.clone()
        };
        assert_eq!(unacknowledged.packet_len(), 18);
        let rich = Publish {
            properties: Some(Arc::new(Properties {
                content_type: Some("text/plain"),
                expiry: Some(1),
                correlation: Some(vec![1, 2]),
                user: vec![("ep".into(), "dev1".into())],
            })),
            ..plain
        };
        assert_eq!(rich.packet_len(), 20 + 13 + 5 + 5 + 11);
    }

    #[test]
    fn a_long_packet_has_a_long_length_field() {
        let long = Publish::state("t".into(), vec![0; 122]);
        assert_eq!(long.packet_len(), 2 + 128 + 1);
    }
}
