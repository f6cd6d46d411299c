//! Answering: deduplication, the kinds of response, bad messages.

use std::time::Duration;

use crate::coap::message::{Kind, Message};
use crate::coap::rig::{Alone, limits, message, token};
use crate::coap::{Code, Event, IncomingId, Limits, Parameters, Request, Response};

fn request(kind: Kind, id: u16) -> Message {
    let mut request = message(kind, Code::POST, id, &[0xab]);
    request.options.uri_path = vec!["rd".to_owned()];
    request.options.uri_query = vec!["ep=gw1".to_owned(), "lt=60".to_owned()];
    request.options.content_format = Some(40);
    request.payload = b"</3/0>".to_vec();
    request
}

fn incoming(alone: &mut Alone) -> (IncomingId, Request) {
    match alone.event() {
        Some(Event::Request {
            incoming, request, ..
        }) => (incoming, request),
        other => panic!("{other:?}"),
    }
}

fn created() -> Response {
    let mut created = Response::new(Code::CREATED);
    created.location = vec!["rd".to_owned(), "1".to_owned()];
    created
}

#[test]
fn a_request_comes_out_whole_and_its_response_rides_on_the_ack() {
    let mut alone = Alone::new();
    alone.receive(&request(Kind::Confirmable, 7));
    let (id, got) = incoming(&mut alone);
    let mut expected = Request::new(Code::POST, ["rd"]);
    expected.query = vec!["ep=gw1".to_owned(), "lt=60".to_owned()];
    expected.content_format = Some(40);
    expected.payload = b"</3/0>".to_vec();
    assert_eq!(got, expected);
    alone.endpoint.respond(alone.now, id, created());
    let mut ack = message(Kind::Acknowledgement, Code::CREATED, 7, &[0xab]);
    ack.options.location_path = vec!["rd".to_owned(), "1".to_owned()];
    assert_eq!(alone.sent(), Some(ack));
    // Answered is answered.
    alone.endpoint.respond(alone.now, id, created());
    alone.pass(Duration::from_secs(10));
    alone.assert_quiet();
}

#[test]
fn a_retransmitted_request_gets_the_cached_reply() {
    let mut alone = Alone::new();
    let request = request(Kind::Confirmable, 7);
    alone.receive(&request);
    let (id, _) = incoming(&mut alone);
    alone.receive(&request);
    alone.assert_quiet();
    alone.endpoint.respond(alone.now, id, created());
    let reply = alone.sent().unwrap();
    for _ in 0..3 {
        alone.pass(Duration::from_secs(60));
        alone.receive(&request);
        assert_eq!(alone.sent().as_ref(), Some(&reply));
        alone.assert_quiet();
    }
    assert_eq!(alone.endpoint.counters().duplicates, 4);
    // 247 s after the first it is another request.
    alone.pass(Duration::from_secs(67));
    alone.receive(&request);
    incoming(&mut alone);
}

#[test]
fn a_device_that_restarts_with_its_old_message_ids_is_heard() {
    let mut alone = Alone::new();
    alone.receive(&request(Kind::Confirmable, 7));
    let (id, _) = incoming(&mut alone);
    alone.endpoint.respond(alone.now, id, created());
    alone.sent();
    let mut register = request(Kind::Confirmable, 7);
    register.payload = b"</3/0>,</5/0>".to_vec();
    alone.receive(&register);
    assert_eq!(incoming(&mut alone).1.payload, register.payload);
    assert_eq!(alone.endpoint.counters().duplicates, 0);
}

