//! What happens, for the log and for `{base}/bridge/event`.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use rand::Rng;
use serde::Serialize;

use crate::keyed::{self, KeyedMap};
use crate::time::Instant;

/// How many complaints there may be at once, and how long until there may be another one.
#[derive(Clone, Copy, Debug)]
struct Ration {
    most: u32,
    interval: Duration,
}

/// Of all peers together.
const ALL: Ration = Ration {
    most: 100,
    interval: Duration::from_millis(200),
};

/// Of one address: enough for a person to see what is wrong with a device, or with a few behind
/// one address.
const ONE: Ration = Ration {
    most: 5,
    interval: Duration::from_secs(10),
};

/// Addresses that are remembered; beyond that the longest known is forgotten.
const SOURCES: usize = 1_024;

/// What keeps hostile peers from filling the log and the outbox with complaints about them, and one
/// of them from hiding the others.
#[derive(Debug)]
pub(super) struct Complaints {
    all: Allowance,
    by_source: KeyedMap<IpAddr, Allowance>,
    /// In the order in which they came.
    sources: VecDeque<IpAddr>,
}

impl Complaints {
    pub(super) fn new(now: Instant, rng: &mut impl Rng) -> Self {
        Self {
            all: Allowance::new(now, ALL),
            by_source: keyed::map(rng),
            sources: VecDeque::new(),
        }
    }

    /// Whether there may be one more, about this address if it is about one.
    pub(super) fn take(&mut self, now: Instant, source: Option<IpAddr>) -> bool {
        source.is_none_or(|source| self.of(now, source).take(now)) && self.all.take(now)
    }

    fn of(&mut self, now: Instant, source: IpAddr) -> &mut Allowance {
        if !self.by_source.contains_key(&source) {
            if self.sources.len() >= SOURCES
                && let Some(oldest) = self.sources.pop_front()
            {
                self.by_source.remove(&oldest);
            }
            self.sources.push_back(source);
        }
        self.by_source
            .entry(source)
            .or_insert_with(|| Allowance::new(now, ONE))
    }
}

/// A bucket, refilled one by one.
#[derive(Debug)]
struct Allowance {
    ration: Ration,
    left: u32,
    refilled: Instant,
}

impl Allowance {
    /// A full one.
    const fn new(now: Instant, ration: Ration) -> Self {
        Self {
            ration,
            left: ration.most,
            refilled: now,
        }
    }

