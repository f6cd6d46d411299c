//! Devices: scripted ones, and the client of this program.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use lwm2mqtt::client::simulated::{Profile, Simulated};
use lwm2mqtt::client::{self, Account, Client, Config, Formats, Retry};
use lwm2mqtt::coap::{self, Code, Endpoint, IncomingId, Observe, Peer, Request, Response, Token};
use lwm2mqtt::lwm2m::{Path, Value, Version};
use lwm2mqtt::route::Route;
use lwm2mqtt::time::{Instant, Now};

use super::Rig;
use crate::road::Road;
use crate::updater::Updater;

/// The objects of [`Rig::add_sensor`].
pub const SENSOR: &str = "</>;ct=110,</1/0>,</3/0>,</3303/0>,</3311/0>";

/// Mute Send of the only account.
pub const MUTE_SEND: &str = "/1/0/23";

/// A device: a CoAP endpoint and a script.
pub struct Device {
    pub route: Route,
    pub endpoint: Endpoint,
    /// What it answers to a request for `/o/i/r`, by method and path.
    pub answers: BTreeMap<(Code, String), Response>,
    /// Every request that it got.
    pub requests: Vec<Request>,
    /// Who observes what.
    pub observers: Vec<(String, Token)>,
    /// Whether it answers an Observe as if it were a Read.
    pub unobservable: bool,
    /// Whether it is switched off: it neither answers nor sends.
    pub dead: bool,
    /// The only Content-Format that it takes, if it is one.
    pub only: Option<u16>,
    /// The answers to its own requests.
    pub responses: Vec<Response>,
    /// Its object 5, if it has one that does something.
    pub updater: Option<Updater>,
    /// What it sends by, if not in clear.
    pub road: Option<Road>,
    /// The LwM2M client of this program, which takes the place of the script.
    pub client: Option<Client<Simulated>>,
    /// When that wants to be asked.
    pub(super) due: Option<Instant>,
    /// When anything of it is due, as far as it is known.
    pub(super) wakes: Option<Instant>,
}

impl Rig {
    /// Adds a device that answers nothing yet, and returns its number.
    pub fn add_device(&mut self) -> usize {
        let index = self.devices.len();
        let address: SocketAddr = format!("10.0.0.{}:5683", index + 1).parse().unwrap();
        self.devices.push(Device {
            route: Route {
                listener: 0,
                address,
            },
            endpoint: Endpoint::new(
                coap::Parameters::default(),
                coap::Limits::default(),
                [index as u8; 32],
            ),
            answers: BTreeMap::new(),
            requests: Vec::new(),
            observers: Vec::new(),
            unobservable: false,
            dead: false,
            only: None,
            responses: Vec::new(),
            updater: None,
            road: None,
            client: None,
            due: None,
            wakes: None,
        });
        index
    }

    /// A simulated device that registers by itself.
    pub fn add_client(&mut self, endpoint: &str, version: Version) -> usize {
        self.add_client_of(endpoint, version, None)
    }

    /// The same with how long it listens, if it sleeps in between.
    pub fn add_client_of(
        &mut self,
        endpoint: &str,
        version: Version,
        queue_mode: Option<Duration>,
    ) -> usize {
        let device = self.add_device();
        self.replace_client(device, endpoint, version, queue_mode);
        device
    }

    /// A simulated device that remembers nothing takes the place of what was there.
    pub fn replace_client(
        &mut self,
        device: usize,
        endpoint: &str,
        version: Version,
        queue_mode: Option<Duration>,
    ) {
        let config = Config {
            endpoint: endpoint.into(),
            accounts: vec![Account {
                instance: 0,
                peer: gateway_peer(),
                version,
                queue_mode,
                hold_off: Duration::ZERO,
            }],
            formats: Formats::default(),
            retry: Retry::default(),
            limits: client::Limits::default(),
            coap: coap::Parameters::default(),
            coap_limits: coap::Limits::default(),
        };
        // Its sensors rest, so that what moves is what a test moves.
        let profile = Profile {
            index: device as u32,
            lifetime: 300,
            interval: Duration::from_secs(1_000_000),
        };
        let mut seed = [device as u8; 32];
        seed[..8].copy_from_slice(&self.now.instant.as_micros().to_le_bytes());
        let (behaviour, tree) = Simulated::device(self.now, &profile, seed);
        let client = Client::new(self.now, config, tree, behaviour, seed);
        if let Some(tap) = &mut self.tap {
            tap.forget(device);
        }
        self.devices[device].client = Some(client);
        self.nudge(device);
    }