#[test]
fn a_late_answer_is_a_separate_response_and_is_repeated_until_acknowledged() {
    let mut alone = Alone::new();
    let request = request(Kind::Confirmable, 7);
    alone.receive(&request);
    let (id, _) = incoming(&mut alone);
    alone.pass(Duration::from_secs(1));
    let ack = message(Kind::Acknowledgement, Code::EMPTY, 7, &[]);
    assert_eq!(alone.sent(), Some(ack.clone()));
    alone.receive(&request);
    assert_eq!(alone.sent(), Some(ack.clone()));
    alone.endpoint.respond(alone.now, id, created());
    let response = alone.sent().unwrap();
    assert_eq!(
        (response.kind, response.code),
        (Kind::Confirmable, Code::CREATED)
    );
    assert_eq!(response.token, token(&[0xab]));
    alone.pass(Duration::from_secs(3));
    assert_eq!(alone.sent().as_ref(), Some(&response));
    alone.receive(&request);
    assert_eq!(alone.sent(), Some(ack));
    alone.receive(&message(
        Kind::Acknowledgement,
        Code::EMPTY,
        response.id,
        &[],
    ));
    alone.pass(Duration::from_secs(300));
    alone.assert_quiet();
    assert_eq!(alone.endpoint.next_timeout(), None);
    assert_eq!(alone.endpoint.links.len(), 0);
}

#[test]
fn a_separate_response_that_nobody_takes_is_given_up() {
    let mut alone = Alone::new();
    alone.receive(&request(Kind::Confirmable, 7));
    let (id, _) = incoming(&mut alone);
    alone.pass(Duration::from_secs(1));
    alone.endpoint.respond(alone.now, id, created());
    alone.pass(Duration::from_secs(100));
    let sent: Vec<_> = std::iter::from_fn(|| alone.sent()).collect();
    assert_eq!(sent.len(), 1 + 5);
    assert_eq!(alone.endpoint.counters().unacknowledged, 1);
    alone.assert_quiet();
}

#[test]
fn a_request_that_is_not_confirmable_is_answered_by_its_like_and_once() {
    let mut alone = Alone::new();
    let request = request(Kind::NonConfirmable, 7);
    alone.receive(&request);
    let (id, _) = incoming(&mut alone);
    alone.pass(Duration::from_secs(20));
    alone.assert_quiet();
    alone.endpoint.respond(alone.now, id, created());
    let response = alone.sent().unwrap();
    assert_eq!(
        (response.kind, response.code),
        (Kind::NonConfirmable, Code::CREATED)
    );
    assert_eq!(response.token, token(&[0xab]));
    alone.receive(&request);
    alone.assert_quiet();
    alone.pass(Duration::from_secs(145));
    alone.receive(&request);
    incoming(&mut alone);
}

#[test]
fn a_request_without_token_is_answered_without_token() {
    let mut alone = Alone::new();
    let mut send = request(Kind::Confirmable, 7);
    send.token = token(&[]);
    alone.receive(&send);
    let (id, _) = incoming(&mut alone);
    alone
        .endpoint
        .respond(alone.now, id, Response::new(Code::CHANGED));
    assert_eq!(
        alone.sent(),
        Some(message(Kind::Acknowledgement, Code::CHANGED, 7, &[]))
    );
}

#[test]
fn a_ping_is_answered_with_reset() {
    let mut alone = Alone::new();
    alone.receive_bytes(&[0x40, 0, 0x12, 0x34]);
    assert_eq!(
        alone.sent(),
        Some(message(Kind::Reset, Code::EMPTY, 0x1234, &[]))
    );
    assert_eq!(alone.endpoint.counters().pings, 1);
}

#[test]
fn malformed_confirmable_messages_are_reset_and_others_ignored() {
    let mut alone = Alone::new();
    alone.receive_bytes(&[0x40, 0x01, 0, 1, 0xff]);
    assert_eq!(
        alone.sent(),
        Some(message(Kind::Reset, Code::EMPTY, 1, &[]))
    );
    for ignored in [
        &[0x50, 0x01, 0, 2, 0xff][..],
        &[0x60, 0x45, 0, 3, 0xff],
        // a Reset with a code, a request as ACK, an Empty NON
        &[0x70, 0x45, 0, 4],
        &[0x60, 0x01, 0, 5],
        &[0x50, 0, 0, 6],
        &[0x40],
    ] {
        alone.receive_bytes(ignored);
    }
    alone.receive_bytes(&[0x80, 0x01, 0, 7]);
    alone.assert_quiet();
    let counters = alone.endpoint.counters();
    assert_eq!((counters.malformed, counters.wrong_version), (7, 1));
}

