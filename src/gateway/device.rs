//! What the gateway keeps of each device.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::Serialize;

use crate::gateway::command::CommandId;
use crate::gateway::json::{Quality, Sample};
use crate::gateway::problems::Problem;
use crate::gateway::publish::{Class, Properties, Publish, Qos};
use crate::gateway::watch::{Watch, Watching};
use crate::kept;
use crate::lwm2m::Version;
use crate::lwm2m::{Path, Target};
use crate::mapping::{
    Destination, DeviceFacts, Format, History, Kind, Profile, Signal, breaks_text,
};
use crate::server::{DeviceId, Operation, OperationId, Server};
use crate::time::{Instant, UnixTime};

impl<'a> DeviceFacts<'a> {
    /// What is known of a device. One that is not registered is taken for one of LwM2M 1.1 that may
    /// have any object.
    pub fn of(server: &'a Server, id: DeviceId) -> Option<Self> {
        let registration = server.registration(id);
        Some(Self {
            endpoint: server.endpoint_name(id)?,
            lwm2m: registration.map_or(Version::V1_1, |registration| registration.version),
            objects: registration.map_or(&[], |registration| &registration.objects.objects),
        })
    }

    /// What was known of a device of an earlier process, also of one that had left.
    pub fn of_kept(endpoint: &'a str, registration: &'a kept::Registration) -> Self {
        Self {
            endpoint,
            lwm2m: registration.version,
            objects: &registration.objects.objects,
        }
    }
}

/// A device as MQTT shows it. It stays when the registration ends.
#[derive(Debug)]
pub struct Device {
    /// Its name in topics.
    pub name: Arc<str>,
    /// What the mappings make of it.
    pub profile: Arc<Profile>,
    /// Whether it can be reached, and since when.
    pub availability: Availability,
    /// Manufacturer, model, serial number, firmware version.
    pub about: About,
    /// What went wrong and stays wrong, for the birth message.
    pub problems: Vec<Problem>,
    /// What was seen so far, by path.
    pub signals: Vec<Tracked>,
    /// Samples of this device so far.
    pub sequence: u64,
    /// What is left of bringing the device to what the plan wants.
    pub setup: VecDeque<Operation>,
    /// Whether what the mapping writes once a registration is still to be written.
    pub greeting: bool,
    /// What the plan wants reported, by target.
    pub watches: Vec<Watch>,
    /// When it is looked after next, if anything can be due.
    pub supervised: Option<Instant>,
    /// The setup step under way.
    pub setup_running: Option<OperationId>,
    /// Its commands that are not final, in the order in which they came.
    pub commands: VecDeque<CommandId>,
    /// The signals whose wanted value is shown, and the command that wants it.
    pub targets: BTreeMap<String, CommandId>,
    /// Whether its `queue` topic says something.
    pub queue_shown: bool,
    /// When the availability was last published because of a mere contact.
    pub seen_published: Instant,
    /// Whether the store does not know when it was heard of last.
    pub contact_unkept: bool,
    /// Whether the store does not know all its values.
    pub values_unkept: bool,
    /// Whether the operator removed it, so that nothing of it stands on MQTT.
    pub removed: bool,
    /// The hash of the last birth message.
    pub birth: Option<u64>,
    /// When the next one is due, if anything changed.
    pub birth_due: Option<Instant>,
}

impl Device {
    /// A device that has just come.
    pub fn new(name: Arc<str>, profile: Arc<Profile>, now: UnixTime) -> Self {
        Self {
            name,
            profile,
            availability: Availability {
                state: State::Online,
                reason: Reason::Registered,
                since: now,
                last_seen: now,
            },
            about: About::default(),
            problems: Vec::new(),
            signals: Vec::new(),
            sequence: 0,
            setup: VecDeque::new(),
            greeting: false,
            watches: Vec::new(),
            supervised: None,
            setup_running: None,
            commands: VecDeque::new(),
            targets: BTreeMap::new(),
            queue_shown: false,
            seen_published: Instant::ZERO,
            contact_unkept: false,
            values_unkept: false,
            removed: false,
            birth: None,
            birth_due: None,
        }
    }

    /// Where the watch of a target stands, or would stand.
    pub fn find_watch(&self, target: &Target) -> Result<usize, usize> {
        self.watches
            .binary_search_by(|watch| watch.target.cmp(target))
    }

    /// The watch of a target, if the plan wants it reported.
    pub fn watch_mut(&mut self, target: &Target) -> Option<&mut Watch> {
        let at = self.find_watch(target).ok()?;
        self.watches.get_mut(at)
    }

    /// What the plan wants observed, and the device turned out not to have.
    pub fn absent(&self) -> impl Iterator<Item = Path> {
        let absent = self
            .watches
            .iter()
            .filter(|watch| watch.state == Watching::Absent);
        absent.filter_map(|watch| watch.target.node().copied())
    }