    /// Changes a value of a simulated device.
    pub fn set(&mut self, device: usize, path: &Path, value: Value) {
        if let Some(client) = &mut self.devices[device].client {
            client.tree_mut().set(path, value);
        }
        self.nudge(device);
    }

    /// The network gives a device another address.
    pub fn rebind(&mut self, device: usize) {
        let address = &mut self.devices[device].route.address;
        address.set_port(address.port() + 1);
    }

    /// Lets a simulated device look at what was changed in its tree.
    pub fn nudge(&mut self, device: usize) {
        let now = self.now;
        if let Some(client) = &mut self.devices[device].client {
            client.handle(now, client::Input::Timeout);
        }
        self.flush(device);
    }

    /// Lets a simulated device send the values of these nodes.
    pub fn send(&mut self, device: usize, paths: &[Path]) {
        let now = self.now;
        if let Some(client) = &mut self.devices[device].client {
            client.handle(now, client::Input::Send(paths));
        }
        self.flush(device);
    }

    /// A device of LwM2M 1.1 with a temperature sensor and a light, registered as `dev1`.
    pub fn add_registered(&mut self) -> usize {
        let device = self.add_sensor();
        self.register(device, "dev1", "lt=300", SENSOR);
        self.run(Duration::from_secs(3));
        device
    }

    /// A device with a temperature sensor and a light, which has not registered.
    pub fn add_sensor(&mut self) -> usize {
        let device = self.add_device();
        for (path, payload) in [
            (
                "/3303/0",
                r#"[{"bn":"/3303/0/","n":"5700","v":21.5},{"n":"5701","vs":"Cel"}]"#,
            ),
            (
                "/3311/0",
                r#"[{"bn":"/3311/0/","n":"5850","vb":false},{"n":"5851","v":40}]"#,
            ),
            (
                "/3/0",
                r#"[{"bn":"/3/0/","n":"0","vs":"ACME"},{"n":"1","vs":"T1"},{"n":"2","vs":"00A7"}]"#,
            ),
        ] {
            self.devices[device].answer(Code::GET, path, content(110, payload));
        }
        device
    }

    /// Sends a Register.
    pub fn register(&mut self, device: usize, endpoint: &str, query: &str, objects: &str) {
        let mut request = Request::new(Code::POST, ["rd"]);
        request.query = [format!("ep={endpoint}"), "lwm2m=1.1".into(), query.into()]
            .into_iter()
            .filter(|argument| !argument.is_empty())
            .collect();
        request.content_format = Some(40);
        request.payload = objects.into();
        self.request(device, request);
    }

    /// Sends a request of a device to the gateway.
    pub fn request(&mut self, device: usize, request: Request) {
        let now = self.now.instant;
        let endpoint = &mut self.devices[device].endpoint;
        endpoint.request(now, gateway_peer(), request).unwrap();
        self.flush(device);
    }

    /// The location that a device got last.
    pub fn location(&self, device: usize) -> Vec<String> {
        self.devices[device]
            .responses
            .iter()
            .rev()
            .find(|response| !response.location.is_empty())
            .unwrap()
            .location
            .clone()
    }

    /// Notifies the observers of a node.
    pub fn notify(&mut self, device: usize, path: &str, response: Response, confirmable: bool) {
        let now = self.now.instant;
        let Device {
            observers,
            endpoint,
            ..
        } = &mut self.devices[device];
        for (observed, token) in observers.clone() {
            if observed == path {
                endpoint.notify(now, gateway_peer(), token, response.clone(), confirmable);
            }
        }
        self.flush(device);
    }
}

