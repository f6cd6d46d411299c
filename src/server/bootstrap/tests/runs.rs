//! Client-initiated bootstrap, message by message.

use std::sync::Arc;
use std::time::Duration;

use super::rig::{Rig, START, decode};
use crate::coap::{Code, Peer, Response};
use crate::dtls::PeerIdentity;
use crate::lwm2m::{Path, Value};
use crate::server::bootstrap::*;
use crate::server::credentials::Record;

/// One server, as plain as can be.
const PLAIN: &str = r#"
schema = 1
[profile]
id = "plain"
[match]
endpoint = "gw*"
[[server]]
uri = "coap://10.0.0.254:5683"
short_server_id = 1
"#;

/// One server with a generated key, and some of LwM2M 1.1.
const KEYED: &str = r#"
schema = 1
[profile]
id = "keyed"
[match]
endpoint = "*"
[[server]]
uri = "coaps://gw.example:5684"
short_server_id = 101
lifetime = 300
retry_count = 3
mute_send = false
"#;

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

// conformance: 4
#[test]
fn a_device_of_1_0_is_written_in_tlv() {
    let mut rig = Rig::new(PLAIN);
    rig.bootstrap(&["ep=gw1"]);
    assert_eq!(rig.device.responses[0].code, Code::CHANGED);
    assert_eq!(
        rig.device.requests,
        [
            "GET / 40",
            "DELETE /0",
            "DELETE /1",
            "PUT /0/1 11542",
            "PUT /1/0 11542",
            "POST /bs"
        ]
    );
    // Instance 0 of object 0 is left alone: the device did not tell that it is not the account
    // that it came with.
    assert_eq!(
        rig.device.payloads[1],
        hex("C1 00 01 C4 01 00 01 51 80 C1 06 01 C1 07 55")
    );
    assert_eq!(rig.device.value("/0/1/2"), Some(&Value::Integer(3)));
    assert_eq!(
        rig.news(),
        [
            News::Started {
                profile: "plain".into()
            },
            News::Reached(Step::Delete),
            News::Reached(Step::Write),
            News::Reached(Step::Finish),
            News::Done {
                written: 2,
                seconds: 0,
                notes: vec![]
            },
        ]
    );
    assert_eq!(rig.server.bootstraps(), 0);
}

// conformance: 0
#[test]
fn the_messages_are_those_of_the_specification() {
    let mut rig = Rig::new(PLAIN);
    let bytes = hex("41 02 40 01 06 B2 62 73 46 65 70 3D 67 77 31 07 70 63 74 3D 31 31 32");
    rig.server.receive(rig.now, rig.device.route, &bytes);
    rig.settle();
    // 2.04 in the ACK leaves before anything is asked.
    assert_eq!(rig.sent[0], hex("61 44 40 01 06"));
    assert_eq!(rig.device.requests.first().unwrap(), "GET / 40");
    // Bootstrap-Finish: a POST with an 8 byte token, Uri-Path `bs` and nothing behind it.
    let finish = rig.sent.last().unwrap();
    assert_eq!((finish[0], finish[1]), (0x48, 0x02));
    assert_eq!(finish[12..], hex("B2 62 73"));
    assert_eq!(rig.device.requests[3], "PUT /0/1 112");
}

// conformance: 1
#[test]
fn a_key_is_kept_before_it_is_written_and_ends_with_the_window() {
    let mut rig = Rig::with_window(KEYED);
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    let kept = rig.kept();
    let [(endpoint, identity, key, expires)] = &kept[..] else {
        panic!("{}", kept.len());
    };
    assert_eq!((endpoint.as_str(), &identity[..]), ("gw1", &b"gw1"[..]));
    assert_eq!(key.len(), 16);
    assert_eq!(*expires, Some(START.unix + Duration::from_secs(120)));
    assert_eq!(
        rig.device.value("/0/1/5"),
        Some(&Value::Opaque(key.clone()))
    );
    assert_eq!(
        rig.device.value("/0/1/3"),
        Some(&Value::Opaque(b"gw1".to_vec()))
    );
    for (path, value) in [
        ("/0/1/2", Value::Integer(0)),
        ("/0/1/10", Value::Integer(101)),
        ("/1/0/1", Value::Integer(300)),
        ("/1/0/17", Value::UnsignedInteger(3)),
        ("/1/0/23", Value::Boolean(false)),
    ] {
        assert_eq!(rig.device.value(path), Some(&value), "{path}");
    }
    // Nothing that is told of it has the key.
    let told = format!("{:?}", rig.events);
    let shown: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!told.contains(&shown) && !told.contains(&format!("{key:?}")));
}

