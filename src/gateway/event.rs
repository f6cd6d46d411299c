//! What happens, for the log and for `{base}/bridge/event`.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::time::Instant;

/// How many complaints may be said at once, and how long until another one may.
const COMPLAINTS: u32 = 100;
const COMPLAINT_INTERVAL: Duration = Duration::from_millis(200);

/// What keeps a hostile peer from filling the log and the outbox with complaints about it: a
/// bucket of [`COMPLAINTS`], refilled one by one.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    refilled: Instant,
}

impl Allowance {
    /// A full one.
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            left: COMPLAINTS,
            refilled: now,
        }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.since(self.refilled).as_millis() / COMPLAINT_INTERVAL.as_millis();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed > 0 {
            self.left = self.left.saturating_add(passed).min(COMPLAINTS);
            self.refilled = now;
        }
        self.left
            .checked_sub(1)
            .map(|left| self.left = left)
            .is_some()
    }
}

/// For whom an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Part of a day's work.
    Info,
    /// Somebody should look.
    Warning,
}

/// Something that happened. It is published as it is serialised, `type` first.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// An endpoint name was seen for the first time.
    DeviceNew {
        /// Its name in topics.
        device: String,
        /// Its endpoint name.
        endpoint: String,
    },
    /// A device registered.
    DeviceRegistered {
        /// Its name in topics.
        device: String,
        /// Its endpoint name.
        endpoint: String,
        /// The version of LwM2M.
        lwm2m: String,
        /// Seconds; absent when endless.
        #[serde(skip_serializing_if = "Option::is_none")]
        lifetime: Option<u64>,
        /// Where it is.
        address: String,
    },
    /// A device changed its lifetime, binding or objects.
    DeviceUpdated {
        /// Its name in topics.
        device: String,
    },
    /// A device took its leave.
    DeviceDeregistered {
        /// Its name in topics.
        device: String,
    },
    /// A device's lifetime passed.
    DeviceExpired {
        /// Its name in topics.
        device: String,
    },
    /// A device did not answer.
    DeviceUnreachable {
        /// Its name in topics.
        device: String,
        /// What was asked.
        detail: String,
    },
    /// A registration was refused.
    RegistrationRefused {
        /// Its endpoint name, if it gave one.
        #[serde(skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
        /// From where it came.
        address: String,
        /// The code that it got.
        code: String,
        /// Why.
        detail: String,
    },
    /// A payload, or a value in it, could not be taken.
    Undecodable {
        /// Its name in topics.
        device: String,
        /// Where.
        path: String,
        /// Why.
        detail: String,
    },
    /// What the plan wants observed is not.
    ObserveFailed {
        /// Its name in topics.
        device: String,
        /// What.
        path: String,
        /// Why.
        detail: String,
    },
    /// A request from MQTT that cannot even be answered.
    RequestMalformed {
        /// Where it came in.
        topic: String,
        /// Why.
        detail: String,
    },
    /// The broker refused a publish for good.
    PublishRefused {
        /// What was to be published.
        topic: String,
        /// Why.
        detail: String,
    },
    /// The broker is there. For the log alone.
    BrokerConnected {
        /// Whether it had kept our retained messages.
        kept: bool,
    },
    /// The broker is away. For the log alone.
    BrokerDisconnected {
        /// Why.
        detail: String,
    },
    /// The open join window approved an endpoint.
    DeviceJoined {
        /// Its endpoint name.
        endpoint: String,
    },
    /// What let a device in is not valid any more.
    DeviceBlocked {
        /// Its name in topics.
        device: String,
    },
    /// The operator removed a device.
    DeviceRemoved {
        /// Its name in topics.
        device: String,
    },
    /// Somebody opened the join window.
    JoinWindowOpened {
        /// For how long, in seconds.
        seconds: u64,
    },
    /// The join window closed.
    JoinWindowClosed,
}

impl Event {
    /// For whom it is.
    pub const fn severity(&self) -> Severity {
        match self {
            Self::DeviceNew { .. }
            | Self::DeviceRegistered { .. }
            | Self::DeviceUpdated { .. }
            | Self::DeviceDeregistered { .. }
            | Self::DeviceJoined { .. }
            | Self::DeviceRemoved { .. }
            | Self::JoinWindowClosed
            | Self::BrokerConnected { .. } => Severity::Info,
            _ => Severity::Warning,
        }
    }

    /// Whether a peer can cause it as often as it likes.
    pub const fn is_complaint(&self) -> bool {
        matches!(
            self,
            Self::RegistrationRefused { .. }
                | Self::Undecodable { .. }
                | Self::ObserveFailed { .. }
                | Self::RequestMalformed { .. }
        )
    }

    /// Whether it goes to MQTT. What happened to the broker does not: it could not have been sent.
    pub const fn is_public(&self) -> bool {
        !matches!(
            self,
            Self::BrokerConnected { .. }
                | Self::BrokerDisconnected { .. }
                | Self::PublishRefused { .. }
        )
    }
}

/// One line for the log.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeviceNew { device, endpoint } => write!(f, "{device}: new device, endpoint {}", endpoint.escape_debug()),
            Self::DeviceRegistered { device, lwm2m, lifetime, address, .. } => {
                write!(f, "{device}: registered from {address}, LwM2M {lwm2m}")?;
                match lifetime {
                    Some(seconds) => write!(f, ", lifetime {seconds} s"),
                    None => f.write_str(", endless lifetime"),
                }
            }
            Self::DeviceUpdated { device } => write!(f, "{device}: registration changed"),
            Self::DeviceDeregistered { device } => write!(f, "{device}: deregistered"),
            Self::DeviceExpired { device } => write!(f, "{device}: lifetime expired without an update"),
            Self::DeviceUnreachable { device, detail } => write!(f, "{device}: unreachable: {detail}"),
            Self::RegistrationRefused { endpoint, address, code, detail } => {
                let endpoint = endpoint.as_deref().unwrap_or("a device without a name").escape_debug();
                write!(f, "{endpoint} at {address}: registration refused ({code}): {detail}")
            }
            Self::Undecodable { device, path, detail } => write!(f, "{device}: {path} could not be taken: {detail}"),
            Self::ObserveFailed { device, path, detail } => write!(f, "{device}: {path} is not observed: {detail}"),
            Self::RequestMalformed { topic, detail } => write!(f, "request on {topic}: {detail}"),
            Self::PublishRefused { topic, detail } => write!(f, "the broker refused a message on {topic}: {detail}"),
            Self::BrokerConnected { kept: true } => f.write_str("connected to the broker"),
            Self::BrokerConnected { kept: false } => f.write_str("connected to the broker; it has none of our retained messages, publishing them again"),
            Self::DeviceJoined { endpoint } => write!(f, "{}: approved through the join window", endpoint.escape_debug()),
            Self::DeviceBlocked { device } => write!(f, "{device}: its credential or approval is not valid any more; its registration has ended"),
            Self::DeviceRemoved { device } => write!(f, "{device}: removed"),
            Self::JoinWindowOpened { seconds } => write!(f, "the join window is open for {seconds} s: unknown devices that come are approved for good"),
            Self::JoinWindowClosed => f.write_str("the join window is closed"),
            Self::BrokerDisconnected { detail } => write!(f, "no broker: {detail}"),
        }
    }
}
