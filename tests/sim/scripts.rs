//! Commands of the mapping: parameters, steps one after the other, and one last word.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Request, Response};
use serde_json::{Value as Json, json};

use crate::queue::{SECOND, update};
use crate::rig::{Rig, SENSOR, content};

const REPLY: &str = "lwm2mqtt/d/dev1/reply";
const BUZZ: &str = "lwm2mqtt/d/dev1/do/buzz";
const FLUSH: &str = "lwm2mqtt/d/dev1/do/flush";

const MAPPING: &str = r#"
[[command]]
name   = "buzz"
params = { seconds = { type = "integer", min = 1, max = 60, default = 5 } }
steps  = [
  { write = "/3338/0/5521", value = "{seconds}" },
  { write = "/3338/0/5850", value = true },
]
atomic = true

[[command]]
name   = "flush"
params = { litres = { type = "number", min = 1, max = 500 }, why = { type = "string", enum = ["dirt", "test"], default = "test" } }
steps  = [
  { write   = "/33210/0/30", value = "{litres}" },
  { execute = "/33210/0/31", args = "0='{why}',1='{litres}'" },
  { wait    = "/33210/0/32", until = "value == 0", timeout = "10m" },
  { read    = "/33210/0/33" },
]

[[command]]
name    = "reboot"
execute = "/3/0/4"
"#;

