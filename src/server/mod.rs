//! The LwM2M server towards the devices: registrations, operations, observations.
//!
//! [`Server`] takes datagrams and time, and gives datagrams and [`Event`]s. What is *absent* here:
//! MQTT, mappings, and what the values mean.

mod abilities;
mod answer;
mod asking;
pub mod bootstrap;
pub mod credentials;
mod device;
mod formats;
mod interface;
mod keeping;
mod operation;
mod profile_ids;
mod registration;
mod send;
mod single;
#[cfg(test)]
mod tests;
mod transfer;
mod transport;
mod wake;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::coap::{
    self, Cancel, Code, Endpoint, ExchangeId, Failure, IncomingId, ObservationId, Peer, Position,
    Request, Response,
};
use crate::dtls::{self, Mux, PeerIdentity, SessionId};
use crate::kept::Change;
use crate::keyed::{self, KeyedMap};
use crate::lwm2m::codec::{Context, Problem};
use crate::lwm2m::model::Models;
use crate::lwm2m::{ContentFormat, Id, Path, Record, Target};
use crate::route::Route;
use crate::server::abilities::Abilities;
use crate::server::credentials::Book;
use crate::server::device::{Device, Queued};
use crate::server::profile_ids::ProfileIds;
use crate::server::registration::{Register, parse_register, parse_update};
use crate::server::single::Single;
use crate::time::{Instant, Now, UnixTime};

pub use answer::{Answer, OperationError};
pub use credentials::Join;
pub use credentials::Purpose;
pub use device::{DeviceId, OperationId, Registration};
pub use formats::{Composite, Formats};
pub use operation::Operation;
pub use registration::{Refusal, Terms};
pub use send::{Mark, Receipt};
pub use transfer::Offer;
pub use transport::Listener;

/// The first segment of every location.
const REGISTRATION_PATH: &str = "rd";

/// What the operator decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who may register.
    pub policy: credentials::Policy,
    /// How long after its lifetime a device still counts as registered.
    pub lifetime_grace: Duration,
    /// How long a device in queue mode listens after each message of its own, unless its mapping
    /// says otherwise.
    pub awake_window: Duration,
    /// Where devices reach us, by the numbers of [`Route::listener`]. A number that is not here
    /// serves devices in clear.
    pub listeners: Vec<Listener>,
    /// What the bootstrap server tells devices.
    pub bootstrap_profiles: Arc<bootstrap::Profiles>,
}

impl Default for Settings {
    /// Devices that are known, in clear; nobody is bootstrapped.
    fn default() -> Self {
        Self {
            policy: credentials::Policy::default(),
            lifetime_grace: Duration::from_secs(30),
            awake_window: Duration::from_secs(93),
            listeners: Vec::new(),
            bootstrap_profiles: Arc::default(),
        }
    }
}

impl Settings {
    fn listener(&self, number: u16) -> Option<&Listener> {
        self.listeners.get(usize::from(number))
    }

    fn is_secure(&self, number: u16) -> bool {
        self.listener(number)
            .is_some_and(|listener| listener.secure)
    }
}

/// Caps on what devices can make grow.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Endpoint names, registered or not.
    pub devices: usize,
    /// Operations that wait for one device.
    pub operations_per_device: usize,
    /// Credentials and approvals.
    pub credentials: credentials::Limits,
    /// Devices that are being bootstrapped at a time.
    pub bootstraps: usize,
    /// Object lists that are remembered by a profile ID.
    pub profile_ids: usize,
    /// The message layer's own.
    pub coap: coap::Limits,
    /// The secure transport's own.
    pub dtls: dtls::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            devices: 200_000,
            operations_per_device: 64,
            credentials: credentials::Limits::default(),
            bootstraps: 10_000,
            profile_ids: 1_000,
            coap: coap::Limits::default(),
            dtls: dtls::Limits::default(),
        }
    }
}

