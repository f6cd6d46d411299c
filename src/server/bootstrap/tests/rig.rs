//! A server with a bootstrap listener, and a device that does what it is told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::coap::{self, Code, Endpoint, IncomingId, Peer, Request, Response};
use crate::diagnostic::{Severity, Source};
use crate::lwm2m::codec::{self, Context};
use crate::lwm2m::model::Models;
use crate::lwm2m::{ContentFormat, Path, Value};
use crate::route::Route;
use crate::secret::Secret;
use crate::server::bootstrap::*;
use crate::server::credentials::{Policy, Psk, Purpose, Record};
use crate::server::{self, Event, Limits, Output, Server, Settings};
use crate::time::{Instant, Now, UnixTime};

/// 2026-11-22T15:19:20Z
pub const START: Now = Now {
    instant: Instant::from_micros(1_000_000),
    unix: UnixTime::from_millis(1_795_360_760_000),
};

/// The bootstrap server's listener, as settings name it.
pub const LISTENER: u16 = 1;

/// Making them takes longer than a run.
static MODELS: LazyLock<Arc<Models>> = LazyLock::new(|| Arc::new(Models::builtin()));

pub fn models() -> &'static Models {
    &MODELS
}

/// As much of a certificate as is looked at.
pub fn certificate() -> Vec<u8> {
    [&[0x30, 0x81, 0x82, 0x30, 0x81, 0x7f][..], &[0x05; 0x7f]].concat()
}

/// Files of no disk.
pub struct Files(pub Severity);

impl Attachments for Files {
    fn read(&self, attachment: Attachment<'_>) -> Result<Secret, String> {
        match attachment {
            Attachment::Key("/keys/foreign.psk") => {
                Ok(Secret::new(*b"000102030405060708090a0b0c0d0e0f\n"))
            }
            Attachment::Certificate("/keys/server.der") => Ok(Secret::new(certificate())),
            Attachment::Credential("short") => Ok(Secret::new(*b"5034732477307264")),
            Attachment::Credential("long") => Ok(Secret::new(b"ab".repeat(65))),
            Attachment::Key(path) | Attachment::Certificate(path) => {
                Err(format!("{path}: no such file"))
            }
            Attachment::Credential(name) => Err(format!("credential `{name}` is not there")),
        }
    }

    fn unreadable(&self) -> Severity {
        self.0
    }
}

/// The profiles of one text, which has no error.
pub fn profiles(text: &str) -> Profiles {
    let source = Source {
        file: "test.toml".into(),
        text: text.into(),
    };
    let compiled = Profiles::compile(&[source], models(), &Files(Severity::Error));
    let found: Vec<String> = compiled
        .diagnostics
        .iter()
        .map(|diagnostic| diagnostic.render(false))
        .collect();
    compiled
        .profiles
        .unwrap_or_else(|| panic!("{}", found.join("\n")))
}

/// What a test sees of a key that was kept: endpoint, identity, key, end.
pub type Kept = (String, Vec<u8>, Vec<u8>, Option<UnixTime>);

/// A device that keeps what it is told in a tree.
pub struct Device {
    pub endpoint: Endpoint,
    pub route: Route,
    /// `GET /`; none: 4.04.
    pub discover: Option<&'static str>,
    /// Answers of its own, by method and path.
    pub answers: BTreeMap<(Code, &'static str), VecDeque<Response>>,
    /// Formats that it takes in a Write.
    pub formats: Vec<u16>,
    /// What was written.
    pub tree: BTreeMap<Path, Value>,
    /// Method, path and format of every request.
    pub requests: Vec<String>,
    /// The payloads of Writes.
    pub payloads: Vec<Vec<u8>>,
    /// Responses to its own requests.
    pub responses: Vec<Response>,
    /// It does not answer any more.
    pub dead: bool,
    /// Requests to `/bs` are kept here and not answered at once.
    pub held: Option<Vec<IncomingId>>,
}

pub struct Rig {
    pub server: Server,
    pub device: Device,
    pub now: Now,
    pub events: Vec<Event>,
    /// Every datagram to the device.
    pub sent: Vec<Vec<u8>>,
    /// Nothing can be stored.
    pub disk_full: bool,
}

impl Rig {
    pub fn new(profile: &str) -> Self {
        Self::with_limits(profile, Limits::default())
    }