#[test]
fn every_bootstrap_makes_another_key() {
    let mut rig = Rig::with_window(KEYED);
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    let first = rig.kept();
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    let second = rig.kept();
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_ne!(first[0].2, second[0].2);
}

#[test]
fn a_device_that_does_not_finish_keeps_the_key_that_it_had() {
    let mut rig = Rig::with_window(KEYED);
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    let before = rig.kept();
    // It finds what it was told inconsistent, and goes back.
    rig.device
        .answer_with(Code::POST, "/bs", Response::new(Code::NOT_ACCEPTABLE));
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    assert_eq!(rig.failure().0, Step::Finish);
    assert_eq!(rig.kept(), before);
    // It has its new key already, and not all of the rest.
    rig.device
        .answer(Code::PUT, "/1/0", Code::INTERNAL_SERVER_ERROR);
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    assert_eq!(rig.failure().0, Step::Write);
    assert_eq!(rig.kept(), before);
}

#[test]
fn a_device_that_had_no_key_has_none_after_a_run_that_failed() {
    let mut rig = Rig::with_window(KEYED);
    rig.device
        .answer(Code::PUT, "/1/0", Code::INTERNAL_SERVER_ERROR);
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    assert_eq!(rig.failure().0, Step::Write);
    // So it may go on as it did: without security, if that was its way.
    assert!(rig.kept().is_empty());
    // Of one that fell silent at the end nobody knows; the new key may be its only one.
    rig.device.held = Some(Vec::new());
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    rig.device.dead = true;
    rig.run(Duration::from_secs(110));
    assert_eq!(rig.failure().0, Step::Finish);
    assert_eq!(rig.kept().len(), 1);
}

#[test]
fn what_came_with_1_1_is_not_written_to_a_device_of_1_0() {
    let mut rig = Rig::with_window(KEYED);
    rig.bootstrap(&["ep=gw1"]);
    assert!(matches!(rig.last(), News::Done { .. }));
    assert_eq!(rig.device.value("/1/0/17"), None);
    assert_eq!(rig.device.value("/1/0/1"), Some(&Value::Integer(300)));
    // A device that says so in its Discover gets it in TLV.
    rig.device.discover = Some("</>;lwm2m=1.1,</0/0>,</3/0>");
    rig.bootstrap(&["ep=gw1"]);
    assert_eq!(
        rig.device.value("/1/0/17"),
        Some(&Value::UnsignedInteger(3))
    );
}

// conformance: P20
#[test]
fn the_account_that_the_device_came_with_is_not_overwritten() {
    for (discover, instance) in [
        ("</>;lwm2m=1.1,</0/1>,</1/0>;ssid=9,</3/0>", 0),
        (
            "</>;lwm2m=1.1,</0/0>;ssid=9;uri=\"coaps://x\",</0/2>,</3/0>",
            0,
        ),
        ("lwm2m=\"1.0\",</0/0>,</3/0>", 1),
        ("</>;lwm2m=\"1.0\", </0/0/>, </0/1>", 2),
    ] {
        let mut rig = Rig::new(PLAIN);
        rig.device.discover = Some(discover);
        rig.bootstrap(&["ep=gw1", "pct=110"]);
        let expected = format!("PUT /0/{instance} 110");
        assert_eq!(rig.device.requests[3], expected, "{discover}");
    }
}

// conformance: 8
#[test]
fn accounts_that_stay_keep_their_places() {
    let profile = PLAIN.replace("[[server]]", "[bootstrap]\ndelete = []\n[[server]]")
        + "[[acl]]\nobject = 3303\ninstance = 0\nrights = { 1 = \"RW\", 0 = \"R\" }\n";
    let mut rig = Rig::new(&profile);
    rig.device.discover =
        Some("</>;lwm2m=1.1,</0/0>,</0/1>;ssid=9,</0/2>;ssid=1,</1/0>,</1/1>,</2/0>,</2/1>");
    let servers = "[{\"n\":\"/1/0/0\",\"v\":9},{\"n\":\"/1/1/0\",\"v\":1}]";
    let rules = "[{\"n\":\"/2/0/0\",\"v\":3303},{\"n\":\"/2/0/1\",\"v\":1},\
                 {\"n\":\"/2/1/0\",\"v\":3303},{\"n\":\"/2/1/1\",\"v\":0}]";
    for (path, payload) in [("/1", servers), ("/2", rules)] {
        let response = Response {
            content_format: Some(110),
            payload: payload.into(),
            ..Response::new(Code::CONTENT)
        };
        rig.device.answer_with(Code::GET, path, response);
    }
    rig.bootstrap(&["ep=gw1", "pct=110"]);
    assert_eq!(
        rig.device.requests,
        [
            "GET / 40",
            "GET /1 110",
            "GET /2 110",
            "PUT /0/2 110",
            "PUT /1/1 110",
            "PUT /2/1 110",
            "POST /bs"
        ]
    );
    assert_eq!(rig.device.value("/2/1/2/1"), Some(&Value::Integer(3)));
    assert_eq!(rig.device.value("/2/1/2/0"), Some(&Value::Integer(1)));
    assert_eq!(rig.device.value("/2/1/3"), Some(&Value::Integer(65_535)));
}