#[test]
fn requests_with_options_that_may_not_be_ignored_are_refused() {
    for (options, code) in [
        // Uri-Path "a", option 2049
        (&[0xb1, 0x61, 0xe0, 0x06, 0xe9][..], Code::BAD_OPTION),
        // Accept twice
        (&[0xd1, 0x04, 0x28, 0x01, 0x28], Code::BAD_OPTION),
        // Uri-Path that is not UTF-8
        (&[0xb1, 0xc3], Code::BAD_OPTION),
        // Block2 with SZX 7
        (&[0xd1, 0x0a, 0x07], Code::BAD_REQUEST),
        // Proxy-Uri
        (&[0xd1, 0x16, 0x78], Code::response(5, 5)),
    ] {
        let mut alone = Alone::new();
        let mut datagram = vec![0x41, 0x01, 0, 1, 0xcc];
        datagram.extend(options);
        alone.receive_bytes(&datagram);
        let refusal = alone.sent().unwrap();
        assert_eq!((refusal.kind, refusal.code), (Kind::Acknowledgement, code));
        assert_eq!(refusal.token, token(&[0xcc]));
        assert!(!refusal.payload.is_empty(), "it says which");
        alone.assert_quiet();

        datagram[0] = 0x51;
        datagram[3] = 2;
        alone.receive_bytes(&datagram);
        alone.assert_quiet();
        assert_eq!(alone.endpoint.counters().bad_options, 2);
    }
}

#[test]
fn an_unknown_method_is_refused_and_known_ones_come_out() {
    let mut alone = Alone::new();
    alone.receive(&message(Kind::Confirmable, Code(0x08), 1, &[1]));
    assert_eq!(alone.sent().unwrap().code, Code::METHOD_NOT_ALLOWED);
    for method in [
        Code::GET,
        Code::POST,
        Code::PUT,
        Code::DELETE,
        Code::FETCH,
        Code::PATCH,
        Code::IPATCH,
    ] {
        alone.receive(&message(
            Kind::Confirmable,
            method,
            100 + u16::from(method.0),
            &[1],
        ));
        assert_eq!(incoming(&mut alone).1.method, method);
    }
}

#[test]
fn uri_host_and_port_and_elective_options_do_not_matter() {
    let mut alone = Alone::new();
    // Uri-Host "h", Uri-Port 5683, Uri-Path "a", option 2050
    let options = [
        0x31, 0x68, 0x42, 0x16, 0x33, 0x41, 0x61, 0xe1, 0x06, 0xea, 0x00,
    ];
    let mut datagram = vec![0x40, 0x01, 0, 1];
    datagram.extend(options);
    alone.receive_bytes(&datagram);
    assert_eq!(incoming(&mut alone).1, Request::new(Code::GET, ["a"]));
}

#[test]
fn a_flood_of_requests_is_remembered_up_to_the_limit() {
    let limits = Limits {
        deduplication: 100,
        ..limits()
    };
    let mut alone = Alone::with(Parameters::default(), limits);
    for id in 0..1000 {
        alone.receive(&request(Kind::Confirmable, id));
    }
    assert_eq!(alone.endpoint.seen.len(), 100);
    assert_eq!(alone.endpoint.counters().deduplication_evicted, 900);
    let (first, _) = incoming(&mut alone);
    alone.endpoint.respond(alone.now, first, created());
    alone.pass(Duration::from_secs(300));
    assert_eq!(alone.endpoint.seen.len(), 0);
    assert_eq!(alone.endpoint.next_timeout(), None);
}