/// A device with a buzzer and a valve that does what it is told, but for the wait.
fn rig_of(query: &[&str]) -> (Rig, usize) {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_sensor();
    let scripted = &mut rig.devices[device];
    for path in ["/33210/0/30", "/3338/0/5521", "/3338/0/5850"] {
        scripted.answer(Code::PUT, path, Response::new(Code::CHANGED));
    }
    for path in ["/33210/0/31", "/3/0/4"] {
        scripted.answer(Code::POST, path, Response::new(Code::CHANGED));
    }
    scripted.answer(Code::IPATCH, "/", Response::new(Code::CHANGED));
    let total = content(110, r#"[{"n":"/33210/0/33","v":12.5}]"#);
    scripted.answer(Code::GET, "/33210/0/33", total);
    let mut request = Request::new(Code::POST, ["rd"]);
    let query = ["ep=dev1", "lwm2m=1.1"].iter().chain(query);
    request.query = query.map(ToString::to_string).collect();
    request.content_format = Some(40);
    request.payload = format!("{SENSOR},</3338/0>,</33210/0>").into_bytes();
    rig.request(device, request);
    rig.run(3 * SECOND);
    left(&mut rig, device, 3);
    rig.devices[device].requests.clear();
    (rig, device)
}

fn rig() -> (Rig, usize) {
    rig_of(&["lt=3600"])
}

/// What the valve says is left.
fn left(rig: &mut Rig, device: usize, litres: i64) {
    let payload = format!(r#"[{{"n":"/33210/0/32","v":{litres}}}]"#);
    rig.devices[device].answer(Code::GET, "/33210/0/32", content(110, &payload));
}

fn said(rig: &Rig, id: &str) -> Vec<String> {
    let replies = rig.broker.messages(REPLY);
    let of_it = replies.iter().filter(|reply| reply["id"] == id);
    of_it
        .map(|reply| reply["status"].as_str().unwrap().to_owned())
        .collect()
}

fn last(rig: &Rig, id: &str) -> Json {
    let replies = rig.broker.messages(REPLY);
    let mut of_it = replies.into_iter().filter(|reply| reply["id"] == id);
    of_it.next_back().unwrap()
}

fn finals(rig: &Rig, id: &str) -> usize {
    let replies = rig.broker.messages(REPLY);
    let finals = replies
        .iter()
        .filter(|it| it["id"] == id && it["final"] == true);
    finals.count()
}

/// How often it was asked what is left.
fn reads(rig: &Rig, device: usize) -> usize {
    let reads = rig.devices[device].paths(Code::GET);
    reads.iter().filter(|path| *path == "/33210/0/32").count()
}

fn asked(rig: &Rig, device: usize) -> Vec<String> {
    let requests = rig.devices[device].requests.iter();
    requests
        .map(|request| format!("{:?} /{}", request.method, request.path.join("/")))
        .collect()
}

#[test]
fn writes_of_an_atomic_command_are_one_composite_write() {
    let (mut rig, device) = rig();
    rig.ask(BUZZ, r#"{"id":"a","seconds":10}"#);
    rig.run(SECOND);
    let [request] = &rig.devices[device].requests[..] else {
        panic!("{:?}", asked(&rig, device));
    };
    assert_eq!(request.method, Code::IPATCH);
    let body: Json = serde_json::from_slice(&request.payload).unwrap();
    assert_eq!(
        body,
        json!([{ "bn": "/3338/0/", "n": "5521", "v": 10.0 }, { "n": "5850", "vb": true }])
    );
    assert_eq!(said(&rig, "a"), ["sent", "done"]);
    let done = last(&rig, "a");
    assert_eq!(
        (&done["op"], &done["command"], &done["code"]),
        (&json!("write-composite"), &json!("buzz"), &json!("2.04"))
    );
    // What is not said is as the mapping says.
    rig.ask(BUZZ, r#"{"id":"b"}"#);
    rig.run(SECOND);
    let request = rig.devices[device].requests.last().unwrap();
    let body: Json = serde_json::from_slice(&request.payload).unwrap();
    assert_eq!(body[0]["v"], 5.0);
    // One parameter can be the payload itself.
    rig.ask(BUZZ, "20");
    rig.run(SECOND);
    let request = rig.devices[device].requests.last().unwrap();
    let body: Json = serde_json::from_slice(&request.payload).unwrap();
    assert_eq!(body[0]["v"], 20.0);
}

#[test]
fn where_there_are_no_composite_writes_the_steps_go_in_order_and_stop_at_a_refusal() {
    let (mut rig, device) = rig();
    let refused = Response::new(Code::METHOD_NOT_ALLOWED);
    rig.devices[device].answer(Code::IPATCH, "/", refused);
    rig.ask(BUZZ, r#"{"id":"a"}"#);
    rig.run(SECOND);
    let done = last(&rig, "a");
    assert_eq!(
        (&done["status"], &done["fallback"]),
        (&json!("done"), &json!("single"))
    );
    let refused = Response::new(Code::BAD_REQUEST);
    rig.devices[device].answer(Code::PUT, "/3338/0/5850", refused);
    rig.ask(BUZZ, r#"{"id":"b"}"#);
    rig.run(SECOND);
    let failed = last(&rig, "b");
    assert_eq!(failed["error"]["code"], "4.00");
    assert_eq!(failed["done"], json!(["/3338/0/5521"]));
}

#[test]
fn parameters_are_checked_before_anything_reaches_the_device() {
    let (mut rig, device) = rig();
    for (topic, body, kind, detail) in [
        (
            BUZZ,
            json!({ "seconds": 61 }),
            "range",
            "61 is above max 60 of seconds of buzz",
        ),
        (
            BUZZ,
            json!({ "seconds": "10" }),
            "type",
            "seconds: \"10\" is not an integer",
        ),
        (
            BUZZ,
            json!({ "second": 10 }),
            "parse",
            "buzz has no parameter `second`: did you mean `seconds`?",
        ),
        (FLUSH, json!({}), "parse", "flush needs `litres`"),
        (
            FLUSH,
            json!({ "litres": 5, "why": "fun" }),
            "range",
            "\"fun\" is none of \"dirt\", \"test\" of why of flush",
        ),
        (
            FLUSH,
            json!(7),
            "parse",
            "flush needs a JSON object with its parameters, not 7",
        ),
        (
            "lwm2mqtt/d/dev1/do/reboot",
            json!({ "now": true }),
            "parse",
            "reboot has no parameter `now`: it has none",
        ),
        (
            "lwm2mqtt/d/dev1/do/flash",
            json!({}),
            "unknown_command",
            "there is no command flash",
        ),
    ] {
        rig.ask(topic, &body.to_string());
        let reply = rig.broker.messages(REPLY).pop().unwrap();
        assert_eq!(
            (&reply["status"], &reply["error"]["kind"]),
            (&json!("failed"), &json!(kind)),
            "{body}"
        );
        assert_eq!(reply["error"]["detail"], detail);
    }
    rig.run(SECOND);
    assert!(rig.devices[device].requests.is_empty());
}

#[test]
fn steps_are_done_in_order_and_a_value_is_waited_for() {
    let (mut rig, device) = rig();
    rig.ask(FLUSH, r#"{"id":"a","litres":12.5,"why":"dirt"}"#);
    rig.run(12 * SECOND);
    assert_eq!(said(&rig, "a"), ["sent"]);
    let execute = &rig.devices[device].requests[1];
    assert_eq!(execute.payload, b"0='dirt',1='12.5'");
    left(&mut rig, device, 0);
    rig.run(6 * SECOND);
    let requests = asked(&rig, device);
    assert_eq!(
        requests[..3],
        [
            "0.03 PUT /33210/0/30",
            "0.02 POST /33210/0/31",
            "0.01 GET /33210/0/32"
        ]
    );
    assert_eq!(requests.last().unwrap(), "0.01 GET /33210/0/33");
    assert_eq!(said(&rig, "a"), ["sent", "done"]);
    let done = last(&rig, "a");
    assert_eq!(
        (&done["op"], &done["command"], &done["values"]),
        (
            &json!("do"),
            &json!("flush"),
            &json!({ "/33210/0/33": 12.5 })
        )
    );
    assert!(done.get("step").is_none() && done.get("done").is_none());
}

#[test]
fn a_step_that_fails_is_named_and_nothing_comes_after_it() {
    let (mut rig, device) = rig();
    let refused = Response::new(Code::METHOD_NOT_ALLOWED);
    rig.devices[device].answer(Code::POST, "/33210/0/31", refused);
    rig.ask(FLUSH, r#"{"id":"a","litres":1}"#);
    rig.run(30 * SECOND);
    let failed = last(&rig, "a");
    assert_eq!(
        (
            &failed["status"],
            &failed["step"],
            &failed["path"],
            &failed["done"],
            &failed["error"]["code"]
        ),
        (
            &json!("failed"),
            &json!(2),
            &json!("/33210/0/31"),
            &json!(["/33210/0/30"]),
            &json!("4.05")
        )
    );
    assert_eq!(asked(&rig, device).len(), 2);
}

#[test]
fn a_wait_is_given_up_when_its_time_is_over() {
    let (mut rig, device) = rig();
    rig.ask(FLUSH, r#"{"id":"a","litres":1}"#);
    rig.run(601 * SECOND);
    let failed = last(&rig, "a");
    assert_eq!(
        (&failed["step"], &failed["error"]["kind"]),
        (&json!(3), &json!("confirm"))
    );
    assert_eq!(
        failed["error"]["detail"],
        "/33210/0/32 is 3 after 10m, which is not what was waited for"
    );
    assert_eq!(failed["done"], json!(["/33210/0/30", "/33210/0/31"]));
    let before = reads(&rig, device);
    rig.run(60 * SECOND);
    assert_eq!(reads(&rig, device), before);
}

#[test]
fn a_notification_ends_a_wait_at_once_and_an_observed_value_is_hardly_read() {
    let (mut rig, device) = rig();
    let all = |litres| content(110, &format!(r#"[{{"n":"/33210/0/32","v":{litres}}}]"#));
    rig.devices[device].answer(Code::GET, "/33210/0", all(3));
    rig.ask(
        "lwm2mqtt/d/dev1/lwm2m/observe",
        r#"{"id":"o","path":"/33210/0"}"#,
    );
    rig.run(SECOND);
    assert_eq!(last(&rig, "o")["status"], "done");
    rig.ask(FLUSH, r#"{"id":"a","litres":1}"#);
    rig.run(2 * SECOND);
    notify_left(&mut rig, device, 0);
    rig.run(Duration::from_millis(100));
    assert_eq!(last(&rig, "a")["status"], "done");
}

fn notify_left(rig: &mut Rig, device: usize, litres: i64) {
    let payload = format!(r#"[{{"n":"/33210/0/32","v":{litres}}}]"#);
    rig.notify(device, "/33210/0", content(110, &payload), true);
}

#[test]
fn other_commands_go_on_during_a_wait_and_the_same_one_waits() {
    let (mut rig, device) = rig();
    rig.ask(FLUSH, r#"{"id":"a","litres":1}"#);
    rig.run(2 * SECOND);
    rig.ask(FLUSH, r#"{"id":"b","litres":2}"#);
    rig.ask(BUZZ, r#"{"id":"c"}"#);
    rig.run(2 * SECOND);
    assert_eq!(said(&rig, "a"), ["sent"]);
    assert_eq!(said(&rig, "b"), ["accepted"]);
    assert_eq!(said(&rig, "c"), ["sent", "done"]);
    left(&mut rig, device, 0);
    rig.run(20 * SECOND);
    for id in ["a", "b"] {
        assert_eq!(
            (last(&rig, id)["status"].clone(), finals(&rig, id)),
            ("done".into(), 1)
        );
    }
    let executed = rig.devices[device].paths(Code::POST);
    assert_eq!(executed.len(), 2);
}

#[test]
fn steps_go_on_when_a_device_that_fell_asleep_over_them_wakes() {
    let (mut rig, device) = rig_of(&["lt=86400", "Q"]);
    rig.ask(FLUSH, r#"{"id":"a","litres":1}"#);
    // The write has arrived, and its answer is on the way.
    rig.run(Duration::from_millis(15));
    rig.devices[device].dead = true;
    rig.run(300 * SECOND);
    assert_eq!(said(&rig, "a"), ["sent"]);
    rig.devices[device].dead = false;
    left(&mut rig, device, 0);
    update(&mut rig, device, &[]);
    rig.run(2 * SECOND);
    let done = last(&rig, "a");
    assert_eq!(
        (&done["status"], &done["attempts"]),
        (&json!("done"), &json!(2))
    );
    assert_eq!(rig.devices[device].paths(Code::PUT).len(), 1);
    assert_eq!(rig.devices[device].paths(Code::POST).len(), 1);
}

#[test]
fn what_is_left_of_a_command_expires_and_says_what_was_done() {
    let (mut rig, device) = rig_of(&["lt=86400", "Q"]);
    rig.ask(FLUSH, r#"{"id":"a","litres":1,"ttl":"5m"}"#);
    rig.run(Duration::from_millis(15));
    rig.devices[device].dead = true;
    rig.run(400 * SECOND);
    let expired = last(&rig, "a");
    assert_eq!(
        (&expired["status"], &expired["done"]),
        (&json!("expired"), &json!(["/33210/0/30"]))
    );
    assert_eq!(finals(&rig, "a"), 1);
    rig.devices[device].dead = false;
    update(&mut rig, device, &[]);
    rig.run(5 * SECOND);
    assert!(rig.devices[device].paths(Code::POST).is_empty());
}

#[test]
fn another_process_goes_on_where_a_command_was() {
    let (mut rig, device) = rig();
    rig.ask(FLUSH, r#"{"id":"a","litres":1}"#);
    rig.run(2 * SECOND);
    rig.crash();
    rig.run(20 * SECOND);
    rig.start(Rig::setup(Rig::plan(MAPPING)));
    rig.run(20 * SECOND);
    assert_eq!(said(&rig, "a"), ["sent"]);
    left(&mut rig, device, 0);
    rig.run(20 * SECOND);
    let done = last(&rig, "a");
    assert_eq!(
        (&done["status"], &done["values"]),
        (&json!("done"), &json!({ "/33210/0/33": 12.5 }))
    );
    assert_eq!(said(&rig, "a"), ["sent", "done"]);
    assert_eq!(rig.devices[device].paths(Code::PUT).len(), 1);
    assert_eq!(rig.devices[device].paths(Code::POST).len(), 1);
    // It is known by its id for a day, also to the process after that.
    rig.ask(FLUSH, r#"{"id":"a","litres":1}"#);
    rig.run(5 * SECOND);
    assert_eq!(last(&rig, "a"), done);
    assert_eq!(rig.devices[device].paths(Code::POST).len(), 1);
}

#[test]
fn the_time_of_a_wait_runs_on_over_a_restart() {
    let (mut rig, device) = rig();
    rig.ask(FLUSH, r#"{"id":"a","litres":1}"#);
    rig.run(10 * SECOND);
    rig.crash();
    rig.run(580 * SECOND);
    rig.start(Rig::setup(Rig::plan(MAPPING)));
    rig.run(8 * SECOND);
    assert_eq!(said(&rig, "a"), ["sent"]);
    rig.run(10 * SECOND);
    let failed = last(&rig, "a");
    assert_eq!(
        (&failed["step"], &failed["error"]["kind"]),
        (&json!(3), &json!("confirm"))
    );
    assert_eq!(rig.devices[device].paths(Code::POST).len(), 1);
}

#[test]
fn an_execute_among_steps_that_was_sent_when_the_process_died_is_not_repeated() {
    let (mut rig, device) = rig();
    rig.ask(FLUSH, r#"{"id":"a","litres":1}"#);
    // The answer to the write is here, and the execute on its way.
    rig.run(Duration::from_millis(25));
    rig.crash();
    rig.devices[device].requests.clear();
    rig.run(SECOND);
    rig.start(Rig::setup(Rig::plan(MAPPING)));
    rig.run(20 * SECOND);
    let failed = last(&rig, "a");
    assert_eq!(
        (&failed["status"], &failed["error"]["kind"], &failed["step"]),
        (&json!("failed"), &json!("timeout"), &json!(2))
    );
    assert_eq!(failed["done"], json!(["/33210/0/30"]));
    assert_eq!(finals(&rig, "a"), 1);
}

#[test]
fn a_command_that_has_other_steps_by_now_does_not_go_on_with_them() {
    let (mut rig, device) = rig();
    rig.ask(FLUSH, r#"{"id":"a","litres":1}"#);
    rig.run(2 * SECOND);
    rig.crash();
    let other = MAPPING.replace("  { read    = \"/33210/0/33\" },\n", "");
    rig.start(Rig::setup(Rig::plan(&other)));
    rig.run(20 * SECOND);
    let failed = last(&rig, "a");
    assert_eq!(failed["error"]["kind"], "internal");
    assert_eq!(rig.devices[device].paths(Code::POST).len(), 1);
}

#[test]
fn a_command_that_waits_for_a_value_can_be_cancelled() {
    let (mut rig, device) = rig();
    rig.ask(FLUSH, r#"{"id":"a","litres":1}"#);
    rig.run(2 * SECOND);
    rig.ask("lwm2mqtt/d/dev1/cancel", r#"{"id":"a"}"#);
    let cancelled = last(&rig, "a");
    assert_eq!(
        (&cancelled["status"], &cancelled["done"]),
        (&json!("cancelled"), &json!(["/33210/0/30", "/33210/0/31"]))
    );
    let before = reads(&rig, device);
    rig.run(60 * SECOND);
    assert_eq!(reads(&rig, device), before);
}

#[test]
fn the_birth_message_says_which_commands_there_are() {
    let (rig, _) = rig();
    let birth = rig.broker.json("lwm2mqtt/d/dev1");
    assert_eq!(
        birth["commands"],
        json!({
            "buzz": { "params": { "seconds": { "type": "integer", "min": 1, "max": 60, "default": 5 } } },
            "flush": { "params": {
                "litres": { "type": "number", "min": 1, "max": 500 },
                "why": { "type": "string", "enum": ["dirt", "test"], "default": "test" },
            } },
            "reboot": {},
        })
    );
}
