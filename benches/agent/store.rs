//! What is written for a device in a day: the core and its store in virtual time, with devices that
//! behave all day long. The bytes are those of all write calls of this process, so the write-ahead
//! log and what goes from there into the database count both.
//!
//! `cargo run --release --example bench-store`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a bench fails by panicking, and touches the outside"
)]

use std::fs;
use std::time::Duration;

use lwm2mqtt::agent::store::{Sqlite, Writer};
use lwm2mqtt::coap::{self, Code, Endpoint, Event, Observe, Peer, Request, Response, Token};
use lwm2mqtt::gateway::outbox::Session;
use lwm2mqtt::gateway::{Gateway, Input, Output, Settings, Setup};
use lwm2mqtt::mapping::Plan;
use lwm2mqtt::route::Route;
use lwm2mqtt::server::credentials::Policy;
use lwm2mqtt::server::{self, Join, Listener};
use lwm2mqtt::time::{Instant, Now, UnixTime};

const DEVICES: usize = 500;
const DAY: u64 = 86_400;

/// How a device behaves; in seconds, 0 is never.
struct Habit {
    name: &'static str,
    update: u64,
    notify: u64,
}

const HABITS: [Habit; 4] = [
    Habit {
        name: "Update every 15 min, nothing else",
        update: 900,
        notify: 0,
    },
    Habit {
        name: "Update and notify 2 observations every hour",
        update: 3_600,
        notify: 3_600,
    },
    Habit {
        name: "Update every 15 min, notify 2 observations every 5 min",
        update: 900,
        notify: 300,
    },
    Habit {
        name: "Update every 5 min, notify 2 observations every 10 s",
        update: 300,
        notify: 10,
    },
];

struct Device {
    endpoint: Endpoint,
    route: Route,
    location: Vec<String>,
    observers: Vec<(Vec<String>, Token)>,
}

struct World {
    gateway: Gateway,
    writer: Writer,
    devices: Vec<Device>,
    now: Now,
    due: Option<Instant>,
}