    pub fn with_limits(profile: &str, limits: Limits) -> Self {
        let listener = |purpose| server::Listener {
            purpose,
            ..server::Listener::default()
        };
        let settings = Settings {
            policy: Policy {
                join: server::Join::Open,
                ..Policy::default()
            },
            lifetime_grace: Duration::from_secs(30),
            awake_window: Duration::from_secs(93),
            listeners: [Purpose::Management, Purpose::Bootstrap]
                .map(listener)
                .into(),
            bootstrap_profiles: Arc::new(profiles(profile)),
        };
        let server = Server::new(
            settings,
            limits,
            coap::Parameters::default(),
            MODELS.clone(),
            None,
            [7; 32],
        );
        Self {
            server,
            device: Device {
                endpoint: Endpoint::new(
                    coap::Parameters::default(),
                    coap::Limits::default(),
                    [1; 32],
                ),
                route: Route {
                    listener: LISTENER,
                    address: ([10, 0, 0, 1], 5683).into(),
                },
                discover: None,
                answers: BTreeMap::new(),
                formats: vec![112, 110, 11542],
                tree: BTreeMap::new(),
                requests: Vec::new(),
                payloads: Vec::new(),
                responses: Vec::new(),
                dead: false,
                held: None,
            },
            now: START,
            events: Vec::new(),
            sent: Vec::new(),
            disk_full: false,
        }
    }

    /// The same while a join window is open for two minutes, and with a credential for `stranger`,
    /// which our device does not have.
    pub fn with_window(profile: &str) -> Self {
        let mut rig = Self::new(profile);
        rig.open_window();
        rig
    }

    pub fn open_window(&mut self) {
        let psk = Psk::new(&b"stranger"[..], Secret::new([1; 16]));
        let stranger = Record {
            bootstrap_psk: Some(psk),
            ..Record::new("stranger", START.unix)
        };
        self.server.with_book(self.now, |book| {
            book.add(stranger).unwrap();
            book.open_window(START, Duration::from_secs(120));
        });
    }

    /// The keys that devices were granted.
    pub fn kept(&self) -> Vec<Kept> {
        let grants = self.server.book().grants();
        let kept = grants.iter().map(|grant| {
            let psk = &grant.psk;
            let key = psk.key.expose().to_vec();
            (
                grant.endpoint.to_string(),
                psk.identity.to_vec(),
                key,
                grant.expires,
            )
        });
        kept.collect()
    }

    /// Sends `POST /bs` and lets everything happen that comes of it.
    pub fn bootstrap(&mut self, query: &[&str]) {
        let mut request = Request::new(Code::POST, ["bs"]);
        request.query = query.iter().map(ToString::to_string).collect();
        self.request(request);
        self.settle();
    }

    pub fn request(&mut self, request: Request) {
        let peer = Peer::Route(self.device.route);
        let now = self.now.instant;
        self.device.endpoint.request(now, peer, request).unwrap();
    }