#[test]
fn a_device_without_bootstrap_read_is_written_all_the_same() {
    let profile = PLAIN.replace("[[server]]", "[bootstrap]\ndelete = [\"/0\"]\n[[server]]");
    let mut rig = Rig::new(&profile);
    rig.device.discover = Some("</>;lwm2m=1.1,</0/0>,</1/0>;ssid=9");
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    assert_eq!(rig.device.requests[1], "GET /1 112");
    // 4.05 to the Read, and the instance of the other server stays its own.
    assert_eq!(rig.device.requests[4], "PUT /1/1 112");
    assert!(matches!(rig.last(), News::Done { .. }));
}

#[test]
fn the_next_format_is_tried_after_4_15() {
    let mut rig = Rig::new(PLAIN);
    rig.device.formats = vec![11542];
    rig.bootstrap(&["ep=gw1", "pct=11544"]);
    assert_eq!(
        rig.device.requests[3..],
        [
            "PUT /0/1 11544",
            "PUT /0/1 112",
            "PUT /0/1 11542",
            "PUT /1/0 11542",
            "POST /bs"
        ]
    );
    rig.device.formats = vec![];
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    let (step, detail) = rig.failure();
    assert_eq!(step, Step::Write);
    assert_eq!(detail, "/0/1: 4.15 Unsupported Content-Format");
}

#[test]
fn errors_about_accounts_end_the_run_and_others_are_noted() {
    let profile = PLAIN.replace(
        "[[server]]",
        "[bootstrap]\ndelete = [\"/0\", \"/1\", \"/5\"]\n[[server]]",
    ) + "[[object]]\npath = \"/3/0\"\nresources = { 14 = \"+02:00\" }\n";
    let mut rig = Rig::new(&profile);
    rig.device
        .answer(Code::DELETE, "/5", Code::METHOD_NOT_ALLOWED);
    rig.device.answer(Code::DELETE, "/1", Code::NOT_FOUND);
    let refused = Response {
        payload: "no clock".into(),
        ..Response::new(Code::BAD_REQUEST)
    };
    rig.device.answer_with(Code::PUT, "/3/0", refused);
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    assert_eq!(
        rig.last(),
        News::Done {
            written: 2,
            seconds: 0,
            notes: vec![
                "delete /5: 4.05 Method Not Allowed".into(),
                "write /3/0: 4.00 Bad Request: no clock".into(),
            ]
        }
    );
    for (method, path, step) in [
        (Code::DELETE, "/0", Step::Delete),
        (Code::PUT, "/0/1", Step::Write),
        (Code::PUT, "/1/0", Step::Write),
    ] {
        rig.device.answer(method, path, Code::BAD_REQUEST);
        rig.bootstrap(&["ep=gw1", "pct=112"]);
        assert_eq!(rig.failure().0, step, "{path}");
    }
}

#[test]
fn a_device_that_quotes_its_key_does_not_get_it_into_an_event() {
    let mut rig = Rig::with_window(KEYED);
    let refused = Response {
        payload: "key 00ff refused".into(),
        ..Response::new(Code::BAD_REQUEST)
    };
    rig.device.answer_with(Code::PUT, "/0/1", refused);
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    assert_eq!(rig.failure().1, "/0/1: 4.00 Bad Request");
}

// conformance: 9, P20
#[test]
fn a_configuration_that_the_device_finds_inconsistent_is_a_failure() {
    let mut rig = Rig::new(PLAIN);
    rig.device.answer(Code::POST, "/bs", Code::NOT_ACCEPTABLE);
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    let (step, detail) = rig.failure();
    assert_eq!(step, Step::Finish);
    assert!(detail.contains("inconsistent: 4.06"), "{detail}");
}

