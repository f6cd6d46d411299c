//! The connection to the MQTT broker: the only place that knows the MQTT library.
//!
//! [`connect`] gives a [`Link`] that connects, re-connects and re-subscribes by itself, for ever.
//! It keeps no messages: the [`Outbox`](crate::gateway::outbox::Outbox) does. The caller's loop is
//!
//! 1. [`Link::event`]: on `Connected`, `Disconnected`, `Delivered` and `Refused` tell the outbox;
//! 2. while [`Link::has_room`], give what [`Outbox::poll`](crate::gateway::outbox::Outbox::poll)
//!    returns to [`Link::publish`].
//!
//! Bytes are written when `event` is called next: once for all that was published in between.
//!
//! The way there is TCP, TLS or WebSocket ([`Transport`]); what stands in it and is wrong is told in
//! a sentence with [`Event::Disconnected`] (docs/decisions/0007-tls-to-the-broker.md).
//!
//! Of the library rumqttc its packet types and their encoding are used, and not its event loop;
//! docs/decisions/0002-mqtt-client.md has the measurements.

mod address;
mod backoff;
mod connection;
mod explain;
mod link;
mod reader;
mod settings;
mod stream;
mod tls;
mod websocket;
mod words;
mod writer;

use std::time::Duration;

pub use address::{Address, AddressError, Transport};
pub use link::{Link, connect};
pub use settings::{Settings, Subscription, VersionChoice};
pub use tls::{Key, Part, Problem, Tls};

use crate::gateway::outbox::{Session, Ticket};
use crate::gateway::publish::Message;

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 5.0.
    V5,
    /// MQTT 3.1.1.
    V311,
}

/// What the [`Link`] has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The broker accepted the connection. Subscriptions are under way, and publishing may begin.
    Connected {
        /// What the broker permits.
        session: Session,
        /// The version spoken.
        version: Version,
    },
    /// The connection ended, or an attempt to connect failed.
    Disconnected {
        /// Why, for a person.
        reason: String,
        /// Until the next attempt.
        retry_in: Duration,
    },
    /// PUBACK with success.
    Delivered(Ticket),
    /// PUBACK with a Reason Code of 0x80 or more.
    Refused {
        /// Which message.
        ticket: Ticket,
        /// The Reason Code.
        code: u8,
    },
    /// A message came in. It is acknowledged with the next call of [`Link::event`].
    Message(Message),
    /// A message came in that is larger than we take, and was dropped.
    Oversized {
        /// Where it was published.
        topic: String,
        /// Of the packet, in bytes.
        size: usize,
    },
    /// The broker answered the subscriptions.
    Subscribed {
        /// Those it refused, with the reason: `FILTER: not authorized`.
        refused: Vec<String>,
    },
    /// [`Link::has_room`] was false and is true again.
    Room,
}
