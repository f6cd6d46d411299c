//! The LwM2M client: registers with servers, answers them and notifies them. No input or output.
//!
//! One [`Client`] is one endpoint name with one [`Tree`] of objects and any number of
//! [`Account`]s; each server has its own registration, attributes and observations. What stands
//! behind the tree is a [`Behaviour`]: [`simulated`] devices, or later the gateway itself.
//!
//! The run loop: [`Client::handle`] one input, then [`Client::poll`] until [`Output::Timeout`].

mod access;
mod engine;
mod instances;
mod offer;
mod operation;
mod registration;
mod reporting;
pub mod simulated;
pub mod tree;
mod write;

use std::time::Duration;

pub use access::Formats;
pub use engine::Client;
pub use registration::{Reason, Retry};
pub use tree::Tree;

use crate::coap::{self, Code, Peer};
use crate::lwm2m::{Arguments, Id, Path, Target, Value, Version};
use crate::time::{Instant, Now};

/// Who the client is.
#[derive(Clone, Debug)]
pub struct Config {
    /// The endpoint name.
    pub endpoint: String,
    /// The servers to register with.
    pub accounts: Vec<Account>,
    /// What values are sent in.
    pub formats: Formats,
    /// When to try again after a failure.
    pub retry: Retry,
    /// Caps on what a server can make grow.
    pub limits: Limits,
    /// Parameters of the message layer.
    pub coap: coap::Parameters,
    /// Caps of the message layer.
    pub coap_limits: coap::Limits,
}

/// One server.
#[derive(Clone, Debug)]
pub struct Account {
    /// The instance of object 1 with lifetime, default periods and the rest.
    pub instance: Id,
    /// Where the server is.
    pub peer: Peer,
    /// The newest version of LwM2M to offer; after 4.12 the next lower one is tried, down to 1.0.
    pub version: Version,
    /// How long the client listens after the last message, if it sleeps in between
    /// (LwM2M Core 1.1 §6.5). `None`: it always listens.
    pub queue_mode: Option<Duration>,
    /// How long to wait before the first registration.
    pub hold_off: Duration,
}

/// Caps on what one server can make grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Observations; a further one is answered 5.03.
    pub observations: usize,
    /// Nodes with attributes; a further one is answered 5.03.
    pub attachments: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            observations: 64,
            attachments: 256,
        }
    }
}

/// What stands behind the resources: sensors, actuators, a machine.
pub trait Behaviour {
    /// Brings the values up to `now`; called at every input, before anything is read. Returns when
    /// to be asked again at the latest, if time alone moves any.
    fn step(&mut self, now: Now, tree: &mut Tree) -> Option<Instant>;

    /// A server wrote this resource; the tree holds what it wrote.
    fn written(&mut self, now: Now, resource: &Path, tree: &mut Tree) {
        let _ = (now, resource, tree);
    }

    /// A server executes this resource.
    ///
    /// # Errors
    /// The code to answer with.
    fn execute(
        &mut self,
        now: Now,
        resource: &Path,
        arguments: &Arguments,
        tree: &mut Tree,
    ) -> Result<Effect, Code>;
}

/// What an execution means for the client itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// It restarts: registrations and observations are forgotten, and it registers anew after
    /// this time.
    Restart(Duration),
}

/// What happens to the client.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Bytes came.
    Datagram {
        /// From whom.
        peer: Peer,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// The instant of the last [`Output::Timeout`] has come.
    Timeout,
    /// Report the values of these nodes now, to every server that wants it (Send, LwM2M Core 1.1
    /// §6.4.6): one of 1.1 or later that has set Mute Send (/1/x/23) to false.
    Send(&'a [Path]),
    /// De-register everywhere. [`Event::Stopped`] follows.
    Stop,
}

/// What the client wants.
#[derive(Debug)]
pub enum Output {
    /// Send this.
    Datagram {
        /// To whom.
        peer: Peer,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Something happened.
    Event(Event),
    /// Nothing until this instant, unless something comes in. Always last.
    Timeout(Option<Instant>),
}

/// What a person may want to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A server accepted the registration.
    Registered {
        /// The server's account.
        account: Id,
        /// The version agreed on.
        version: Version,
        /// Where the server keeps it, `rd/5a3f`.
        location: String,
    },
    /// A server refused this version; a lower one is tried at once.
    VersionRefused {
        /// The server's account.
        account: Id,
        /// The version that was offered.
        version: Version,
    },
    /// Registering failed.
    RegistrationFailed {
        /// The server's account.
        account: Id,
        /// Why.
        reason: Reason,
        /// How long until the next attempt.
        retry_in: Duration,
    },
    /// The registration was refreshed.
    Updated {
        /// The server's account.
        account: Id,
    },
    /// The server does not know the registration any more, or did not answer; registering again.
    RegistrationLost {
        /// The server's account.
        account: Id,
        /// Why.
        reason: Reason,
    },
    /// The registration was ended as wished.
    Deregistered {
        /// The server's account.
        account: Id,
    },
    /// A server began to observe.
    Observed {
        /// The server's account.
        account: Id,
        /// What.
        target: Target,
    },
    /// A server created an instance.
    Created {
        /// The server's account.
        account: Id,
        /// Which.
        path: Path,
    },
    /// A server deleted an instance, or an instance of a resource.
    Deleted {
        /// The server's account.
        account: Id,
        /// Which.
        path: Path,
    },
    /// A server answered a [`Input::Send`].
    Sent {
        /// The server's account.
        account: Id,
        /// With what; `None` when it did not.
        code: Option<Code>,
    },
    /// A server wrote a resource.
    Written {
        /// The server's account.
        account: Id,
        /// Which.
        path: Path,
        /// The value now held; `None` for several, or for one that was taken away.
        value: Option<Value>,
    },
    /// A server executed a resource.
    Executed {
        /// The server's account.
        account: Id,
        /// Which.
        path: Path,
        /// With what.
        arguments: Arguments,
    },
    /// The client restarts as it was told to; all registrations are forgotten.
    Restarting {
        /// How long until it registers again.
        back_in: Duration,
    },
    /// All registrations are ended; nothing further happens.
    Stopped,
}

/// What was done and dropped, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests answered, successes and refusals alike.
    pub requests: u64,
    /// Requests refused with a code of class 4 or 5.
    pub refused: u64,
    /// Notifications sent.
    pub notifications: u64,
    /// Datagrams dropped because they came from nobody we have an account for.
    pub strangers: u64,
    /// Requests dropped because their server had not yet accepted the registration
    /// (LwM2M Core 1.1 §6.2.1: such a server repeats them).
    pub premature: u64,
    /// Datagrams dropped because the client slept.
    pub asleep: u64,
}
