//! A device is told where it belongs, and then goes there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use lwm2mqtt::coap::{Code, Request, Response};
use lwm2mqtt::diagnostic::{Severity, Source};
use lwm2mqtt::gateway::Event;
use lwm2mqtt::lwm2m::codec::{self, Context};
use lwm2mqtt::lwm2m::{ContentFormat, Models, Path, Value};
use lwm2mqtt::mapping::Plan;
use lwm2mqtt::secret::Secret;
use lwm2mqtt::server::bootstrap::{Attachment, Attachments, Profiles};
use lwm2mqtt::time::UnixTime;

use crate::rig::{BOOTSTRAP, Rig};

const SECOND: Duration = Duration::from_secs(1);

const PROFILE: &str = r#"
schema = 1
[profile]
id = "here"
[match]
endpoint = "dev*"
[[server]]
uri = "coap://10.0.0.254:5683"
short_server_id = 101
lifetime = 300
[[object]]
path = "/3/0"
resources = { 15 = "Europe/Berlin" }
"#;

/// What profiles are compiled with that name no files.
pub struct NoFiles;

impl Attachments for NoFiles {
    fn read(&self, _: Attachment<'_>) -> Result<Secret, String> {
        Err("there are no files".into())
    }

    fn unreadable(&self) -> Severity {
        Severity::Error
    }
}

fn rig() -> Rig {
    rig_with(PROFILE)
}

fn rig_with(profile: &str) -> Rig {
    let source = Source {
        file: "here.toml".into(),
        text: profile.into(),
    };
    let compiled = Profiles::compile(&[source], &Models::builtin(), &NoFiles);
    let profiles = Arc::new(compiled.profiles.unwrap());
    Rig::with_bootstrap(Plan::unmapped("lwm2mqtt"), profiles)
}

/// A device fresh from the factory that asks the bootstrap server, with answers to all that it
/// will be asked.
fn fresh(rig: &mut Rig) -> usize {
    let device = rig.add_device();
    let fresh = &mut rig.devices[device];
    fresh.route.listener = BOOTSTRAP;
    let discovered = Response {
        content_format: Some(40),
        payload: b"</>;lwm2m=1.1,</0/0>,</1>,</3/0>".to_vec(),
        ..Response::new(Code::CONTENT)
    };
    fresh.answer(Code::GET, "/", discovered);
    for path in ["/0", "/1"] {
        fresh.answer(Code::DELETE, path, Response::new(Code::DELETED));
    }
    for path in ["/0/1", "/1/0", "/3/0"] {
        fresh.answer(Code::PUT, path, Response::new(Code::CHANGED));
    }
    fresh.answer(Code::POST, "/bs", Response::new(Code::CHANGED));
    device
}

fn ask(rig: &mut Rig, device: usize, endpoint: &str) {
    let mut request = Request::new(Code::POST, ["bs"]);
    request.query = vec![format!("ep={endpoint}"), "pct=110".into()];
    rig.request(device, request);
    rig.run(3 * SECOND);
}

/// What the device has after its Writes.
fn written(rig: &Rig, device: usize) -> BTreeMap<Path, Value> {
    let models = Models::builtin();
    let mut tree = BTreeMap::new();
    let writes = &rig.devices[device].requests;
    for request in writes.iter().filter(|request| request.method == Code::PUT) {
        let context = Context {
            base: format!("/{}", request.path.join("/")).parse().unwrap(),
            alternate: None,
            now: UnixTime::default(),
            types: &models,
        };
        let mut records = Vec::new();
        let format = ContentFormat(request.content_format.unwrap());
        let decoded = codec::decode(format, &request.payload, &context, &mut records).unwrap();
        assert!(decoded.problems.is_empty());
        tree.extend(
            records
                .into_iter()
                .map(|record| (record.path, record.value)),
        );
    }
    tree
}

// conformance: 0
#[test]
fn a_bootstrapped_device_registers_where_it_was_told() {
    let mut rig = rig();
    let device = fresh(&mut rig);
    ask(&mut rig, device, "dev1");
    assert_eq!(rig.devices[device].responses[0].code, Code::CHANGED);
    let tree = written(&rig, device);
    let value = |path: &str| tree.get(&path.parse::<Path>().unwrap()).cloned();
    assert_eq!(
        value("/3/0/15"),
        Some(Value::String("Europe/Berlin".into()))
    );
    assert_eq!(value("/0/1/10"), Some(Value::Integer(101)));
    let lifetime = match value("/1/0/1") {
        Some(Value::Integer(seconds)) => seconds,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        value("/0/1/0"),
        Some(Value::String("coap://10.0.0.254:5683".into()))
    );
    // The server of that address is the other listener.
    rig.devices[device].route.listener = 0;
    let terms = format!("lt={lifetime}");
    rig.register(device, "dev1", &terms, "</1/0>,</3/0>,</3303/0>");
    rig.run(3 * SECOND);
    let availability = rig.broker.json("lwm2mqtt/d/dev1/availability");
    assert_eq!(availability["state"], "online");
    assert_eq!(availability["lifetime"], 300);
}

