//! What the outbox says about the messages it was given.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

use super::ATTEMPTS;

/// Why a message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Rejected {
    /// Events wait up to the limit, and no sample is left to give way.
    #[error("the outbox is full: the broker takes messages too slowly, or is away")]
    Full,
    /// QoS 0 promises nothing while the broker is away.
    #[error("the broker is away, and the message is sent at QoS 0")]
    Away,
    /// MQTT cannot express it: an empty topic, a wildcard or NUL in it, or a text over 65 535 bytes.
    #[error("not a topic name or property that MQTT can carry")]
    Malformed,
}

/// Why an accepted message will never be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// Over the broker's Maximum Packet Size.
    #[error("the packet has {size} bytes, and the broker takes {limit}; raise its packet limit")]
    TooLarge {
        /// Of the packet, in bytes.
        size: usize,
        /// Of the broker, in bytes.
        limit: usize,
    },
    /// PUBACK with this Reason Code of 0x80 or more (MQTT 5 §3.4.2.1), which is final.
    #[error("the broker refused it: {} (0x{code:02X})", reason_name(*.code))]
    ByBroker {
        /// The Reason Code.
        code: u8,
    },
    /// Each time it was sent alone, the connection ended before an answer.
    #[error(
        "the broker closed the connection {ATTEMPTS} times when it was sent this message alone"
    )]
    Unanswered,
}

/// The name of a PUBACK Reason Code (MQTT 5 §3.4.2.1).
const fn reason_name(code: u8) -> &'static str {
    match code {
        0x80 => "unspecified error",
        0x83 => "implementation specific error",
        0x87 => "not authorized; its access rules forbid this topic",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x97 => "quota exceeded",
        0x99 => "payload format invalid",
        _ => "unknown reason",
    }
}

/// An accepted message that will not be delivered, to be announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where it was to go. A refusal of the announcement itself must not be announced again.
    pub topic: Arc<str>,
    /// Why it does not.
    pub reason: Refused,
}

/// What became of the messages since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Taken by [`Outbox::push`].
    pub accepted: u64,
    /// Of these, values that a newer one of their topic replaced before they were delivered.
    pub coalesced: u64,
    /// Handed to a connection, sent again included.
    pub sent: u64,
    /// Unacknowledged when a connection ended, and due again.
    pub due_again: u64,
    /// Acknowledged by the broker with success.
    pub delivered: u64,
    /// Samples that gave way when the outbox was full: accepted and lost.
    pub dropped_samples: u64,
    /// Not accepted: full.
    pub rejected_full: u64,
    /// Not accepted: QoS 0 while the broker was away.
    pub rejected_away: u64,
    /// Not accepted: MQTT cannot express it.
    pub rejected_malformed: u64,
    /// Over the broker's Maximum Packet Size.
    pub refused_too_large: u64,
    /// Refused by the broker, by Reason Code.
    pub refused_by_broker: BTreeMap<u8, u64>,
    /// Given up, because connections ended whenever they were sent.
    pub refused_unanswered: u64,
    /// Sent without the retain flag, because the broker keeps no retained messages.
    pub unretained: u64,
    /// Sent at QoS 0, because the broker takes nothing higher.
    pub downgraded: u64,
}

/// How much the outbox holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Waiting topics of [`Class::State`].
    pub states: usize,
    /// Waiting events and replies.
    pub events: usize,
    /// Waiting samples.
    pub samples: usize,
    /// Sent and not acknowledged.
    pub in_flight: usize,
    /// Bytes of waiting events and samples.
    pub bytes: usize,
    /// Events and samples, waiting or sent, that are in the spool.
    pub spooled: usize,
}

impl Depth {
    /// Whether nothing waits for the broker.
    pub fn is_empty(&self) -> bool {
        self.states + self.events + self.samples + self.in_flight == 0
    }
}