fn main() {
    println!(
        "| a device | bytes written a device and day | write calls a day, all devices |\n|---|---|---|"
    );
    for habit in &HABITS {
        let folder =
            std::env::temp_dir().join(format!("lwm2mqtt-bench-store-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let mut world = World::new(&folder);
        world.register();
        world.pass(1_200);
        let before = written();
        world.day(habit);
        world.writer.flush();
        println!(
            "| {} | {} | {} |",
            habit.name,
            (written().0 - before.0) / DEVICES as u64,
            written().1 - before.1,
        );
        drop(world);
        fs::remove_dir_all(&folder).unwrap();
    }
}

/// Bytes given to write calls so far, and how many of these there were.
fn written() -> (u64, u64) {
    let text = fs::read_to_string("/proc/self/io").unwrap();
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    (number("wchar:"), number("syscw:"))
}

impl World {
    fn new(folder: &std::path::Path) -> Self {
        let policy = Policy {
            join: Join::Open,
            ..Policy::default()
        };
        let settings = Settings {
            server: server::Settings {
                policy,
                listeners: vec![Listener::default()],
                ..server::Settings::default()
            },
            has_store: true,
            ..Settings::default()
        };
        let setup = Setup::new(settings, Plan::unmapped("lwm2mqtt"), [1; 32]);
        let now = Now {
            instant: Instant::from_micros(1_000_000_000_000),
            unix: UnixTime::from_millis(1_795_360_760_000),
        };
        let mut gateway = Gateway::new(now, setup);
        gateway.restored(now);
        let mut world = Self {
            gateway,
            writer: Writer::new(Box::new(Sqlite::open(folder).unwrap())),
            devices: Vec::new(),
            now,
            due: None,
        };
        world.input(Input::Connected(Session::default()));
        world.input(Input::Subscribed);
        world
    }

    fn register(&mut self) {
        for index in 0..DEVICES {
            let address = format!("10.0.{}.{}:5683", index / 250, index % 250 + 1);
            self.devices.push(Device {
                endpoint: Endpoint::new(
                    coap::Parameters::default(),
                    coap::Limits::default(),
                    [(index % 256) as u8; 32],
                ),
                route: Route {
                    listener: 0,
                    address: address.parse().unwrap(),
                },
                location: Vec::new(),
                observers: Vec::new(),
            });
            let mut request = Request::new(Code::POST, ["rd"]);
            request.query = vec![
                format!("ep=urn:dev:ops:32473-T1-{index:06}"),
                "lwm2m=1.1".into(),
                "lt=86400".into(),
            ];
            request.content_format = Some(40);
            request.payload = b"</>;ct=112,</1/0>,</3/0>,</3303/0>,</3304/0>".to_vec();
            self.ask(index, request);
        }
        let ready = |device: &Device| !device.location.is_empty() && device.observers.len() == 2;
        while !self.devices.iter().all(ready) {
            self.pass(1);
        }
    }

    fn day(&mut self, habit: &Habit) {
        let mut value = 0;
        for second in 0..DAY {
            for index in 0..DEVICES {
                // Not all at once.
                let at = second + index as u64 * 7;
                if at.is_multiple_of(habit.update) {
                    let location = self.devices[index].location.clone();
                    self.ask(index, Request::new(Code::POST, location));
                }
                if habit.notify > 0 && at.is_multiple_of(habit.notify) {
                    value += 1;
                    self.notify(index, value);
                }
            }
            self.pass(1);
        }
    }

    fn pass(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while let Some(due) = self.due.filter(|due| *due <= end.instant) {
            let step = due.since(self.now.instant);
            self.now = self.now + step;
            if self.writer.flush_due().is_some_and(|flush| flush <= due) {
                self.writer.flush();
            }
            self.input(Input::Timeout);
        }
        self.now = end;
    }

    fn ask(&mut self, index: usize, request: Request) {
        let now = self.now.instant;
        let device = &mut self.devices[index];
        device.endpoint.timeout(now);
        device.endpoint.request(now, gateway(), request).unwrap();
        self.exchange(index);
    }

    fn notify(&mut self, index: usize, value: u32) {
        let now = self.now.instant;
        let device = &mut self.devices[index];
        device.endpoint.timeout(now);
        for (path, token) in device.observers.clone() {
            let response = payload(&path, value);
            device
                .endpoint
                .notify(now, gateway(), token, response, false);
        }
        self.exchange(index);
    }

    /// Lets a device and the gateway say all that they have to.
    fn exchange(&mut self, index: usize) {
        loop {
            let now = self.now.instant;
            let device = &mut self.devices[index];
            let Some(output) = device.endpoint.poll() else {
                return;
            };
            match output {
                coap::Output::Datagram { bytes, .. } => {
                    let route = device.route;
                    self.input(Input::Datagram {
                        route,
                        bytes: &bytes,
                    });
                }
                coap::Output::Event(Event::Request {
                    incoming,
                    token,
                    request,
                    ..
                }) => {
                    let mut response = match request.method {
                        Code::GET => payload(&request.path, 0),
                        _ => Response::new(Code::CHANGED),
                    };
                    if request.observe == Some(Observe::Register) {
                        response.observe = Some(0);
                        device.observers.push((request.path, token));
                    }
                    device.endpoint.respond(now, incoming, response);
                }
                coap::Output::Event(Event::Response { result, .. }) => {
                    if let Ok(response) = result
                        && !response.location.is_empty()
                    {
                        device.location = response.location;
                    }
                }
                coap::Output::Event(_) => {}
            }
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.gateway.handle(self.now, input);
        let mut changes = Vec::new();
        let mut datagrams = Vec::new();
        loop {
            match self.gateway.poll() {
                Output::Store(change) => changes.push(change),
                Output::Datagram { route, bytes } => datagrams.push((route, bytes)),
                Output::Commit(batch) => {
                    let stored = std::mem::take(&mut changes);
                    self.writer.keep(self.now.instant, stored).unwrap();
                    self.gateway.handle(self.now, Input::Committed(batch));
                }
                Output::Timeout(due) => {
                    self.due = due;
                    break;
                }
                _ => {}
            }
        }
        self.writer.keep(self.now.instant, changes).unwrap();
        self.due = [self.due, self.writer.flush_due()]
            .into_iter()
            .flatten()
            .min();
        let mut sent = Vec::new();
        while let Some(outgoing) = self.gateway.next_publish() {
            sent.push(outgoing.ticket);
        }
        for ticket in sent {
            self.gateway.handle(self.now, Input::Delivered(ticket));
        }
        for (route, bytes) in datagrams {
            let now = self.now.instant;
            let Some(index) = self.devices.iter().position(|device| device.route == route) else {
                continue;
            };
            let device = &mut self.devices[index];
            device.endpoint.receive(now, gateway(), &bytes);
            self.exchange(index);
        }
    }
}

fn gateway() -> Peer {
    Peer::Route(Route {
        listener: 0,
        address: "10.1.0.1:5683".parse().unwrap(),
    })
}

fn payload(path: &[String], value: u32) -> Response {
    let path = format!("/{}/", path.join("/"));
    Response {
        content_format: Some(110),
        payload: format!(r#"[{{"bn":"{path}","n":"5700","v":{value}}}]"#).into_bytes(),
        ..Response::new(Code::CONTENT)
    }
}
