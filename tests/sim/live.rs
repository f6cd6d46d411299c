//! Those on the command line who stay: for the last word of a command, to observe, to watch.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Response};
use lwm2mqtt::gateway::Input;
use serde_json::{Value as Json, json};

use crate::queue::{sleepy, update};
use crate::rig::{Rig, SENSOR, content};

const SECOND: Duration = Duration::from_secs(1);

/// The lines of an answer so far.
fn lines(rig: &Rig, id: u64) -> Vec<Json> {
    rig.replies[&id].clone()
}

/// What the last line says, which has to be the last one.
fn last(rig: &Rig, id: u64) -> Json {
    let line = lines(rig, id).pop().unwrap();
    assert_eq!(
        (&line["ok"], &line["more"]),
        (&json!(true), &Json::Null),
        "{line}"
    );
    line["result"].clone()
}

fn temperature(value: f64) -> Response {
    content(110, &format!(r#"[{{"n":"/3303/0/5700","v":{value}}}]"#))
}

fn command(rig: &mut Rig, request: &str, body: Json) -> u64 {
    rig.begin_admin(
        &json!({ "verb": "command", "device": "dev1", "request": request, "body": body }),
    )
}

#[test]
fn a_command_of_the_command_line_is_one_like_those_of_mqtt_and_answered_on_its_line() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.devices[device].answer(Code::GET, "/3303/0/5700", temperature(19.5));
    let published = rig.broker.messages("lwm2mqtt/d/dev1/reply").len();
    let id = command(
        &mut rig,
        "lwm2m/read",
        json!({ "path": "/3303/0/5700", "id": "c1" }),
    );
    rig.run(SECOND);
    let all = lines(&rig, id);
    assert_eq!(all[0]["result"]["status"], "sent");
    assert_eq!(all[0]["more"], true);
    let reply = last(&rig, id);
    assert_eq!(
        (&reply["value"], &reply["id"]),
        (&json!(19.5), &json!("c1"))
    );
    assert_eq!(reply["final"], true);
    // The line is instead of the topic.
    assert_eq!(
        rig.broker.messages("lwm2mqtt/d/dev1/reply").len(),
        published
    );
}

#[test]
fn a_device_goes_by_its_endpoint_name_and_a_node_by_the_name_of_its_signal() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.devices[device].answer(Code::GET, "/3303/0/5700", temperature(20.0));
    let request = json!({
        "verb": "command", "device": "dev1", "request": "lwm2m/read",
        "body": { "path": "temperature-0/sensor-value" },
    });
    let id = rig.begin_admin(&request);
    rig.run(SECOND);
    assert_eq!(last(&rig, id)["path"], "/3303/0/5700");
    let unknown = command(
        &mut rig,
        "lwm2m/read",
        json!({ "path": "temperature-0/nonsense" }),
    );
    assert_eq!(last(&rig, unknown)["error"]["kind"], "unknown_signal");
    let nobody = json!({ "verb": "command", "device": "nobody", "request": "lwm2m/read" });
    let id = rig.begin_admin(&nobody);
    assert_eq!(lines(&rig, id)[0]["error"]["kind"], "unknown_device");
}

#[test]
fn a_failure_is_a_reply_too() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.devices[device].answer(
        Code::POST,
        "/3/0/4",
        Response::new(Code::METHOD_NOT_ALLOWED),
    );
    let id = command(&mut rig, "do/device-0/reboot", json!({}));
    rig.run(SECOND);
    let reply = last(&rig, id);
    assert_eq!(
        (&reply["status"], &reply["error"]["code"]),
        (&json!("failed"), &json!("4.05"))
    );
}

#[test]
fn what_is_not_waited_for_is_answered_on_the_topic_of_replies() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.devices[device].answer(Code::GET, "/3303/0/5700", temperature(19.5));
    let id = command(
        &mut rig,
        "lwm2m/read",
        json!({ "path": "/3303/0/5700", "id": "gone" }),
    );
    rig.input(Input::AdminLeft(id));
    rig.run(SECOND);
    let replies = rig.broker.messages("lwm2mqtt/d/dev1/reply");
    let reply = replies.iter().find(|reply| reply["id"] == "gone").unwrap();
    assert_eq!(
        (&reply["status"], &reply["value"]),
        (&json!("done"), &json!(19.5))
    );
}

// conformance: 303
#[test]
fn one_who_observes_gets_each_value_and_ends_what_it_began() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    let observed = Response {
        observe: Some(1),
        ..content(110, r#"[{"n":"/3/0/9","v":87}]"#)
    };
    rig.devices[device].answer(Code::GET, "/3/0/9", observed);
    let request = json!({ "verb": "observe", "device": "dev1", "path": "/3/0/9" });
    let id = rig.begin_admin(&request);
    rig.run(SECOND);
    rig.notify(
        device,
        "/3/0/9",
        content(110, r#"[{"n":"/3/0/9","v":86}]"#),
        true,
    );
    rig.run(SECOND);
    let values: Vec<Json> = lines(&rig, id)
        .iter()
        .filter(|line| !line["result"]["value"].is_null())
        .map(|line| line["result"]["value"].clone())
        .collect();
    assert_eq!(values, [json!(87), json!(86)]);
    let before = rig.devices[device].requests.len();
    rig.input(Input::AdminLeft(id));
    rig.run(SECOND);
    let after = &rig.devices[device].requests[before..];
    assert_eq!(after.len(), 1);
    assert!(
        rig.devices[device]
            .observers
            .iter()
            .all(|(path, _)| path != "/3/0/9")
    );
}

#[test]
fn an_observation_that_stood_before_stays_when_one_who_looks_on_goes() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.run(SECOND);
    let (path, _) = rig.devices[device].observers[0].clone();
    let id = rig.begin_admin(&json!({ "verb": "observe", "device": "dev1", "path": path }));
    rig.run(SECOND);
    let before = rig.devices[device].requests.len();
    rig.input(Input::AdminLeft(id));
    rig.run(SECOND);
    assert_eq!(rig.devices[device].requests.len(), before);
    assert!(
        rig.devices[device]
            .observers
            .iter()
            .any(|(observed, _)| *observed == path)
    );
}

