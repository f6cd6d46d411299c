//! Images get to devices, and are installed.

use std::time::Duration;

use bytes::Bytes;
use lwm2mqtt::coap::{Code, Request, Response};
use lwm2mqtt::gateway::firmware::image::{Digest, Image};
use lwm2mqtt::mapping::Plan;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value as Json, json};

use crate::rig::{Rig, Weather};
use crate::updater::{Update, Updater};

const SECOND: Duration = Duration::from_secs(1);
const FW: &str = "lwm2mqtt/d/dev1/fw";
const OBJECTS: &str = "</>;ct=110,</1/0>,</3/0>,</5/0>";

/// A gateway that has an image of so many bytes, and updates so many devices at a time.
fn rig(size: usize, parallel: usize) -> Rig {
    let mut rig = Rig::with_setup(Plan::unmapped("lwm2mqtt"), |setup| {
        setup.settings.firmware.parallel = parallel;
    });
    let content: Bytes = (0..size).map(|at| (at * 7 + at / 251) as u8).collect();
    rig.images.insert(Digest::of(&content), content);
    tell_images(&mut rig);
    rig
}

fn tell_images(rig: &mut Rig) {
    let images = rig.images.iter().map(|(digest, content)| Image {
        name: "app.bin".to_owned(),
        sha256: *digest,
        size: content.len() as u64,
    });
    let images = images.collect();
    rig.gateway.set_images(images);
}

/// The content of the image.
fn image(rig: &Rig) -> Bytes {
    rig.images.values().next().unwrap().clone()
}

/// A registered device with object 5.
fn device(rig: &mut Rig, name: &str, updater: Updater) -> usize {
    let device = rig.add_device();
    rig.devices[device].updater = Some(updater);
    rig.register(device, name, "lt=86400", OBJECTS);
    rig.run(SECOND);
    device
}

fn start(rig: &mut Rig, name: &str, method: &str) -> Json {
    rig.administer(&json!({
        "verb": "firmware/start", "name": name, "file": "app.bin", "method": method,
    }))
}

fn updater(rig: &mut Rig, device: usize) -> &mut Updater {
    rig.devices[device].updater.as_mut().unwrap()
}

/// The device installs, restarts and registers again, with this result.
fn restart_device(rig: &mut Rig, device: usize, name: &str, result: i64) {
    let updater = updater(rig, device);
    (updater.state, updater.result) = (0, result);
    rig.register(device, name, "lt=86400", OBJECTS);
    rig.run(2 * SECOND);
}

/// The gateway stops in order, and another process begins with what was stored.
fn restart_gateway(rig: &mut Rig) {
    rig.stop();
    rig.start(Rig::setup(Plan::unmapped("lwm2mqtt")));
    tell_images(rig);
}

// conformance: 1.1-int-755, 1.1-int-770, P31
#[test]
fn an_image_is_pushed_installed_and_its_result_told() {
    let mut rig = rig(10_000, 4);
    let device = device(&mut rig, "dev1", Updater::default());
    let begun = start(&mut rig, "dev1", "auto");
    assert_eq!(begun["ok"], true, "{begun}");
    rig.run(5 * SECOND);
    let whole = image(&rig);
    assert_eq!(updater(&mut rig, device).package, whole);
    assert_eq!(updater(&mut rig, device).updates, 1);
    let told = rig.broker.json(FW);
    assert_eq!(
        (&told["state"], &told["method"], &told["percent"]),
        (&"updating".into(), &"push".into(), &100.into())
    );
    restart_device(&mut rig, device, "dev1", 1);
    let told = rig.broker.json(FW);
    assert_eq!(
        (&told["state"], &told["result"], &told["reason"]),
        (&"done".into(), &1.into(), &"updated".into())
    );
    let status = rig.administer(&json!({ "verb": "firmware/status", "name": "dev1" }));
    assert_eq!(status["result"]["state"], "done");
}

// conformance: 1.1-int-755, P31
#[test]
fn a_device_with_a_package_or_an_old_result_is_reset_by_a_nul_first() {
    for (state, result) in [(2, 0), (0, 8), (1, 0)] {
        let mut rig = rig(3000, 4);
        let old = Updater {
            state,
            result,
            ..Updater::default()
        };
        let device = device(&mut rig, "dev1", old);
        start(&mut rig, "dev1", "push");
        rig.run(5 * SECOND);
        let whole = image(&rig);
        let updater = updater(&mut rig, device);
        assert_eq!(
            (updater.resets, updater.updates),
            (1, 1),
            "{state} {result}"
        );
        assert_eq!(updater.package, whole);
    }
}