/// What comes out of [`Server::poll`].
#[derive(Debug)]
pub enum Output {
    /// Send this datagram.
    Datagram {
        /// To whom.
        route: Route,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// Store this: before what follows is done, if its urgency is
    /// [`Now`](crate::kept::Urgency::Now).
    Store(Change),
    /// Something happened.
    Event(Event),
    /// Run this on a thread of its own, and give it to [`Server::worked`].
    Work(dtls::Work),
}

/// What the gateway has to know of the devices.
#[derive(Debug)]
pub enum Event {
    /// A device registered. All its observations are void, and operations that waited for it ended.
    Registered {
        /// Which.
        device: DeviceId,
        /// Whether this endpoint name was never seen before.
        new: bool,
    },
    /// A device refreshed its registration.
    Updated {
        /// Which.
        device: DeviceId,
        /// Whether lifetime, binding or objects are not what they were.
        changed: bool,
    },
    /// An operation of ours changed what a device has registered, its lifetime or its objects.
    Amended(DeviceId),
    /// A device is heard of again that slept, or that was overdue. What it said, if that is an
    /// event, comes first.
    Woke(DeviceId),
    /// A device in queue mode listens no more: its awake window closed, or it did not answer.
    Slept(DeviceId),
    /// A device was to be heard of by now and was not; its lifetime is not over yet.
    Overdue(DeviceId),
    /// A device took its leave.
    Deregistered(DeviceId),
    /// A device's lifetime passed, and the grace.
    Expired {
        /// Which.
        device: DeviceId,
        /// When the lifetime ended, without the grace.
        at: UnixTime,
    },
    /// A device lost what let it in: it was removed, or its credentials changed.
    Revoked {
        /// Which.
        device: DeviceId,
        /// Whether nothing is to be kept of it.
        removed: bool,
    },
    /// The open join window approved an endpoint.
    Joined(Arc<str>),
    /// The join window closed, because its time was over.
    WindowClosed,
    /// A Register or Update was refused.
    Refused {
        /// From where it came.
        peer: Peer,
        /// The endpoint name, if there was one.
        endpoint: Option<String>,
        /// Code and reason.
        refusal: Refusal,
    },
    /// A handshake came to nothing. Rationed a source.
    HandshakeFailed {
        /// From where it came.
        route: Route,
        /// Why.
        reason: dtls::Fatal,
    },
    /// A device is at another address, and its session went with it (RFC 9146 §6).
    Moved {
        /// Which.
        device: DeviceId,
        /// Where it was.
        from: Route,
    },
    /// An operation left for the device.
    Started(OperationId),
    /// An operation ended; exactly once each.
    Completed {
        /// Which operation.
        operation: OperationId,
        /// At which device.
        device: DeviceId,
        /// What was asked.
        asked: Operation,
        /// How it ended.
        result: Result<Answer, OperationError>,
    },
    /// An observed node changed.
    Notified {
        /// Which device.
        device: DeviceId,
        /// What is observed: one node, or those of a composite observation, which brings the
        /// values of all of them.
        target: Target,
        /// Its values.
        records: Vec<Record>,
        /// What of the payload could not be taken.
        problems: Vec<Problem>,
        /// Whether a newer notification came before this one (RFC 7641 §3.4).
        overtaken: bool,
        /// What tells it from others.
        mark: Option<Mark>,
        /// Give it to [`Server::acknowledge`] when the values are safe.
        receipt: Option<Receipt>,
    },
    /// A device sent values of its own accord (Send): those of one message, all of them.
    Sent {
        /// Which device.
        device: DeviceId,
        /// The values.
        records: Vec<Record>,
        /// What tells it from others.
        mark: Option<Mark>,
        /// Give it to [`Server::acknowledge`] when the values are safe.
        receipt: Receipt,
    },
    /// A Send was refused, as a whole.
    SendRefused {
        /// From where it came.
        peer: Peer,
        /// The device that is registered there, if one is.
        device: Option<DeviceId>,
        /// Code and reason.
        refusal: Refusal,
    },
    /// A notification whose payload could not be decoded at all. It was acknowledged: a repetition
    /// would be no better.
    Undecodable {
        /// Which device.
        device: DeviceId,
        /// What is observed.
        target: Target,
        /// Why.
        error: OperationError,
    },
    /// The device ended an observation.
    ObservationEnded {
        /// Which device.
        device: DeviceId,
        /// What was observed.
        target: Target,
        /// Its code; 4.04 says that the node is gone.
        code: Code,
    },
    /// The device has so much of a body that is sent by [`Server::upload`]; it may be less than
    /// before, when the device has lost what it had.
    UploadProgress {
        /// Which.
        operation: OperationId,
        /// At which device.
        device: DeviceId,
        /// Where the next block begins.
        position: Position,
    },
    /// A [`Server::upload`] ended; exactly once each.
    UploadEnded {
        /// Which.
        operation: OperationId,
        /// At which device.
        device: DeviceId,
        /// How.
        result: Result<(), OperationError>,
    },
    /// A device fetched a part of what is offered by [`Server::offer`].
    Fetched {
        /// Which device.
        device: DeviceId,
        /// The bytes from the beginning to the end of that part.
        bytes: usize,
    },
    /// Something about a bootstrap.
    Bootstrap {
        /// With whom.
        peer: Peer,
        /// Its endpoint name, as far as it is known.
        endpoint: Option<Arc<str>>,
        /// What.
        news: bootstrap::News,
    },
}

/// The place of a notification among those of its observation.
#[derive(Clone, Copy, Debug)]
struct Order {
    /// It is the last.
    ended: bool,
    /// A newer one came before it.
    overtaken: bool,
}

/// An operation that was sent.
#[derive(Debug)]
struct Running {
    id: OperationId,
    device: DeviceId,
    asked: Operation,
    /// How far it is, if it is a composite operation that is done one node at a time.
    single: Option<Box<Single>>,
    attempt: u8,
    formats: Option<Composite>,
    /// The instance that we chose, of a Create that names none.
    chosen: Option<Id>,
}

impl Running {
    /// What is under way.
    fn step(&self) -> &Operation {
        self.single
            .as_ref()
            .map_or(&self.asked, |single| &single.step)
    }
}

/// The LwM2M server.
pub struct Server {
    settings: Settings,
    limits: Limits,
    models: Arc<Models>,
    endpoint: Endpoint,
    /// `None` where nothing is secured.
    mux: Option<Mux>,
    devices: Vec<Device>,
    by_endpoint: KeyedMap<Arc<str>, DeviceId>,
    by_location: KeyedMap<Box<str>, DeviceId>,
    /// Who registered from where; of several, the last.
    by_peer: KeyedMap<Peer, DeviceId>,
    /// Whose registration came through a secure session.
    by_identity: KeyedMap<Arc<PeerIdentity>, DeviceId>,
    /// Devices that slept or were overdue, and have just said something.
    woken: Vec<DeviceId>,
    running: KeyedMap<ExchangeId, Running>,
    observations: KeyedMap<ObservationId, (DeviceId, Target)>,
    transfers: transfer::Transfers,
    bootstrap: bootstrap::Bootstrap,
    profile_ids: ProfileIds,
    /// When each device is to be looked at next: see [`Server::watch`].
    deadlines: BTreeSet<(Instant, DeviceId)>,
    book: Book,
    operations: u64,
    rng: StdRng,
    outputs: VecDeque<Output>,
}

impl Server {
    /// A server without devices. The same `seed` gives the same locations, tokens and message ids.
    pub fn new(
        settings: Settings,
        limits: Limits,
        parameters: coap::Parameters,
        models: Arc<Models>,
        engine: Option<Box<dyn dtls::Engine>>,
        seed: [u8; 32],
    ) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let book = Book::new(
            settings.policy.clone(),
            limits.credentials.clone(),
            &mut rng,
        );
        let mux = engine.map(|engine| {
            let mut mux = Mux::new(engine, limits.dtls.clone(), &mut rng);
            for (number, listener) in settings.listeners.iter().enumerate() {
                if listener.secure {
                    mux.serve(number as u16, book.keys(listener.purpose));
                }
            }
            mux
        });
        Self {
            bootstrap: bootstrap::Bootstrap::new(&mut rng),
            profile_ids: ProfileIds::new(limits.profile_ids, &mut rng),
            settings,
            models,
            endpoint: Endpoint::new(parameters, limits.coap.clone(), rng.random()),
            mux,
            limits,
            devices: Vec::new(),
            by_endpoint: keyed::map(&mut rng),
            by_location: keyed::map(&mut rng),
            by_peer: keyed::map(&mut rng),
            by_identity: keyed::map(&mut rng),
            woken: Vec::new(),
            running: keyed::map(&mut rng),
            observations: keyed::map(&mut rng),
            transfers: transfer::Transfers::new(&mut rng),
            deadlines: BTreeSet::new(),
            book,
            operations: 0,
            rng,
            outputs: VecDeque::new(),
        }
    }

