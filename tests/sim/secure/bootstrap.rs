//! From a bootstrap key to the key that is handed out, all of it secured.

use std::sync::Arc;

use lwm2mqtt::diagnostic::Source;
use lwm2mqtt::lwm2m::codec::{self, Context};
use lwm2mqtt::lwm2m::{ContentFormat, Models, Path, Value};
use lwm2mqtt::server::bootstrap::Profiles;

use super::*;
use crate::bootstrap::NoFiles;
use crate::road::BOOTSTRAP_COAPS;

const PROFILE: &str = r#"
schema = 1
[profile]
id = "here"
[match]
endpoint = "sec*"
[[server]]
uri = "coaps://10.0.0.254:5684"
short_server_id = 101
lifetime = 300
"#;

/// A gateway that bootstraps `sec1` by the identity `factory`.
fn bootstrapping_rig() -> Rig {
    let source = Source {
        file: "here.toml".into(),
        text: PROFILE.into(),
    };
    let compiled = Profiles::compile(&[source], &Models::builtin(), &NoFiles);
    let profiles = Arc::new(compiled.profiles.unwrap());
    let mut rig = rig_with(|setup| setup.settings.server.bootstrap_profiles = profiles);
    let added = rig.administer(&json!({
        "verb": "device/add", "name": "sec1",
        "bootstrap_psk": { "identity": "factory", "key": hex(KEY) },
    }));
    assert_eq!(added["ok"], true, "{added}");
    rig
}

/// A device fresh from the factory.
fn fresh(rig: &mut Rig) -> usize {
    let sec1 = device(rig, "factory", KEY);
    let fresh = &mut rig.devices[sec1];
    fresh.route.listener = BOOTSTRAP_COAPS;
    let discovered = Response {
        content_format: Some(40),
        payload: b"</>;lwm2m=1.1,</0/0>,</1>,</3/0>".to_vec(),
        ..Response::new(Code::CONTENT)
    };
    fresh.answer(Code::GET, "/", discovered);
    for path in ["/0", "/1"] {
        fresh.answer(Code::DELETE, path, Response::new(Code::DELETED));
    }
    for path in ["/0/1", "/1/0"] {
        fresh.answer(Code::PUT, path, Response::new(Code::CHANGED));
    }
    fresh.answer(Code::POST, "/bs", Response::new(Code::CHANGED));
    sec1
}

/// Asks for a bootstrap without a name: the session says whose it is.
fn ask(rig: &mut Rig, device: usize) {
    rig.devices[device].responses.clear();
    rig.devices[device].requests.clear();
    let mut request = Request::new(Code::POST, ["bs"]);
    request.query = vec!["pct=110".into()];
    rig.request(device, request);
    rig.run(3 * SECOND);
}

/// Identity and key of the account that was written last.
fn account(rig: &Rig, device: usize) -> (String, Vec<u8>) {
    let models = Models::builtin();
    let mut requests = rig.devices[device].requests.iter();
    let write = requests.rfind(|request| request.path == ["0", "1"]);
    let write = write.unwrap();
    let context = Context {
        base: "/0/1".parse().unwrap(),
        alternate: None,
        now: rig.now.unix,
        types: &models,
    };
    let mut records = Vec::new();
    let format = ContentFormat(write.content_format.unwrap());
    let decoded = codec::decode(format, &write.payload, &context, &mut records).unwrap();
    assert!(decoded.problems.is_empty());
    let value = |resource| {
        let path = Path::resource(0, 1, resource);
        let record = records.iter().find(|record| record.path == path).unwrap();
        match &record.value {
            Value::Opaque(bytes) => bytes.clone(),
            other => panic!("{other:?}"),
        }
    };
    (String::from_utf8(value(3)).unwrap(), value(5))
}

/// The device goes where it was told, as whom it was told.
fn go(rig: &mut Rig, device: usize, seed: u8, identity: &str, key: &[u8]) {
    let device = &mut rig.devices[device];
    device.route.listener = COAPS;
    device.road = Some(Road::new(seed, identity, key));
}