#[test]
fn a_megabyte_gets_through_with_every_tenth_datagram_lost() {
    let mut rig = rig(1_000_000, 4);
    let device = device(&mut rig, "dev1", Updater::default());
    rig.weather = Some(Weather {
        rng: StdRng::seed_from_u64(1),
        loss: 0.1,
        doubled: 0.0,
        late: 0.0,
    });
    start(&mut rig, "dev1", "push");
    for _ in 0..200 {
        rig.run(60 * SECOND);
        if updater(&mut rig, device).updates > 0 {
            break;
        }
    }
    let whole = image(&rig);
    assert_eq!(updater(&mut rig, device).package, whole);
    rig.weather = None;
    restart_device(&mut rig, device, "dev1", 1);
    assert_eq!(rig.broker.json(FW)["state"], "done");
    // It never goes back, and is not told at each block.
    let told = rig.broker.messages(FW);
    let bytes: Vec<u64> = told
        .iter()
        .filter_map(|told| told["bytes"].as_u64())
        .collect();
    assert!(bytes.is_sorted(), "{bytes:?}");
    assert!(told.len() < 1000, "{}", told.len());
}

#[test]
fn commands_are_answered_while_an_image_goes_out() {
    let mut rig = rig(1_000_000, 4);
    device(&mut rig, "dev1", Updater::default());
    start(&mut rig, "dev1", "push");
    rig.run(3 * SECOND);
    assert_eq!(rig.broker.json(FW)["state"], "downloading");
    rig.ask("lwm2mqtt/d/dev1/lwm2m/read", r#"{"id":"r1","path":"/5/0"}"#);
    rig.run(SECOND);
    let replies = rig.broker.messages("lwm2mqtt/d/dev1/reply");
    assert_eq!(replies.last().unwrap()["status"], "done", "{replies:?}");
    assert_eq!(rig.broker.json(FW)["state"], "downloading");
}

// wish: 27
#[test]
fn after_a_restart_the_gateway_goes_on_with_the_next_block() {
    let mut rig = rig(1_000_000, 4);
    let device = device(&mut rig, "dev1", Updater::default());
    start(&mut rig, "dev1", "push");
    rig.run(10 * SECOND);
    assert_eq!(rig.broker.json(FW)["state"], "downloading");
    restart_gateway(&mut rig);
    rig.register(device, "dev1", "lt=86400", OBJECTS);
    rig.run(30 * SECOND);
    let whole = image(&rig);
    assert_eq!(updater(&mut rig, device).package, whole);
    // 977 blocks; had it begun again, there would be 500 more.
    assert!(rig.sent < 1050, "{}", rig.sent);
    restart_device(&mut rig, device, "dev1", 1);
    let told = rig.broker.json(FW);
    assert_eq!(
        (&told["state"], &told["attempt"]),
        (&"done".into(), &1.into())
    );
}

#[test]
fn a_device_that_was_away_for_long_is_sent_the_rest_or_all_of_it() {
    let mut rig = rig(500_000, 4);
    let device = device(&mut rig, "dev1", Updater::default());
    start(&mut rig, "dev1", "push");
    rig.run(3 * SECOND);
    rig.devices[device].dead = true;
    rig.run(Duration::from_secs(7200));
    let told = rig.broker.json(FW);
    assert_eq!(
        (&told["state"], &told["waiting"]),
        (&"downloading".into(), &"no_answer".into())
    );
    rig.devices[device].dead = false;
    let location = rig.location(device);
    rig.request(device, Request::new(Code::POST, location));
    rig.run(60 * SECOND);
    let whole = image(&rig);
    assert_eq!(updater(&mut rig, device).package, whole);
    assert_eq!(updater(&mut rig, device).updates, 1);
}

// wish: 27
// conformance: 1.1-int-773, 1.1-int-774, 1.1-int-776, 1.1-int-777
#[test]
fn a_package_that_the_device_does_not_take_fails_with_its_result() {
    for (result, words) in [
        (2, "not enough flash memory for the package"),
        (3, "out of RAM while downloading"),
        (5, "integrity check failed"),
        (6, "unsupported package type"),
        (10, "cancelled at the device"),
        (200, "a result that is in no specification"),
    ] {
        let mut rig = rig(3000, 4);
        let refusing = Updater {
            refuses: Some(result),
            ..Updater::default()
        };
        let device = device(&mut rig, "dev1", refusing);
        start(&mut rig, "dev1", "push");
        rig.run(60 * SECOND);
        let told = rig.broker.json(FW);
        assert_eq!(
            (&told["state"], &told["result"], &told["reason"]),
            (&"failed".into(), &result.into(), &words.into())
        );
        assert_eq!(updater(&mut rig, device).updates, 0);
    }
}

// conformance: 1.1-int-779
#[test]
fn an_installation_that_fails_is_told_whatever_state_the_device_goes_back_to() {
    for state in [0, 2] {
        let mut rig = rig(3000, 4);
        let failing = Updater {
            update: Update::Ends(state, 8),
            ..Updater::default()
        };
        device(&mut rig, "dev1", failing);
        start(&mut rig, "dev1", "push");
        rig.run(60 * SECOND);
        let told = rig.broker.json(FW);
        assert_eq!(
            (&told["state"], &told["result"], &told["reason"]),
            (&"failed".into(), &8.into(), &"update failed".into())
        );
    }
}

// conformance: 1.1-int-772
#[test]
fn a_device_that_refuses_to_update_is_not_asked_for_ever() {
    let mut rig = rig(3000, 4);
    let refusing = Updater {
        update: Update::Refused,
        ..Updater::default()
    };
    let device = device(&mut rig, "dev1", refusing);
    start(&mut rig, "dev1", "push");
    rig.run(600 * SECOND);
    let told = rig.broker.json(FW);
    assert_eq!(told["state"], "failed");
    assert_eq!(
        told["reason"],
        "the device refuses to install: 4.05 Method Not Allowed"
    );
    assert_eq!(updater(&mut rig, device).updates, 3);
}

// conformance: P31
#[test]
fn a_device_that_comes_back_without_a_result_has_failed() {
    let mut rig = rig(3000, 4);
    let device = device(&mut rig, "dev1", Updater::default());
    start(&mut rig, "dev1", "push");
    rig.run(5 * SECOND);
    restart_device(&mut rig, device, "dev1", 0);
    let told = rig.broker.json(FW);
    assert_eq!(told["state"], "failed");
    assert!(told["reason"].as_str().unwrap().contains("says nothing"));
}

#[test]
fn an_update_that_the_user_puts_off_is_waited_for() {
    let mut rig = rig(3000, 4);
    let deferring = Updater {
        update: Update::Ends(2, 11),
        ..Updater::default()
    };
    let device = device(&mut rig, "dev1", deferring);
    start(&mut rig, "dev1", "push");
    rig.run(Duration::from_secs(86_000));
    let told = rig.broker.json(FW);
    assert_eq!(
        (&told["state"], &told["waiting"]),
        (&"updating".into(), &"deferred".into())
    );
    assert_eq!(updater(&mut rig, device).updates, 1);
    restart_device(&mut rig, device, "dev1", 1);
    assert_eq!(rig.broker.json(FW)["state"], "done");
}

#[test]
fn devices_are_updated_one_after_the_other_when_one_at_a_time_is_wanted() {
    let mut rig = rig(100_000, 1);
    let first = device(&mut rig, "dev1", Updater::default());
    let second = device(&mut rig, "dev2", Updater::default());
    start(&mut rig, "dev1", "push");
    start(&mut rig, "dev2", "push");
    rig.run(SECOND);
    let other = rig.broker.json("lwm2mqtt/d/dev2/fw");
    assert_eq!(
        (&other["state"], &other["waiting"]),
        (&"queued".into(), &"turn".into())
    );
    assert!(
        !rig.devices[second]
            .paths(Code::GET)
            .contains(&"/5/0".to_owned())
    );
    rig.run(10 * SECOND);
    // The second one does not wait for the restart of the first.
    assert_eq!(updater(&mut rig, first).updates, 1);
    assert_eq!(updater(&mut rig, second).updates, 1);
    assert_eq!(rig.broker.json(FW)["state"], "updating");
}

#[test]
fn one_that_is_away_does_not_keep_the_turn() {
    let mut rig = rig(500_000, 1);
    let first = device(&mut rig, "dev1", Updater::default());
    let second = device(&mut rig, "dev2", Updater::default());
    start(&mut rig, "dev1", "push");
    start(&mut rig, "dev2", "push");
    rig.run(SECOND);
    rig.devices[first].dead = true;
    rig.run(200 * SECOND);
    assert_eq!(updater(&mut rig, second).updates, 1);
    assert_eq!(updater(&mut rig, first).updates, 0);
}

#[test]
fn an_update_is_given_up_and_the_next_one_begins() {
    let mut rig = rig(1_000_000, 4);
    let device = device(&mut rig, "dev1", Updater::default());
    start(&mut rig, "dev1", "push");
    rig.run(3 * SECOND);
    let again = start(&mut rig, "dev1", "push");
    assert_eq!(again["error"]["kind"], "conflict");
    let cancelled = rig.administer(&json!({ "verb": "firmware/cancel", "name": "dev1" }));
    assert_eq!(cancelled["result"]["state"], "cancelled");
    let sent = rig.sent;
    rig.run(60 * SECOND);
    // Of 977 blocks, less than half had gone out.
    assert!(rig.sent < sent + 50, "{sent} {}", rig.sent);
    start(&mut rig, "dev1", "push");
    rig.run(60 * SECOND);
    assert_eq!(updater(&mut rig, device).updates, 1);
}

#[test]
fn of_a_removed_device_no_update_is_left() {
    let mut rig = rig(1_000_000, 4);
    device(&mut rig, "dev1", Updater::default());
    rig.administer(&json!({ "verb": "device/approve", "endpoint": "dev1" }));
    start(&mut rig, "dev1", "push");
    rig.run(3 * SECOND);
    assert!(rig.broker.retained.contains_key(FW));
    let removed = rig.administer(&json!({ "verb": "device/remove", "name": "dev1" }));
    assert_eq!(removed["ok"], true, "{removed}");
    rig.run(SECOND);
    assert!(!rig.broker.retained.contains_key(FW));
    assert_eq!(rig.kept.kept().documents, []);
}

#[test]
fn what_cannot_be_begun_is_refused_with_a_reason() {
    let mut rig = rig(3000, 4);
    device(&mut rig, "dev1", Updater::default());
    for (request, kind) in [
        (json!({ "name": "dev1", "file": "other.bin" }), "parse"),
        (
            json!({ "name": "dev9", "file": "app.bin" }),
            "unknown_device",
        ),
        (json!({ "name": "dev1" }), "parse"),
        (
            json!({ "name": "dev1", "file": "app.bin", "method": "mail" }),
            "parse",
        ),
        (
            json!({ "name": "dev1", "file": "app.bin", "object": "/3/0" }),
            "parse",
        ),
    ] {
        let mut request = request;
        request["verb"] = json!("firmware/start");
        let answer = rig.administer(&request);
        assert_eq!(answer["error"]["kind"], kind, "{request}");
    }
    assert!(!rig.broker.retained.contains_key(FW));
    // A device without object 5 is told so when it is its turn.
    let plain = rig.add_sensor();
    rig.register(plain, "dev2", "lt=300", crate::rig::SENSOR);
    rig.run(SECOND);
    start(&mut rig, "dev2", "push");
    rig.run(SECOND);
    let told = rig.broker.json("lwm2mqtt/d/dev2/fw");
    assert_eq!(told["reason"], "the device has not registered object 5");
}

/// A gateway that serves by coap and HTTP.
fn serving() -> Rig {
    let mut rig = Rig::with_setup(Plan::unmapped("lwm2mqtt"), |setup| {
        let places = &mut setup.settings.firmware.places;
        places.coap = Some("coap://10.0.0.254:5683".to_owned());
        places.http = Some("http://10.0.0.254:8080".to_owned());
    });
    let content = Bytes::from(vec![7; 5000]);
    rig.images.insert(Digest::of(&content), content);
    tell_images(&mut rig);
    rig
}

/// The device fetches the place that it was told.
fn fetch(rig: &mut Rig, device: usize) -> Response {
    let uri = updater(rig, device).uri.clone();
    let path = uri.strip_prefix("coap://10.0.0.254:5683/").unwrap();
    let request = Request::new(Code::GET, path.split('/'));
    rig.request(device, request);
    rig.run(5 * SECOND);
    rig.devices[device].responses.pop().unwrap()
}

// conformance: 1.1-int-756, 1.1-int-771
#[test]
fn a_device_that_pulls_fetches_the_image_from_the_gateway_by_coap() {
    let mut rig = serving();
    let pulling = Updater {
        delivery: 0,
        state: 2,
        ..Updater::default()
    };
    let device = device(&mut rig, "dev1", pulling);
    start(&mut rig, "dev1", "auto");
    rig.run(2 * SECOND);
    assert_eq!(updater(&mut rig, device).resets, 1);
    let response = fetch(&mut rig, device);
    assert_eq!(response.code, Code::CONTENT);
    assert_eq!(response.payload, image(&rig));
    let told = rig.broker.json(FW);
    assert_eq!(
        (&told["state"], &told["method"]),
        (&"downloading".into(), &"pull".into())
    );
    updater(&mut rig, device).state = 2;
    rig.run(60 * SECOND);
    assert_eq!(updater(&mut rig, device).updates, 1);
    restart_device(&mut rig, device, "dev1", 1);
    assert_eq!(rig.broker.json(FW)["state"], "done");
    // What is done is served no more.
    assert_eq!(fetch(&mut rig, device).code, Code::NOT_FOUND);
}

#[test]
fn what_a_device_was_told_to_fetch_is_there_after_a_restart() {
    let mut rig = serving();
    let device = device(&mut rig, "dev1", Updater::default());
    start(&mut rig, "dev1", "pull");
    rig.run(2 * SECOND);
    rig.stop();
    let mut setup = Rig::setup(Plan::unmapped("lwm2mqtt"));
    setup.settings.firmware.places.coap = Some("coap://10.0.0.254:5683".to_owned());
    rig.start(setup);
    tell_images(&mut rig);
    rig.run(10 * SECOND);
    let response = fetch(&mut rig, device);
    assert_eq!(response.payload, image(&rig));
}

// conformance: 1.1-int-775, 1.1-int-778
#[test]
fn a_pull_that_fails_is_told_and_one_that_lost_its_connection_begins_again() {
    let mut rig = serving();
    let device = device(&mut rig, "dev1", Updater::default());
    start(&mut rig, "dev1", "pull");
    for attempt in 1..=3 {
        rig.run(120 * SECOND);
        assert_eq!(rig.broker.json(FW)["attempt"], attempt);
        (
            updater(&mut rig, device).state,
            updater(&mut rig, device).result,
        ) = (0, 4);
    }
    rig.run(120 * SECOND);
    let told = rig.broker.json(FW);
    assert_eq!(
        (&told["state"], &told["result"], &told["reason"]),
        (
            &"failed".into(),
            &4.into(),
            &"connection lost while downloading".into()
        )
    );
    start(&mut rig, "dev1", "pull");
    rig.run(10 * SECOND);
    (
        updater(&mut rig, device).state,
        updater(&mut rig, device).result,
    ) = (0, 7);
    rig.run(120 * SECOND);
    assert_eq!(rig.broker.json(FW)["reason"], "invalid URI");
}

#[test]
fn the_protocol_is_one_that_the_device_has() {
    for (protocols, scheme) in [
        (vec![0, 2], "http://"),
        (vec![0], "coap://"),
        (vec![], "coap://"),
    ] {
        let mut rig = serving();
        let pulling = Updater {
            protocols: protocols.clone(),
            ..Updater::default()
        };
        let device = device(&mut rig, "dev1", pulling);
        start(&mut rig, "dev1", "pull");
        rig.run(2 * SECOND);
        let uri = updater(&mut rig, device).uri.clone();
        assert!(uri.starts_with(scheme), "{protocols:?} {uri}");
        assert_eq!(rig.served.len(), usize::from(scheme == "http://"));
    }
    let mut rig = serving();
    let exotic = Updater {
        protocols: vec![4, 5],
        ..Updater::default()
    };
    device(&mut rig, "dev1", exotic);
    start(&mut rig, "dev1", "pull");
    rig.run(2 * SECOND);
    let told = rig.broker.json(FW);
    assert!(told["reason"].as_str().unwrap().contains("by no protocol"));
}