#[test]
fn finish_may_be_answered_by_a_separate_response() {
    let mut rig = Rig::new(PLAIN);
    rig.device.held = Some(Vec::new());
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    rig.run(Duration::from_secs(20));
    assert_eq!(rig.server.bootstraps(), 1);
    let held = rig.device.held.take().unwrap();
    assert_eq!(held.len(), 1);
    let response = Response::new(Code::CHANGED);
    rig.device
        .endpoint
        .respond(rig.now.instant, held[0], response);
    rig.settle();
    let News::Done {
        written, seconds, ..
    } = rig.last()
    else {
        panic!("{:?}", rig.last());
    };
    assert_eq!((written, seconds), (2, 20));
}

#[test]
fn silence_ends_the_run() {
    let mut rig = Rig::new(PLAIN);
    let mut request = crate::coap::Request::new(Code::POST, ["bs"]);
    request.query = vec!["ep=gw1".into()];
    rig.request(request);
    // The request is on its way when the device goes.
    while let Some(output) = rig.device.endpoint.poll() {
        if let crate::coap::Output::Datagram { bytes, .. } = output {
            rig.server.receive(rig.now, rig.device.route, &bytes);
        }
    }
    rig.device.dead = true;
    assert_eq!(rig.server.bootstraps(), 1);
    rig.run(Duration::from_secs(100));
    assert_eq!(
        rig.failure(),
        (Step::Discover, "the device does not answer".into())
    );
    assert_eq!(rig.server.bootstraps(), 0);
}

#[test]
fn a_device_that_asks_again_begins_anew() {
    let mut rig = Rig::new(PLAIN);
    for id in [0x41, 0x42] {
        let bytes = [0x40, 0x02, 0x40, id, 0xB2, 0x62, 0x73, 0x46];
        let bytes = [&bytes[..], b"ep=gw1"].concat();
        rig.server.receive(rig.now, rig.device.route, &bytes);
    }
    assert_eq!(rig.server.bootstraps(), 1);
    rig.settle();
    let began = |news: &News| matches!(news, News::Started { .. });
    assert_eq!(rig.news().iter().filter(|news| began(news)).count(), 2);
    assert_eq!(
        rig.news()[1],
        News::Failed {
            step: Step::Discover,
            detail: "the device began anew".into()
        }
    );
    assert!(matches!(rig.last(), News::Done { .. }));
}

#[test]
fn a_retransmitted_request_is_one_run() {
    let mut rig = Rig::new(PLAIN);
    let bytes = [0x40, 0x02, 0x40, 0x41, 0xB2, 0x62, 0x73, 0x46];
    let bytes = [&bytes[..], b"ep=gw1"].concat();
    rig.server.receive(rig.now, rig.device.route, &bytes);
    rig.server.receive(rig.now, rig.device.route, &bytes);
    rig.settle();
    let began = |news: &&News| matches!(news, News::Started { .. });
    assert_eq!(rig.news().iter().filter(began).count(), 1);
}

#[test]
fn who_may_not_is_refused_with_a_reason() {
    let mut rig = Rig::with_window(PLAIN);
    for (query, code, reason) in [
        (&["ep=stranger"][..], Code::FORBIDDEN, "has a credential"),
        (&["ep=other"], Code::BAD_REQUEST, "no bootstrap profile"),
        (&[], Code::BAD_REQUEST, "no endpoint name"),
        (
            &["ep=gw1", "pct=0"],
            Code::UNSUPPORTED_CONTENT_FORMAT,
            "pct=0",
        ),
    ] {
        rig.bootstrap(query);
        assert_eq!(rig.device.responses.last().unwrap().code, code, "{query:?}");
        let News::Refused(refusal) = rig.last() else {
            panic!("{query:?}");
        };
        assert!(refusal.detail.contains(reason), "{}", refusal.detail);
    }
    assert!(rig.device.requests.is_empty() && rig.kept().is_empty());
}

#[test]
fn without_security_and_window_no_key_is_handed_out() {
    let mut rig = Rig::new(KEYED);
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    assert_eq!(rig.device.responses[0].code, Code::BAD_REQUEST);
    let News::Refused(refusal) = rig.last() else {
        panic!();
    };
    assert!(refusal.detail.contains("join window"), "{}", refusal.detail);
    assert!(rig.kept().is_empty());
    // A key of another server does not even go while one is open.
    let foreign = KEYED.replace("lifetime = 300", "key = { file = \"/keys/foreign.psk\" }");
    let mut rig = Rig::with_window(&foreign);
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    let News::Refused(refusal) = rig.last() else {
        panic!();
    };
    assert!(refusal.detail.contains("never sent without DTLS"));
}