impl Device {
    /// What the device answers from now on.
    pub fn answer(&mut self, method: Code, path: &str, response: Response) {
        self.answers.insert((method, path.to_owned()), response);
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let road = self.road.as_ref().and_then(Road::next_timeout);
        [self.endpoint.next_timeout(), road, self.due]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub(super) fn timeout(&mut self, now: Now) {
        if self.due.is_some_and(|due| due <= now.instant)
            && let Some(client) = &mut self.client
        {
            self.due = None;
            client.handle(now, client::Input::Timeout);
        }
        self.endpoint.timeout(now.instant);
        if let Some(road) = &mut self.road {
            road.timeout(now);
        }
    }

    /// Takes what came by the road, and gives what is to be sent.
    pub(super) fn messages(&mut self, now: Now) -> Vec<Vec<u8>> {
        while let Some(bytes) = self.road.as_mut().and_then(Road::message) {
            self.endpoint.receive(now.instant, gateway_peer(), &bytes);
        }
        let mut messages = Vec::new();
        while let Some(client) = &mut self.client {
            match client.poll() {
                client::Output::Datagram { bytes, .. } => messages.push(bytes),
                client::Output::Event(_) => {}
                client::Output::Timeout(due) => {
                    self.due = due;
                    break;
                }
            }
        }
        while let Some(output) = self.endpoint.poll() {
            match output {
                coap::Output::Datagram { bytes, .. } => messages.push(bytes),
                coap::Output::Event(coap::Event::Request {
                    incoming,
                    token,
                    request,
                    ..
                }) => self.on_request(now.instant, incoming, token, request),
                coap::Output::Event(coap::Event::Response { result, .. }) => {
                    self.responses.extend(result.ok())
                }
                coap::Output::Event(_) => {}
            }
        }
        messages
    }

    fn on_request(&mut self, now: Instant, incoming: IncomingId, token: Token, request: Request) {
        let path = format!("/{}", request.path.join("/"));
        let updated = self.updater.as_mut().and_then(|it| it.on_request(&request));
        let scripted = || self.answers.get(&(request.method, path.clone())).cloned();
        let mut response = updated
            .or_else(scripted)
            .unwrap_or(Response::new(Code::NOT_FOUND));
        let is_other = |format: Option<u16>| format.is_some() && format != self.only;
        if self.only.is_some() && is_other(request.content_format) {
            response = Response::new(Code::UNSUPPORTED_CONTENT_FORMAT);
        } else if self.only.is_some() && is_other(request.accept) {
            response = Response::new(Code::NOT_ACCEPTABLE);
        }
        if request.observe == Some(Observe::Register)
            && response.code.is_success()
            && !self.unobservable
        {
            response.observe = Some(0);
            self.observers.push((path, token));
        }
        if request.observe == Some(Observe::Deregister) {
            self.observers.retain(|(_, observer)| *observer != token);
        }
        self.endpoint.respond(now, incoming, response);
        self.requests.push(request);
    }

    /// The requests of a method, as paths; without the one that lets each device of 1.1 send.
    pub fn paths(&self, method: Code) -> Vec<String> {
        self.requests
            .iter()
            .filter(|request| request.method == method)
            .map(|request| format!("/{}", request.path.join("/")))
            .filter(|path| path != MUTE_SEND)
            .collect()
    }
}

/// How the devices see the gateway.
pub(super) fn gateway_peer() -> Peer {
    Peer::Route(Route {
        listener: 0,
        address: ([10, 0, 0, 254], 5683).into(),
    })
}

/// A 2.05 with a payload.
pub fn content(format: u16, payload: &str) -> Response {
    Response {
        content_format: Some(format),
        payload: payload.into(),
        ..Response::new(Code::CONTENT)
    }
}