    /// Where the signal of a path stands, or would stand.
    pub fn find(&self, path: &Path) -> Result<usize, usize> {
        self.signals
            .binary_search_by(|tracked| tracked.path.cmp(path))
    }
}

/// A path of which at least one value came, and what becomes of its values.
#[derive(Debug)]
pub struct Tracked {
    /// A resource or resource instance.
    pub path: Path,
    /// What the mapping makes of it.
    pub destination: Destination,
    /// What MQTT 5 carries beside each value; shared, because it is the same each time.
    pub properties: Arc<Properties>,
    /// Whether the unit is the one that the sensor stated.
    pub stated_unit: bool,
    /// The newest value.
    pub last: Option<Sample>,
    /// Whether the store knows it.
    pub kept: bool,
    /// Whether the store knows an older value.
    pub unkept: bool,
    /// Whether the store's value is to be published at the next start, because the broker has not
    /// acknowledged it or a newer one.
    pub due: bool,
    /// When it came, or one that says the same.
    pub heard: Instant,
    /// How long it is good without another one, in seconds; 0 is for good.
    pub fresh_for: u32,
    /// Whether it stands as stale.
    pub stale: bool,
}

impl Tracked {
    /// A path whose values go where `destination` says.
    pub fn new(path: Path, destination: Destination, endpoint: &str) -> Self {
        let format = match &destination {
            Destination::Signal(signal) => signal.format,
            _ => Format::Json,
        };
        let user = vec![
            ("path".to_owned(), path.to_string()),
            // Characters for which a broker may end the connection are shown as the replacement one.
            (
                "ep".to_owned(),
                endpoint.replace(
                    breaks_text,
                    char::REPLACEMENT_CHARACTER.encode_utf8(&mut [0; 4]),
                ),
            ),
        ];
        let signal = destination.signal().filter(|signal| signal.retain);
        let properties = Properties {
            content_type: Some(content_type(format)),
            expiry: signal.and_then(|signal| signal.expire),
            user,
            ..Properties::default()
        };
        Self {
            path,
            destination,
            properties: Arc::new(properties),
            stated_unit: false,
            last: None,
            kept: false,
            unkept: false,
            due: false,
            heard: Instant::ZERO,
            fresh_for: 0,
            stale: false,
        }
    }

    /// Whether the broker is to have the value that stands for good, and says when it has.
    pub fn is_owed(&self) -> bool {
        matches!(&self.destination, Destination::Signal(signal)
            if signal.retain && qos_of(signal) == Qos::AtLeastOnce)
    }

    /// A value as a message, as it comes. `mark` tells the message that it came in from others.
    pub fn publish_marked(&self, signal: &Signal, sample: &Sample, mark: Option<&str>) -> Publish {
        let (unit, quality) = (signal.unit.as_deref(), sample.quality());
        self.message(
            signal,
            sample.to_payload(signal.format, unit, quality, mark),
        )
    }

    /// A value as a message.
    pub fn publish_of(&self, signal: &Signal, sample: &Sample, quality: Quality) -> Publish {
        let unit = signal.unit.as_deref();
        self.message(
            signal,
            sample.to_payload(signal.format, unit, quality, None),
        )
    }

    fn message(&self, signal: &Signal, payload: Vec<u8>) -> Publish {
        let message = Publish {
            qos: qos_of(signal),
            properties: Some(self.properties.clone()),
            ..Publish::state(signal.topic.clone(), payload)
        };
        if signal.retain {
            return message;
        }
        Publish {
            retain: false,
            class: if signal.kind == Kind::Telemetry {
                Class::Sample
            } else {
                Class::Event
            },
            ..message
        }
    }

    /// The value that stands, as a message for a broker that does not have it.
    pub fn publish_again(&self) -> Option<Publish> {
        let (signal, sample) = (self.destination.signal()?, self.last.as_ref()?);
        let quality = match sample.suspect {
            _ if self.stale => Quality::Stale,
            true => Quality::Suspect,
            false => Quality::Cached,
        };
        Some(self.publish_of(signal, sample, quality))
    }

    /// Samples as messages of the signal's history: one that is measured now as it stands on the
    /// signal's own topic, those that were stored as one message.
    pub fn history_of(
        &self,
        signal: &Signal,
        history: &History,
        samples: &[Sample],
        live: bool,
        mark: Option<&str>,
    ) -> Vec<Publish> {
        let unit = signal.unit.as_deref();
        let is_alike = history.format == signal.format && self.properties.expiry.is_none();
        let properties = if is_alike {
            self.properties.clone()
        } else {
            Arc::new(Properties {
                content_type: Some(content_type(history.format)),
                expiry: None,
                ..(*self.properties).clone()
            })
        };
        let message = |payload| Publish {
            qos: qos_of(signal),
            properties: Some(properties.clone()),
            class: Class::Sample,
            ..Publish::event(history.topic.clone(), payload)
        };
        if history.format == Format::Json && !live {
            return vec![message(Sample::stored_to_json(samples, unit, mark))];
        }
        samples
            .iter()
            .map(|sample| message(sample.to_payload(history.format, unit, sample.quality(), mark)))
            .collect()
    }
}