    /// The instant of [`Server::next_timeout`] has come.
    pub fn timeout(&mut self, now: Now) {
        self.endpoint.timeout(now.instant);
        if let Some(mux) = &mut self.mux {
            mux.timeout(now);
        }
        self.pump(now);
        self.tend_devices(now);
        self.book.timeout(now);
        self.settle(now);
        // What that ended has to be told to the devices now, not with the next datagram.
        self.pump(now);
    }

    /// What to do next, until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Server::timeout`] is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        let expiry = self.deadlines.first().map(|(at, _)| *at);
        let secure = self.mux.as_ref().and_then(Mux::next_timeout);
        [
            self.endpoint.next_timeout(),
            secure,
            expiry,
            self.book.next_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Who may come in.
    pub const fn book(&self) -> &Book {
        &self.book
    }

    /// Changes who may come in: what has to be stored comes out of [`Server::poll`], and whoever
    /// may be here no longer is gone when this returns.
    pub fn with_book<T>(&mut self, now: Now, change: impl FnOnce(&mut Book) -> T) -> T {
        let result = change(&mut self.book);
        self.settle(now);
        self.pump(now);
        result
    }

    /// The number of an endpoint that was seen before.
    pub fn device_of(&self, endpoint: &str) -> Option<DeviceId> {
        self.by_endpoint.get(endpoint).copied()
    }

    /// The endpoint name of a device.
    pub fn endpoint_name(&self, device: DeviceId) -> Option<&Arc<str>> {
        Some(&self.devices.get(device.0 as usize)?.endpoint)
    }

    /// The registration of a device, if it has one.
    pub fn registration(&self, device: DeviceId) -> Option<&Registration> {
        self.devices.get(device.0 as usize)?.registration.as_ref()
    }

    /// How many devices are registered.
    pub fn registrations(&self) -> usize {
        self.by_location.len()
    }

    /// What the message layer dropped or repeated.
    pub fn counters(&self) -> coap::Counters {
        self.endpoint.counters()
    }

    /// Takes custody of a notification or a Send: its values are safe.
    pub fn acknowledge(&mut self, now: Now, receipt: Receipt) {
        match receipt {
            Receipt::Notification(receipt) => self.endpoint.acknowledge(receipt),
            Receipt::Send(incoming) => {
                let done = Response::new(Code::CHANGED);
                self.endpoint.respond(now.instant, incoming, done);
            }
        }
        self.pump(now);
    }

    /// Asks something of a device. [`Event::Completed`] tells how it ended.
    pub fn operate(&mut self, now: Now, device: DeviceId, operation: Operation) -> OperationId {
        self.operations += 1;
        let id = OperationId(self.operations);
        let limit = self.limits.operations_per_device;
        let refused = match self.registration_mut(device) {
            None => OperationError::Unregistered,
            Some(registration) if registration.queue.len() >= limit => OperationError::QueueFull,
            Some(registration) => {
                registration.queue.push_back(Queued { id, operation });
                self.start_next(now, device);
                self.pump(now);
                return id;
            }
        };
        self.complete(id, device, operation, Err(refused));
        id
    }

    /// Drops an operation that has not left yet. Whether it had not.
    pub fn withdraw(&mut self, device: DeviceId, operation: OperationId) -> bool {
        let Some(registration) = self.registration_mut(device) else {
            return false;
        };
        let Some(index) = registration
            .queue
            .iter()
            .position(|queued| queued.id == operation)
        else {
            return false;
        };
        registration.queue.remove(index);
        true
    }

    fn registration_mut(&mut self, device: DeviceId) -> Option<&mut Registration> {
        self.devices
            .get_mut(device.0 as usize)?
            .registration
            .as_mut()
    }

    fn emit(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn complete(
        &mut self,
        operation: OperationId,
        device: DeviceId,
        asked: Operation,
        result: Result<Answer, OperationError>,
    ) {
        if self.on_trigger_read(operation, device, &result) {
            return;
        }
        self.emit(Event::Completed {
            operation,
            device,
            asked,
            result,
        });
    }

    fn on_coap(&mut self, now: Now, event: coap::Event) {
        match event {
            coap::Event::Request {
                peer,
                incoming,
                request,
                ..
            } => self.on_request(now, peer, incoming, &request),
            coap::Event::Response { exchange, result } => self.on_response(now, exchange, result),
            coap::Event::Notification {
                observation,
                response,
                ended,
                overtaken,
                receipt,
            } => {
                let order = Order { ended, overtaken };
                self.on_notification(now, observation, &response, order, receipt);
            }
            coap::Event::Progress { exchange, position } => {
                self.on_upload_progress(exchange, position);
            }
            // The server offers nothing to observe.
            coap::Event::ObserverGone { .. } => {}
        }
    }
}