    /// Carries datagrams to and fro until nobody has anything to say.
    pub fn settle(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(output) = self.device.endpoint.poll() {
                quiet = false;
                match output {
                    coap::Output::Datagram { bytes, .. } if !self.device.dead => {
                        self.server.receive(self.now, self.device.route, &bytes);
                    }
                    coap::Output::Datagram { .. } => {}
                    coap::Output::Event(event) => self.device.on_event(self.now, event),
                }
            }
            while let Some(output) = self.server.poll() {
                quiet = false;
                match output {
                    Output::Datagram { route, bytes } => {
                        self.sent.push(bytes.clone());
                        if !self.device.dead {
                            let now = self.now.instant;
                            self.device.endpoint.receive(now, route.into(), &bytes);
                        }
                    }
                    Output::Event(event) => self.events.push(event),
                    Output::Store(change) if self.disk_full => {
                        let why = "the disk is full";
                        self.server.unstored(self.now, &change, why);
                    }
                    Output::Store(_) | Output::Work(_) => {}
                }
            }
            if quiet {
                return;
            }
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now.instant + duration;
        self.settle();
        while let Some(at) = [
            self.server.next_timeout(),
            self.device.endpoint.next_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
        .filter(|at| *at <= end)
        {
            self.now = self.now + at.since(self.now.instant);
            self.server.timeout(self.now);
            self.device.endpoint.timeout(self.now.instant);
            self.settle();
        }
        self.now = self.now + end.since(self.now.instant);
    }

    /// The news of bootstraps so far.
    pub fn news(&self) -> Vec<News> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Bootstrap { news, .. } => Some(news.clone()),
                _ => None,
            })
            .collect()
    }

    pub fn last(&self) -> News {
        self.news().pop().unwrap()
    }

    pub fn failure(&self) -> (Step, String) {
        match self.last() {
            News::Failed { step, detail } => (step, detail),
            other => panic!("{other:?}"),
        }
    }
}

impl Device {
    /// What it answers to the next such request, instead of obeying.
    pub fn answer(&mut self, method: Code, path: &'static str, code: Code) {
        self.answer_with(method, path, Response::new(code));
    }

    pub fn answer_with(&mut self, method: Code, path: &'static str, response: Response) {
        let queue = self.answers.entry((method, path)).or_default();
        queue.push_back(response);
    }

    fn on_event(&mut self, now: Now, event: coap::Event) {
        match event {
            coap::Event::Request {
                incoming, request, ..
            } => {
                let response = self.obey(&request);
                if let (Some(held), Some("bs")) =
                    (&mut self.held, request.path.first().map(String::as_str))
                {
                    held.push(incoming);
                    return;
                }
                self.endpoint.respond(now.instant, incoming, response);
            }
            coap::Event::Response { result, .. } => self.responses.extend(result.ok()),
            _ => {}
        }
    }

    fn obey(&mut self, request: &Request) -> Response {
        let path = format!("/{}", request.path.join("/"));
        let format = request.content_format.or(request.accept);
        let shown = format.map_or(String::new(), |format| format!(" {format}"));
        self.requests
            .push(format!("{} {path}{shown}", request.method.name()));
        let scripted = self
            .answers
            .iter_mut()
            .find(|((method, at), _)| *method == request.method && *at == path)
            .and_then(|(_, queue)| queue.pop_front());
        if let Some(response) = scripted {
            return response;
        }
        match request.method {
            Code::GET if path == "/" => match self.discover {
                Some(links) => Response {
                    content_format: Some(40),
                    payload: links.into(),
                    ..Response::new(Code::CONTENT)
                },
                None => Response::new(Code::NOT_FOUND),
            },
            Code::GET => Response::new(Code::METHOD_NOT_ALLOWED),
            Code::DELETE => {
                let deleted: Path = path.parse().unwrap();
                self.tree.retain(|path, _| !deleted.contains(path));
                Response::new(Code::DELETED)
            }
            Code::PUT => self.write(request, path.parse().unwrap()),
            _ => Response::new(Code::CHANGED),
        }
    }

    fn write(&mut self, request: &Request, base: Path) -> Response {
        let format = request.content_format.unwrap();
        if !self.formats.contains(&format) {
            return Response::new(Code::UNSUPPORTED_CONTENT_FORMAT);
        }
        self.payloads.push(request.payload.clone());
        for record in decode(format, base, &request.payload) {
            self.tree.insert(record.path, record.value);
        }
        Response::new(Code::CHANGED)
    }

    /// A value that was written.
    pub fn value(&self, path: &str) -> Option<&Value> {
        self.tree.get(&path.parse().unwrap())
    }
}

pub fn decode(format: u16, base: Path, payload: &[u8]) -> Vec<crate::lwm2m::Record> {
    let context = Context {
        base,
        alternate: None,
        now: START.unix,
        types: models(),
    };
    let mut records = Vec::new();
    let decoded = codec::decode(ContentFormat(format), payload, &context, &mut records).unwrap();
    assert_eq!(decoded.problems, []);
    records
}