const fn content_type(format: Format) -> &'static str {
    match format {
        Format::Json => "application/json",
        Format::Value => "text/plain",
    }
}

const fn qos_of(signal: &Signal) -> Qos {
    if signal.qos == 0 {
        Qos::AtMostOnce
    } else {
        Qos::AtLeastOnce
    }
}

/// The state of a device (MQTT contract §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It can be reached now.
    #[n(0)]
    Online,
    /// It cannot be reached.
    #[n(1)]
    Offline,
    /// It is registered and sleeps: what is wanted of it waits until it says something.
    #[n(2)]
    Asleep,
    /// It should have been heard of, and its registration still stands.
    #[n(3)]
    Late,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Online, Self::Asleep, Self::Late, Self::Offline];

    /// As messages spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Asleep => "asleep",
            Self::Late => "late",
            Self::Offline => "offline",
        }
    }
}

/// Why a device is in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It registered.
    #[n(0)]
    Registered,
    /// It updated its registration.
    #[n(1)]
    Update,
    /// It sent a notification.
    #[n(2)]
    Notify,
    /// It sent values of its own accord.
    #[n(12)]
    Send,
    /// It listens no more after its last message.
    #[n(8)]
    WindowClosed,
    /// The contact that was expected did not come.
    #[n(9)]
    Overdue,
    /// It took its leave.
    #[n(3)]
    Deregistered,
    /// Its lifetime passed.
    #[n(4)]
    LifetimeExpired,
    /// It did not answer.
    #[n(5)]
    Unreachable,
    /// What let it in is not valid any more.
    #[n(6)]
    Blocked,
    /// The gateway was not there when the device was to be heard of.
    #[n(11)]
    GatewayRestart,
}

/// Whether a device can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Availability {
    /// The state.
    #[n(0)]
    pub state: State,
    /// Why.
    #[n(1)]
    pub reason: Reason,
    /// Since when.
    #[n(2)]
    pub since: UnixTime,
    /// The last packet from the device itself; no timer of ours moves it.
    #[n(3)]
    pub last_seen: UnixTime,
}

/// What a device says of itself in object 3.
#[derive(Clone, Debug, Default, PartialEq, Serialize, minicbor::Encode, minicbor::Decode)]
pub struct About {
    /// /3/0/0
    #[serde(skip_serializing_if = "Option::is_none")]
    #[n(0)]
    pub manufacturer: Option<String>,
    /// /3/0/1
    #[serde(skip_serializing_if = "Option::is_none")]
    #[n(1)]
    pub model: Option<String>,
    /// /3/0/2
    #[serde(skip_serializing_if = "Option::is_none")]
    #[n(2)]
    pub serial: Option<String>,
    /// /3/0/3
    #[serde(skip_serializing_if = "Option::is_none")]
    #[n(3)]
    pub firmware: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lwm2m::Models;
    use crate::mapping::{Plan, Source};

    #[test]
    fn what_expires_says_so_where_it_is_retained_and_nowhere_else() {
        let source = Source {
            file: "test.toml".into(),
            text: r#"
                schema = 1
                [profile]
                id = "test"
                [match]
                endpoint = "*"
                [defaults]
                expire = "48h"
                [[signal]]
                path = "/3/0/9"
                history = true
                [[signal]]
                path = "/3/0/7/*"
                retain = false
            "#
            .into(),
        };
        let models = Models::builtin();
        let plan = Plan::compile(&[source], &models, "lwm2mqtt").plan.unwrap();
        let facts = DeviceFacts {
            endpoint: "dev1",
            lwm2m: Version::V1_1,
            objects: &[],
        };
        let profile = plan.profile(&facts);
        let tracked = |path: Path| {
            let destination = profile.signal("dev1", &facts, &path, &models);
            Tracked::new(path, destination, "dev1")
        };
        let battery = tracked(Path::resource(3, 0, 9));
        assert_eq!(battery.properties.expiry, Some(172_800));
        let signal = battery.destination.signal().unwrap();
        let history = signal.history.as_ref().unwrap();
        let messages = battery.history_of(signal, history, &[], false, None);
        let expiries = messages.iter().map(|message| message.properties.as_ref());
        let expiries: Vec<_> = expiries.map(|it| it.and_then(|it| it.expiry)).collect();
        assert_eq!(expiries, [None]);
        let voltage = tracked(Path::resource_instance(3, 0, 7, 0));
        assert_eq!(voltage.properties.expiry, None);
    }
}
