//! What the core costs: codecs, and a notification from datagram to publish.
//!
//! Compare figures of one run with each other, not with those of another machine.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a bench fails by panicking"
)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lwm2mqtt::coap::{self, Code, Endpoint, Request, Response};
use lwm2mqtt::gateway::outbox::Session;
use lwm2mqtt::gateway::{Gateway, Input, Output, Settings, Setup};
use lwm2mqtt::lwm2m::codec::{self, Context};
use lwm2mqtt::lwm2m::{ContentFormat, Models, Path, Record, Value};
use lwm2mqtt::mapping::Plan;
use lwm2mqtt::route::Route;
use lwm2mqtt::server::credentials::Policy;
use lwm2mqtt::server::{self, Join};
use lwm2mqtt::time::{Instant, Now, UnixTime};

const NOW: Now = Now {
    instant: Instant::from_micros(1_000_000),
    unix: UnixTime::from_millis(1_795_360_760_000),
};

/// A temperature sensor's instance, as a device sends it.
fn records() -> Vec<Record> {
    let record = |resource, value| Record {
        path: Path::resource(3303, 0, resource),
        value,
        time: None,
    };
    vec![
        record(5601, Value::Float(18.5)),
        record(5602, Value::Float(24.25)),
        record(5700, Value::Float(22.1)),
        record(5701, Value::String("Cel".into())),
    ]
}

fn codecs(criterion: &mut Criterion) {
    let models = Models::builtin();
    let context = Context {
        base: Path::instance(3303, 0),
        alternate: None,
        now: NOW.unix,
        types: &models,
    };
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Elements(1));
    for format in [
        ContentFormat::TLV,
        ContentFormat::SENML_JSON,
        ContentFormat::SENML_CBOR,
        ContentFormat::LWM2M_CBOR,
    ] {
        let payload = codec::encode(format, &records(), &context).unwrap();
        let mut decoded = Vec::new();
        group.bench_function(
            format!("decode an instance of four resources, {format}"),
            |bencher| {
                bencher.iter(|| {
                    decoded.clear();
                    let _ =
                        codec::decode(format, black_box(&payload), &context, &mut decoded).unwrap();
                    decoded.len()
                });
            },
        );
        let records = records();
        group.bench_function(
            format!("encode an instance of four resources, {format}"),
            |bencher| {
                bencher.iter(|| codec::encode(format, black_box(&records), &context).unwrap());
            },
        );
    }
    group.finish();
}

/// A gateway with one device that is observed at /3303/0, and that device.
struct Pair {
    gateway: Gateway,
    device: Endpoint,
    now: Now,
    token: Option<coap::Token>,
}

const DEVICE: Route = Route {
    listener: 0,
    address: std::net::SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
        5683,
    ),
};

impl Pair {
    fn new() -> Self {
        let settings = Settings {
            server: server::Settings {
                policy: Policy {
                    join: Join::Open,
                    ..Policy::default()
                },
                ..server::Settings::default()
            },
            has_store: true,
            ..Settings::default()
        };
        let setup = Setup::new(settings, Plan::unmapped("lwm2mqtt"), [1; 32]);
        let mut pair = Self {
            gateway: Gateway::new(NOW, setup),
            device: Endpoint::new(
                coap::Parameters::default(),
                coap::Limits::default(),
                [2; 32],
            ),
            now: NOW,
            token: None,
        };
        pair.gateway
            .handle(NOW, Input::Connected(Session::default()));
        let mut register = Request::new(Code::POST, ["rd"]);
        register.query = vec!["ep=bench".into(), "lwm2m=1.1".into(), "lt=86400".into()];
        register.payload = "</3303/0>".into();
        pair.device
            .request(NOW.instant, DEVICE.into(), register)
            .unwrap();
        for _ in 0..20 {
            pair.exchange();
        }
        assert!(pair.token.is_some(), "the gateway observes");
        pair
    }

    /// Carries datagrams both ways, and answers what the gateway asks.
    fn exchange(&mut self) {
        while let Some(output) = self.device.poll() {
            match output {
                coap::Output::Datagram { bytes, .. } => self.gateway.handle(
                    self.now,
                    Input::Datagram {
                        route: DEVICE,
                        bytes: &bytes,
                    },
                ),
                coap::Output::Event(coap::Event::Request {
                    incoming, token, ..
                }) => {
                    self.token = Some(token);
                    self.device.respond(
                        self.now.instant,
                        incoming,
                        Response {
                            observe: Some(0),
                            ..temperature(21.0)
                        },
                    );
                }
                coap::Output::Event(_) => {}
            }
        }
        self.drain();
    }

    fn drain(&mut self) -> usize {
        loop {
            match self.gateway.poll() {
                Output::Datagram { bytes, .. } => {
                    self.device.receive(self.now.instant, DEVICE.into(), &bytes);
                }
                Output::Timeout(_) => break,
                _ => {}
            }
        }
        let mut published = 0;
        let mut tickets = Vec::new();
        while let Some(outgoing) = self.gateway.next_publish() {
            published += black_box(&outgoing.publish.payload).len();
            tickets.push(outgoing.ticket);
        }
        for ticket in tickets {
            self.gateway.handle(self.now, Input::Delivered(ticket));
        }
        published
    }

    /// The datagram of a notification.
    fn notification(&mut self, value: f64) -> Vec<u8> {
        self.device.notify(
            self.now.instant,
            DEVICE.into(),
            self.token.unwrap(),
            temperature(value),
            false,
        );
        match self.device.poll() {
            Some(coap::Output::Datagram { bytes, .. }) => bytes,
            other => panic!("{other:?}"),
        }
    }
}

/// One resource in SenML CBOR, as benchmarks of LwM2M servers use it.
fn temperature(value: f64) -> Response {
    let record = Record {
        path: Path::resource(3303, 0, 5700),
        value: Value::Float(value),
        time: None,
    };
    let models = Models::empty();
    let context = Context {
        base: Path::instance(3303, 0),
        alternate: None,
        now: NOW.unix,
        types: &models,
    };
    Response {
        content_format: Some(ContentFormat::SENML_CBOR.0),
        payload: codec::encode(ContentFormat::SENML_CBOR, &[record], &context).unwrap(),
        ..Response::new(Code::CONTENT)
    }
}

fn notification(criterion: &mut Criterion) {
    let mut pair = Pair::new();
    // Sequence numbers wrap at 24 bit and time passes, so a prepared round can be repeated.
    let datagrams: Vec<_> = (0..1000)
        .map(|value| pair.notification(f64::from(value) / 8.0))
        .collect();
    let mut group = criterion.benchmark_group("gateway");
    group.throughput(Throughput::Elements(datagrams.len() as u64));
    group.bench_function("1000 notifications from datagram to publish", |bencher| {
        bencher.iter(|| {
            // RFC 7641 §3.4: after 128 s any number is newer.
            pair.now = pair.now + Duration::from_secs(129);
            let mut published = 0;
            for datagram in &datagrams {
                pair.gateway.handle(
                    pair.now,
                    Input::Datagram {
                        route: DEVICE,
                        bytes: black_box(datagram),
                    },
                );
                published += pair.drain();
            }
            assert!(
                published > 100 * datagrams.len(),
                "every notification is published"
            );
        });
    });
    group.finish();
}

criterion_group!(benches, codecs, notification);
criterion_main!(benches);