    /// Takes one, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.since(self.refilled).as_millis() / self.ration.interval.as_millis();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed > 0 {
            self.left = self.left.saturating_add(passed).min(self.ration.most);
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
    /// A device is at another address, with the same secure session (RFC 9146).
    DeviceMoved {
        /// Its name in topics.
        device: String,
        /// Where it was.
        from: String,
        /// Where it is.
        address: String,
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
        /// Who it has proven to be; absent without security.
        #[serde(skip_serializing_if = "Option::is_none")]
        identity: Option<String>,
        /// The code that it got.
        code: String,
        /// Why.
        detail: String,
    },
    /// A Send was refused, with all its values.
    SendRefused {
        /// Its name in topics, if a device is registered there.
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// From where it came.
        address: String,
        /// The code that it got.
        code: String,
        /// Why.
        detail: String,
    },
    /// A secure session did not come about.
    HandshakeFailed {
        /// From where it came.
        address: String,
        /// Why, in the words of the one who has to mend it.
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
    /// Samples that waited for the broker gave way to newer ones: they are lost.
    SpoolDropped {
        /// How many, since it was said last.
        samples: u64,
    },
    /// What waits for the broker could not be written down, so devices are not acknowledged.
    SpoolFailed {
        /// Why.
        detail: String,
    },
    /// The mapping files were read, and what they say holds.
    MappingLoaded {
        /// How many.
        files: usize,
        /// Of all of them; other files have another one.
        hash: String,
        /// What they may not do as their author believes, in numbers.
        warnings: usize,
    },
    /// The mapping files were read and have mistakes, so nothing has changed.
    MappingRejected {
        /// How many.
        files: usize,
        /// Of those that hold.
        hash: String,
        /// How many mistakes there are.
        mistakes: usize,
        /// The first of them, each with its place.
        diagnostics: Vec<String>,
    },
    /// Topics that the broker retained and nobody answered for were deleted.
    RetainedCleaned {
        /// How many.
        topics: usize,
    },
    /// The broker is there. For the log alone.
    BrokerConnected {
        /// Whether it had kept our retained messages.
        kept: bool,
    },
    /// Another gateway publishes on the same topics.
    OtherGateway {
        /// What it calls itself.
        gateway: String,
        /// The topics of both.
        base_topic: String,
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
    /// A device is called otherwise now, and its topics have moved.
    DeviceRenamed {
        /// Its name in topics.
        device: String,
        /// Its name until now.
        was: String,
    },
    /// A device has the firmware or software that it was to have.
    UpdateDone {
        /// Its name in topics.
        device: String,
        /// The image.
        file: String,
    },
    /// An update came to nothing.
    UpdateFailed {
        /// Its name in topics.
        device: String,
        /// The image.
        file: String,
        /// Why.
        detail: String,
    },
    /// Somebody opened the join window.
    JoinWindowOpened {
        /// For how long, in seconds.
        seconds: u64,
    },
    /// The join window closed.
    JoinWindowClosed,
    /// A device is being bootstrapped.
    BootstrapStarted {
        /// Its endpoint name.
        endpoint: String,
        /// Where it is.
        address: String,
        /// The id of the profile that it gets.
        profile: String,
    },
    /// A bootstrap came to another step.
    BootstrapProgress {
        /// Its endpoint name.
        endpoint: String,
        /// `discover`, `read`, `delete`, `write` or `finish`.
        step: String,
    },
    /// A device has its configuration and found it sound.
    BootstrapDone {
        /// Its endpoint name.
        endpoint: String,
        /// Instances and resources written.
        written: u32,
        /// How long it took.
        seconds: u64,
        /// What went wrong and did not matter enough to stop.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        notes: Vec<String>,
    },
    /// A bootstrap came to nothing.
    BootstrapFailed {
        /// Its endpoint name.
        endpoint: String,
        /// Where: as in [`Event::BootstrapProgress`], or `trigger` when the device was asked to
        /// bootstrap and did not begin.
        step: String,
        /// Why.
        detail: String,
    },
    /// A device fetched its configuration as a Bootstrap-Pack.
    BootstrapPack {
        /// Its endpoint name.
        endpoint: String,
        /// Where it is.
        address: String,
        /// The id of the profile that it got.
        profile: String,
        /// Instances in it.
        written: u32,
    },
    /// A device asked to be bootstrapped, and was not.
    BootstrapRefused {
        /// Its endpoint name, if it gave one.
        #[serde(skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
        /// From where it came.
        address: String,
        /// Who the handshake found it to be; absent without security.
        #[serde(skip_serializing_if = "Option::is_none")]
        identity: Option<String>,
        /// The code that it got.
        code: String,
        /// Why.
        detail: String,
    },
}

impl Event {
    /// For whom it is.
    pub const fn severity(&self) -> Severity {
        match self {
            Self::DeviceNew { .. }
            | Self::DeviceRegistered { .. }
            | Self::DeviceUpdated { .. }
            | Self::DeviceMoved { .. }
            | Self::DeviceDeregistered { .. }
            | Self::DeviceJoined { .. }
            | Self::DeviceRemoved { .. }
            | Self::DeviceRenamed { .. }
            | Self::UpdateDone { .. }
            | Self::JoinWindowClosed
            | Self::MappingLoaded { .. }
            | Self::RetainedCleaned { .. }
            | Self::BrokerConnected { .. }
            | Self::BootstrapStarted { .. }
            | Self::BootstrapProgress { .. }
            | Self::BootstrapDone { .. }
            | Self::BootstrapPack { .. } => Severity::Info,
            _ => Severity::Warning,
        }
    }

    /// Whether a peer can cause it as often as it likes.
    pub const fn is_complaint(&self) -> bool {
        matches!(
            self,
            Self::RegistrationRefused { .. }
                | Self::SendRefused { .. }
                | Self::HandshakeFailed { .. }
                | Self::Undecodable { .. }
                | Self::ObserveFailed { .. }
                | Self::RequestMalformed { .. }
                | Self::BootstrapStarted { .. }
                | Self::BootstrapProgress { .. }
                | Self::BootstrapDone { .. }
                | Self::BootstrapFailed { .. }
                | Self::BootstrapPack { .. }
                | Self::BootstrapRefused { .. }
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

/// One line for the log, whatever a device, an MQTT client or a broker put into it.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(&mut OneLine(f))
    }
}

/// Writes what would end a line, or make it look like another one, as an escape.
struct OneLine<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(is_deceptive) {
            let last = part.char_indices().next_back();
            match last.filter(|(_, last)| is_deceptive(*last)) {
                None => self.0.write_str(part)?,
                Some((at, last)) => {
                    self.0.write_str(part.get(..at).unwrap_or_default())?;
                    write!(self.0, "{}", last.escape_debug())?;
                }
            }
        }
        Ok(())
    }
}

/// Control characters, those that separate lines or are not to be seen, and those that turn the
/// direction of writing.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

impl Event {
    fn write(&self, f: &mut OneLine<'_, '_>) -> fmt::Result {
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
            Self::DeviceMoved { device, from, address } => write!(f, "{device}: moved from {from} to {address}, same session"),
            Self::HandshakeFailed { address, detail } => write!(f, "{address}: no secure session: {detail}"),
            Self::DeviceDeregistered { device } => write!(f, "{device}: deregistered"),
            Self::DeviceExpired { device } => write!(f, "{device}: lifetime expired without an update"),
            Self::DeviceUnreachable { device, detail } => write!(f, "{device}: unreachable: {detail}"),
            Self::RegistrationRefused { endpoint, address, identity, code, detail } => {
                let endpoint = endpoint.as_deref().unwrap_or("a device without a name").escape_debug();
                write!(f, "{endpoint} at {address}")?;
                if let Some(identity) = identity {
                    write!(f, ", {identity}")?;
                }
                write!(f, ": registration refused ({code}): {detail}")
            }
            Self::SendRefused { device, address, code, detail } => {
                let device = device.as_deref().unwrap_or("nobody who is registered");
                write!(f, "{device} at {address}: values sent were refused ({code}): {detail}")
            }
            Self::Undecodable { device, path, detail } => write!(f, "{device}: {path} could not be taken: {detail}"),
            Self::ObserveFailed { device, path, detail } => write!(f, "{device}: {path} is not observed: {detail}"),
            Self::RequestMalformed { topic, detail } => write!(f, "request on {topic}: {detail}"),
            Self::PublishRefused { topic, detail } => write!(f, "the broker refused a message on {topic}: {detail}"),
            Self::SpoolDropped { samples } => write!(f, "{samples} samples that waited for the broker are lost: the spool is full, see [mqtt.spool] max_size"),
            Self::SpoolFailed { detail } => write!(f, "what waits for the broker could not be written down, so the devices are not acknowledged: {detail}"),
            Self::MappingLoaded { files, hash, warnings } => {
                write!(f, "mapping files read: {files}, hash {hash}")?;
                match warnings {
                    0 => Ok(()),
                    warnings => write!(f, ", warnings: {warnings}"),
                }
            }
            Self::MappingRejected { files, hash, mistakes, diagnostics } => {
                write!(f, "mapping files read: {files}, mistakes: {mistakes}; the mappings stay as they were, hash {hash}")?;
                diagnostics.first().map_or(Ok(()), |first| write!(f, ": {first}"))
            }
            Self::RetainedCleaned { topics } => write!(f, "deleted at the broker, because nobody answered for them: {topics} topics"),
            Self::BrokerConnected { kept: true } => f.write_str("connected to the broker"),
            Self::BrokerConnected { kept: false } => f.write_str("connected to the broker; it has none of our retained messages, publishing them again"),
            Self::DeviceJoined { endpoint } => write!(f, "{}: approved through the join window", endpoint.escape_debug()),
            Self::DeviceBlocked { device } => write!(f, "{device}: its credential or approval is not valid any more; its registration has ended"),
            Self::DeviceRemoved { device } => write!(f, "{device}: removed"),
            Self::DeviceRenamed { device, was } => write!(f, "{was} is {device} now"),
            Self::UpdateDone { device, file } => write!(f, "{device}: updated to {file}"),
            Self::UpdateFailed { device, file, detail } => write!(f, "{device}: update to {file} failed: {detail}"),
            Self::JoinWindowOpened { seconds } => write!(f, "the join window is open for {seconds} s: unknown devices that come are approved for good"),
            Self::JoinWindowClosed => f.write_str("the join window is closed"),
            Self::OtherGateway { gateway, base_topic } => write!(f, "another gateway, {gateway}, publishes below {base_topic} too, and each takes the other's devices for its own: give one of them another [mqtt] base_topic, unless it is gone or was this one under another [gateway] id"),
            Self::BrokerDisconnected { detail } => write!(f, "no broker: {detail}"),
            Self::BootstrapStarted { endpoint, address, profile } => {
                write!(f, "{}: bootstrapped from {address} by profile {profile}", endpoint.escape_debug())
            }
            Self::BootstrapProgress { endpoint, step } => write!(f, "{}: bootstrap comes to {step}", endpoint.escape_debug()),
            Self::BootstrapDone { endpoint, written, seconds, notes } => {
                write!(f, "{}: bootstrap done, {written} written in {seconds} s", endpoint.escape_debug())?;
                notes.iter().try_for_each(|note| write!(f, "; {note}"))
            }
            Self::BootstrapFailed { endpoint, step, detail } => {
                write!(f, "{}: bootstrap failed at {step}: {detail}", endpoint.escape_debug())
            }
            Self::BootstrapPack { endpoint, address, profile, written } => {
                write!(f, "{} at {address}: got profile {profile} as a pack of {written} instances", endpoint.escape_debug())
            }
            Self::BootstrapRefused { endpoint, address, identity, code, detail } => {
                let endpoint = endpoint.as_deref().unwrap_or("a device without a name").escape_debug();
                write!(f, "{endpoint} at {address}")?;
                if let Some(identity) = identity {
                    write!(f, ", {identity}")?;
                }
                write!(f, ": bootstrap refused ({code}): {detail}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