#[test]
fn a_key_that_cannot_be_kept_is_not_written() {
    let mut limits = crate::server::Limits::default();
    limits.credentials.records = 1;
    let mut rig = Rig::with_limits(KEYED, limits);
    rig.open_window();
    let other = Psk::new(&b"gw0"[..], Secret::new([2; 16]));
    let until = Some(START.unix + Duration::from_secs(120));
    rig.server
        .with_book(rig.now, |book| book.grant(START, "gw0", other, until))
        .unwrap();
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    assert_eq!(rig.failure().0, Step::Delete);
    assert!(rig.device.payloads.is_empty());
}

#[test]
fn a_secured_device_is_who_its_identity_says_and_its_key_does_not_end() {
    let mut rig = Rig::with_window(KEYED);
    let record = Record {
        bootstrap_psk: Some(Psk::new(&b"id7"[..], Secret::new([7; 16]))),
        ..Record::new("gw7", START.unix)
    };
    rig.server
        .with_book(START, |book| book.add(record))
        .unwrap();
    let caller = Caller {
        peer: Peer::Session(4),
        source: [10, 0, 0, 7].into(),
        identity: Some(Arc::new(PeerIdentity::Psk(b"id7".to_vec()))),
    };
    // The name that is left out is the one that the identity is bound to.
    for endpoint in [Some("gw7"), None] {
        let chosen = rig.server.choose(START, &caller, endpoint).unwrap();
        assert_eq!(&*chosen.endpoint, "gw7");
        assert_eq!(chosen.key_expires, None);
    }
    let refusal = rig.server.choose(START, &caller, Some("gw8"));
    assert_eq!(refusal.err().unwrap().code, Code::BAD_REQUEST);
    let unsecured = Caller {
        identity: None,
        ..caller
    };
    let chosen = rig.server.choose(START, &unsecured, Some("gw8")).unwrap();
    assert_eq!(
        chosen.key_expires,
        Some(START.unix + Duration::from_secs(120))
    );
}

#[test]
fn the_bootstrap_account_is_changed_last_and_only_when_it_is_known() {
    let profile = PLAIN.replace(
        "[[server]]",
        "[bootstrap]\nhold_off = 7\naccount_timeout = 3600\n[[server]]",
    );
    let mut rig = Rig::new(&profile);
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    let News::Done { written, notes, .. } = rig.last() else {
        panic!("{:?}", rig.last());
    };
    assert_eq!(written, 2);
    assert!(notes[0].contains("does not tell"), "{notes:?}");
    rig.device.discover = Some("</>;lwm2m=1.1,</0/3>,</3/0>");
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    assert_eq!(rig.device.value("/0/3/11"), Some(&Value::Integer(7)));
    assert_eq!(rig.device.value("/0/3/12"), Some(&Value::Integer(3600)));
    let last = rig.device.payloads.last().unwrap();
    let path = Path::resource(0, 3, 12);
    assert_eq!(decode(112, path, last).len(), 1);
}

#[test]
fn the_bootstrap_server_is_only_where_it_listens() {
    let mut rig = Rig::new(PLAIN);
    rig.device.route.listener = 0;
    rig.bootstrap(&["ep=gw1"]);
    assert_eq!(rig.device.responses[0].code, Code::NOT_FOUND);
    rig.device.route.listener = super::rig::LISTENER;
    let mut register = crate::coap::Request::new(Code::POST, ["rd"]);
    register.query = vec!["ep=gw1".into()];
    register.payload = b"</1/0>,</3/0>".to_vec();
    rig.request(register);
    rig.settle();
    assert_eq!(rig.device.responses[1].code, Code::NOT_FOUND);
}

#[test]
fn random_answers_do_no_harm() {
    use rand::rngs::StdRng;
    use rand::{Rng, RngExt, SeedableRng};
    let mut rng = StdRng::seed_from_u64(8);
    for _ in 0..300 {
        let mut rig = Rig::with_window(KEYED);
        for (method, path) in [
            (Code::GET, "/"),
            (Code::DELETE, "/0"),
            (Code::PUT, "/0/1"),
            (Code::PUT, "/1/0"),
            (Code::POST, "/bs"),
        ] {
            if rng.random_range(0..3) != 0 {
                continue;
            }
            let mut payload = vec![0; rng.random_range(0..40)];
            rng.fill_bytes(&mut payload);
            let code = Code::response(rng.random_range(2..6), rng.random_range(0..16));
            let response = Response {
                content_format: Some(40),
                payload,
                ..Response::new(code)
            };
            rig.device.answer_with(method, path, response);
        }
        rig.bootstrap(&["ep=gw1", "pct=112"]);
        rig.run(Duration::from_secs(600));
        assert!(matches!(
            rig.last(),
            News::Done { .. } | News::Failed { .. }
        ));
        assert_eq!(rig.server.bootstraps(), 0);
    }
}