#[test]
fn every_bootstrap_is_told_on_mqtt() {
    let mut rig = rig();
    let device = fresh(&mut rig);
    ask(&mut rig, device, "dev1");
    ask(&mut rig, device, "other");
    rig.devices[device].answer(Code::POST, "/bs", Response::new(Code::NOT_ACCEPTABLE));
    ask(&mut rig, device, "dev1");
    let told: Vec<String> = rig
        .broker
        .messages("lwm2mqtt/bridge/event")
        .iter()
        .map(|event| {
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", text("type"), text("endpoint"), text("step"))
        })
        .collect();
    let run = [
        "started dev1 ",
        "progress dev1 delete",
        "progress dev1 write",
    ];
    let run = [&run[..], &["progress dev1 finish"]].concat();
    let expected: Vec<String> = [
        &run[..],
        &["done dev1 ", "refused other "],
        &run[..],
        &["failed dev1 finish"],
    ]
    .concat()
    .iter()
    .map(|event| format!("bootstrap_{event}"))
    .collect();
    assert_eq!(told, expected);
    let last = rig.events.last().unwrap();
    assert!(matches!(last, Event::BootstrapFailed { .. }));
    assert!(last.to_string().contains("inconsistent"), "{last}");
}

#[test]
fn a_device_that_falls_silent_is_given_up_and_may_come_again() {
    let mut rig = rig();
    let device = fresh(&mut rig);
    let mut request = Request::new(Code::POST, ["bs"]);
    request.query = vec!["ep=dev1".into()];
    rig.request(device, request);
    rig.run(Duration::from_millis(15));
    rig.devices[device].dead = true;
    rig.run(300 * SECOND);
    let last = rig.events.last().unwrap().to_string();
    assert_eq!(
        last,
        "dev1: bootstrap failed at discover: the device does not answer"
    );
    rig.devices[device].dead = false;
    ask(&mut rig, device, "dev1");
    assert!(matches!(
        rig.events.last(),
        Some(Event::BootstrapDone { written: 3, .. })
    ));
}

#[test]
fn who_keeps_asking_does_not_fill_the_log() {
    let mut rig = rig();
    let device = fresh(&mut rig);
    for round in 0..300 {
        let mut request = Request::new(Code::POST, ["bs"]);
        request.query = vec![format!("ep=other{round}")];
        rig.request(device, request);
        rig.run(Duration::from_millis(50));
    }
    let told = rig.broker.messages("lwm2mqtt/bridge/event").len();
    assert!((5..10).contains(&told), "{told}");
    let counters = rig.gateway.counters();
    assert_eq!(counters.refused, 300);
    assert_eq!(counters.events_suppressed, 300 - told as u64);
}

/// Asks over MQTT and gives the answer.
fn administer(rig: &mut Rig, verb: &str, payload: &str) -> serde_json::Value {
    let topic = format!("lwm2mqtt/bridge/request/{verb}");
    rig.ask(&topic, payload);
    rig.run(SECOND);
    let replies = rig
        .broker
        .messages(&format!("lwm2mqtt/bridge/response/{verb}"));
    replies.last().cloned().unwrap()
}

// conformance: 5
#[test]
fn a_registered_device_is_told_to_bootstrap() {
    let mut rig = rig();
    let device = rig.add_registered();
    let trigger = Response::new(Code::CHANGED);
    rig.devices[device].answer(Code::POST, "/1/0/9", trigger);
    let reply = administer(&mut rig, "device/bootstrap", "{\"name\":\"dev1\"}");
    assert_eq!(reply["result"]["asked"], true, "{reply}");
    assert_eq!(rig.devices[device].paths(Code::POST), ["/1/0/9"]);
    // One that declines is told of.
    let declined = Response::new(Code::METHOD_NOT_ALLOWED);
    rig.devices[device].answer(Code::POST, "/1/0/9", declined);
    administer(&mut rig, "device/bootstrap", "{\"name\":\"dev1\"}");
    assert_eq!(
        rig.events.last().unwrap().to_string(),
        "dev1: bootstrap failed at trigger: 4.05 Method Not Allowed"
    );
    let reply = administer(&mut rig, "device/bootstrap", "{\"name\":\"nobody\"}");
    assert_eq!(reply["error"]["kind"], "unknown_device", "{reply}");
}

#[test]
fn a_generated_key_is_on_no_topic_and_in_no_event() {
    let mut rig = rig_with(&PROFILE.replace("coap://10.0.0.254:5683", "coaps://10.0.0.254:5684"));
    administer(&mut rig, "permit_join", "{\"seconds\":120}");
    let device = fresh(&mut rig);
    ask(&mut rig, device, "dev1");
    let Some(Value::Opaque(key)) = written(&rig, device).remove(&Path::resource(0, 1, 5)) else {
        panic!();
    };
    assert_eq!(key.len(), 16);
    let list = administer(&mut rig, "device/list", "{}");
    assert_eq!(list["status"], "done");
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let forms = [
        key.clone(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        STANDARD_NO_PAD.encode(&key).into_bytes(),
        URL_SAFE_NO_PAD.encode(&key).into_bytes(),
        format!("{key:?}").into_bytes(),
    ];
    let said: Vec<Vec<u8>> = rig
        .events
        .iter()
        .map(|event| format!("{event} {event:?}").into_bytes())
        .chain(rig.broker.log.iter().map(|(_, payload)| payload.clone()))
        .collect();
    assert!(said.len() > 10);
    for form in forms {
        let shows = |text: &Vec<u8>| text.windows(form.len()).any(|part| part == form);
        assert!(!said.iter().any(shows));
    }
}