// conformance: 1
#[test]
fn a_device_is_bootstrapped_and_registers_with_the_key_that_it_was_given() {
    let mut rig = bootstrapping_rig();
    let sec1 = fresh(&mut rig);
    ask(&mut rig, sec1);
    assert_eq!(rig.devices[sec1].responses[0].code, Code::CHANGED);
    assert!(last_words(&rig).starts_with("sec1: bootstrap done"));
    let (identity, key) = account(&rig, sec1);
    assert_eq!((identity.as_str(), key.len()), ("sec1", 16));
    go(&mut rig, sec1, 100, &identity, &key);
    assert_eq!(register(&mut rig, sec1, "sec1"), Some(Code::CREATED));
    assert_eq!(measured(&mut rig, sec1, 22.5), 22.5);
}

#[test]
fn neither_key_opens_the_other_door() {
    let mut rig = bootstrapping_rig();
    let sec1 = fresh(&mut rig);
    ask(&mut rig, sec1);
    let (identity, key) = account(&rig, sec1);
    // The factory's key is none of the LwM2M server's.
    go(&mut rig, sec1, 100, "factory", KEY);
    assert_eq!(register(&mut rig, sec1, "sec1"), None);
    assert!(last_words(&rig).contains("\"factory\" is not known"));
    // And the one that was given is none of the bootstrap server's.
    let given = device(&mut rig, &identity, &key);
    rig.devices[given].route.listener = BOOTSTRAP_COAPS;
    ask(&mut rig, given);
    assert!(rig.devices[given].responses.is_empty());
    let said = last_words(&rig);
    assert!(said.contains("\"sec1\" is not known"), "{said}");
}

#[test]
fn a_session_of_the_bootstrap_server_registers_nobody_and_takes_no_registration() {
    let mut rig = bootstrapping_rig();
    let sec1 = fresh(&mut rig);
    ask(&mut rig, sec1);
    let (identity, key) = account(&rig, sec1);
    assert_eq!(register(&mut rig, sec1, "sec1"), Some(Code::NOT_FOUND));
    go(&mut rig, sec1, 100, &identity, &key);
    assert_eq!(register(&mut rig, sec1, "sec1"), Some(Code::CREATED));
    // Whoever has the factory's key asks the bootstrap server, and the device stays where it is.
    let thief = device(&mut rig, "factory", KEY);
    rig.devices[thief].route.listener = BOOTSTRAP_COAPS;
    rig.request(thief, Request::new(Code::POST, ["bs"]));
    rig.run(Duration::from_millis(200));
    assert_eq!(measured(&mut rig, sec1, 23.5), 23.5);
    assert_eq!(switched(&mut rig), "done");
}

#[test]
fn a_new_key_ends_the_session_of_the_one_before() {
    let mut rig = bootstrapping_rig();
    let sec1 = fresh(&mut rig);
    ask(&mut rig, sec1);
    let (identity, key) = account(&rig, sec1);
    // Somebody who copied the key is there as well.
    go(&mut rig, sec1, 100, &identity, &key);
    assert_eq!(register(&mut rig, sec1, "sec1"), Some(Code::CREATED));
    let renewed = fresh(&mut rig);
    ask(&mut rig, renewed);
    let (identity, new_key) = account(&rig, renewed);
    assert_ne!(key, new_key);
    rig.run(SECOND);
    assert_eq!(road(&mut rig, sec1).closed, 1);
    assert_eq!(register(&mut rig, sec1, "sec1"), None);
    assert!(last_words(&rig).contains("is not the one we have"));
    // The device itself goes on by its new key, and its registration stood all the time.
    assert_eq!(state(&rig), "online");
    go(&mut rig, renewed, 101, &identity, &new_key);
    assert_eq!(register(&mut rig, renewed, "sec1"), Some(Code::CREATED));
    assert_eq!(measured(&mut rig, renewed, 24.5), 24.5);
}