#[test]
fn an_observation_ends_with_a_sentence_when_the_device_goes() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.run(SECOND);
    let (path, _) = rig.devices[device].observers[0].clone();
    let id = rig.begin_admin(&json!({ "verb": "observe", "device": "dev1", "path": path }));
    rig.run(SECOND);
    rig.register(device, "dev1", "lt=300", "</3/0>");
    rig.run(SECOND);
    let line = lines(&rig, id).pop().unwrap();
    assert_eq!(line["ok"], false);
    assert!(
        line["error"]["detail"]
            .as_str()
            .unwrap()
            .contains("registered anew"),
        "{line}"
    );
}

#[test]
fn one_who_watches_sees_both_sides_and_only_the_device_that_is_wanted() {
    let mut rig = Rig::new();
    let first = rig.add_registered();
    let second = rig.add_sensor();
    rig.register(second, "dev2", "lt=300", SENSOR);
    rig.run(3 * SECOND);
    let all = rig.begin_admin(&json!({ "verb": "watch" }));
    let one = rig.begin_admin(&json!({ "verb": "watch", "device": "dev2" }));
    rig.notify(first, "/3303/0", temperature(22.25), true);
    rig.run(SECOND);
    let seen = lines(&rig, all);
    let has = |side: &str, what: &str| {
        seen.iter()
            .any(|line| line["result"]["side"] == side && line["result"]["what"] == what)
    };
    assert!(
        has("lwm2m", "notification") && has("mqtt", "publish"),
        "{seen:?}"
    );
    let publish = seen
        .iter()
        .find(|line| line["result"]["what"] == "publish")
        .unwrap();
    assert!(
        publish["result"]["payload"]
            .as_str()
            .unwrap()
            .contains("22.25")
    );
    assert_eq!(lines(&rig, one).len(), 1, "{:?}", lines(&rig, one));
    rig.ask("lwm2mqtt/d/dev2/get/temperature-0/sensor-value", "");
    rig.run(SECOND);
    let seen = lines(&rig, one);
    let whats: Vec<_> = seen[1..]
        .iter()
        .map(|line| line["result"]["what"].clone())
        .collect();
    assert!(
        whats.contains(&json!("request")) && whats.contains(&json!("operation")),
        "{whats:?}"
    );
}

#[test]
fn one_who_watches_sees_no_key_that_somebody_put_into_a_request() {
    let mut rig = Rig::new();
    let id = rig.begin_admin(&json!({ "verb": "watch" }));
    rig.ask(
        "lwm2mqtt/bridge/request/device/add",
        r#"{"name":"m1","psk":{"identity":"m1","key":"00112233445566778899aabbccddeeff"}}"#,
    );
    rig.run(SECOND);
    let seen = lines(&rig, id);
    assert!(seen.len() > 1);
    assert!(
        seen.iter()
            .all(|line| !line.to_string().contains("0011223344")),
        "{seen:?}"
    );
}

#[test]
fn they_are_as_many_as_the_limit_and_leaving_makes_room() {
    let mut rig = Rig::new();
    let watch = json!({ "verb": "watch" });
    let ids: Vec<_> = (0..64).map(|_| rig.begin_admin(&watch)).collect();
    let refused = rig.begin_admin(&watch);
    assert_eq!(lines(&rig, refused)[0]["error"]["kind"], "queue_full");
    rig.input(Input::AdminLeft(ids[0]));
    let again = rig.begin_admin(&watch);
    assert_eq!(lines(&rig, again)[0]["ok"], true);
}

#[test]
fn a_command_for_a_sleeping_device_says_that_it_waits_and_is_answered_when_it_wakes() {
    let (mut rig, device) = sleepy();
    rig.devices[device].answer(Code::GET, "/3303/0/5700", temperature(19.5));
    rig.run(100 * SECOND);
    let read = json!({ "path": "/3303/0/5700" });
    let waits = command(&mut rig, "lwm2m/read", read.clone());
    let leaves = command(
        &mut rig,
        "lwm2m/read",
        json!({ "path": "/3303/0/5700", "id": "left" }),
    );
    for id in [waits, leaves] {
        let line = lines(&rig, id).pop().unwrap();
        assert_eq!(
            (
                &line["result"]["status"],
                &line["result"]["why"],
                &line["more"]
            ),
            (&json!("queued"), &json!("asleep"), &json!(true)),
            "{line}"
        );
    }
    // One does not wait for it: --no-wait.
    rig.input(Input::AdminLeft(leaves));
    update(&mut rig, device, &[]);
    rig.run(3 * SECOND);
    assert_eq!(last(&rig, waits)["value"], 19.5);
    let replies = rig.broker.messages("lwm2mqtt/d/dev1/reply");
    let of_it = |reply: &&Json| reply["id"] == "left";
    let reply = replies.iter().rfind(of_it).unwrap();
    assert_eq!(
        (&reply["status"], &reply["value"]),
        (&json!("done"), &json!(19.5))
    );
}
