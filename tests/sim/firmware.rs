//! Images get to devices, and are installed.

mod away;
mod pull;

use std::time::Duration;

use bytes::Bytes;
use lwm2mqtt::coap::{Code, Request, Response};
use lwm2mqtt::gateway::Setup;
use lwm2mqtt::gateway::firmware::image::{Digest, Image};
use lwm2mqtt::kept::Kind;
use lwm2mqtt::mapping::Plan;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value as Json, json};

use crate::rig::{Rig, Weather, content};
use crate::updater::{Update, Updater};

const SECOND: Duration = Duration::from_secs(1);
const FW: &str = "lwm2mqtt/d/dev1/fw";
const OBJECTS: &str = "</>;ct=110,</1/0>,</3/0>,</5/0>";

/// A gateway that has an image of so many bytes, and updates so many devices at a time.
fn rig(size: usize, parallel: usize) -> Rig {
    with_window(size, parallel, Duration::from_secs(93))
}

/// The same, to which sleepers listen for so long.
fn with_window(size: usize, parallel: usize, window: Duration) -> Rig {
    let mut rig = Rig::with_setup(Plan::unmapped("lwm2mqtt"), |setup| {
        setup.settings.firmware.parallel = parallel;
        setup.settings.server.awake_window = window;
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
    registered(rig, name, updater, "lt=86400", OBJECTS)
}

/// A registered device with object 5 that sleeps.
fn sleeper(rig: &mut Rig, name: &str, updater: Updater) -> usize {
    registered(rig, name, updater, "Q", OBJECTS)
}

fn registered(rig: &mut Rig, name: &str, updater: Updater, query: &str, objects: &str) -> usize {
    let device = rig.add_device();
    rig.devices[device].updater = Some(updater);
    rig.register(device, name, query, objects);
    rig.run(SECOND);
    device
}

/// The device is asleep: it hears nothing.
fn sleep(rig: &mut Rig, device: usize, duration: Duration) {
    rig.devices[device].dead = true;
    rig.run(duration);
}

/// The device wakes, and says so with an Update.
fn wake(rig: &mut Rig, device: usize) {
    rig.devices[device].dead = false;
    let location = rig.location(device);
    rig.request(device, Request::new(Code::POST, location));
}

/// Where the update of a device was when it was stored last.
fn stored(rig: &Rig) -> Json {
    let kept = rig.kept.kept();
    serde_json::from_slice(&kept.documents.last().unwrap().body).unwrap()
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

/// A gateway that serves by coap and HTTP.
fn serving() -> Rig {
    serving_with(|_| {})
}

fn serving_with(adjust: impl FnOnce(&mut Setup)) -> Rig {
    let mut rig = Rig::with_setup(Plan::unmapped("lwm2mqtt"), |setup| {
        adjust(setup);
        let places = &mut setup.settings.firmware.places;
        places.coap = Some("coap://10.0.0.254:5683".to_owned());
        places.http = Some("http://10.0.0.254:8080".to_owned());
    });
    let content = Bytes::from(vec![7; 5000]);
    rig.images.insert(Digest::of(&content), content);
    tell_images(&mut rig);
    rig
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

// conformance: P31
#[test]
fn a_device_that_comes_back_as_another_version_without_a_result_was_updated() {
    let mut rig = rig(3000, 4);
    let device = rig.add_sensor();
    rig.devices[device].updater = Some(Updater::default());
    rig.register(device, "dev1", "lt=86400", OBJECTS);
    rig.run(SECOND);
    let version = |rig: &mut Rig, version: &str| {
        let payload = format!(r#"[{{"bn":"/3/0/","n":"3","vs":"{version}"}}]"#);
        rig.devices[device].answer(Code::GET, "/3/0", content(110, &payload));
    };
    version(&mut rig, "1.0");
    restart_device(&mut rig, device, "dev1", 0);
    start(&mut rig, "dev1", "push");
    rig.run(5 * SECOND);
    version(&mut rig, "2.0");
    restart_device(&mut rig, device, "dev1", 0);
    assert_eq!(rig.broker.json(FW)["state"], "done");
}

#[test]
fn a_version_that_was_not_known_before_proves_nothing() {
    let mut rig = rig(3000, 4);
    let device = device(&mut rig, "dev1", Updater::default());
    start(&mut rig, "dev1", "push");
    rig.run(5 * SECOND);
    let payload = r#"[{"bn":"/3/0/","n":"3","vs":"1.0"}]"#;
    rig.devices[device].answer(Code::GET, "/3/0", content(110, payload));
    restart_device(&mut rig, device, "dev1", 0);
    assert_eq!(rig.broker.json(FW)["state"], "failed");
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
    // It was looked at a thousand times, and that is no news.
    let told = rig.broker.messages(FW).len();
    assert!(told < 20, "{told}");
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
    let documents = rig.kept.kept().documents;
    let of_updates = documents.iter().filter(|it| it.key.kind == Kind::Update);
    assert_eq!(of_updates.count(), 0);
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

/// Lets /9/0 be updated from the command line.
fn start_software(rig: &mut Rig) -> Json {
    rig.administer(&json!({
        "verb": "firmware/start", "name": "dev1", "file": "app.bin", "method": "push",
        "object": "/9/0",
    }))
}

#[test]
fn software_is_removed_for_an_update_sent_installed_and_activated() {
    let mut rig = rig(10_000, 4);
    let objects = "</>;ct=110,</1/0>,</3/0>,</9/0>";
    let device = registered(&mut rig, "dev1", Updater::software(), "lt=86400", objects);
    let begun = start_software(&mut rig);
    assert_eq!(begun["ok"], true, "{begun}");
    rig.run(5 * SECOND);
    let whole = image(&rig);
    let updater = updater(&mut rig, device);
    assert_eq!(updater.package, whole);
    assert_eq!((updater.updates, updater.state), (1, 4));
    let software = updater.software.as_ref().unwrap();
    // 1: for an update, not to be rid of it.
    assert_eq!(software.uninstalls, ["1"]);
    assert!(software.active);
    let told = rig.broker.json(FW);
    assert_eq!(
        (&told["state"], &told["object"], &told["result"]),
        (&"done".into(), &"/9/0".into(), &2.into())
    );
}

#[test]
fn software_that_cannot_be_installed_fails_in_the_words_of_object_9() {
    let mut rig = rig(10_000, 4);
    let objects = "</>;ct=110,</1/0>,</3/0>,</9/0>";
    let empty = Updater {
        state: 0,
        result: 0,
        ..Updater::software()
    };
    let device = registered(&mut rig, "dev1", empty, "lt=86400", objects);
    start_software(&mut rig);
    rig.run(Duration::from_millis(300));
    // The integrity of what came could not be checked.
    let updater = updater(&mut rig, device);
    (updater.state, updater.result) = (0, 53);
    rig.run(60 * SECOND);
    let told = rig.broker.json(FW);
    assert_eq!(
        (&told["state"], &told["result"], &told["reason"]),
        (
            &"failed".into(),
            &53.into(),
            &"integrity check failed".into()
        )
    );
}
