//! Being observed (RFC 7641 §4).

use std::time::Duration;

use super::{block, body};
use crate::coap::message::{Kind, Message};
use crate::coap::rig::{Alone, message, peer, token};
use crate::coap::{Code, Event, IncomingId, Response};

fn register(alone: &mut Alone, id: u16, observe: u32) -> IncomingId {
    let mut register = message(Kind::Confirmable, Code::GET, id, &[7]);
    register.options.uri_path = vec!["3303".to_owned()];
    register.options.observe = Some(observe);
    alone.receive(&register);
    match alone.event() {
        Some(Event::Request { incoming, .. }) => incoming,
        other => panic!("{other:?}"),
    }
}

fn content(payload: &[u8]) -> Response {
    let mut content = Response::new(Code::CONTENT);
    content.observe = Some(0);
    content.payload = payload.to_vec();
    content
}

/// An endpoint with one observer, and the number of the first notification.
fn observed() -> (Alone, u32) {
    let mut alone = Alone::new();
    let incoming = register(&mut alone, 1, 0);
    alone.endpoint.respond(alone.now, incoming, content(b"a"));
    let number = alone.sent().unwrap().options.observe.unwrap();
    (alone, number)
}

fn notify(alone: &mut Alone, payload: &[u8], confirmable: bool) {
    let response = content(payload);
    alone
        .endpoint
        .notify(alone.now, peer(1), token(&[7]), response, confirmable);
}

fn assert_gone(alone: &mut Alone) {
    match alone.event() {
        Some(Event::ObserverGone { peer: of, token: t }) => {
            assert_eq!((of, t), (peer(1), token(&[7])));
        }
        other => panic!("{other:?}"),
    }
    notify(alone, b"z", false);
    alone.assert_quiet();
    assert_eq!(alone.endpoint.observations, 0);
}

fn reply(kind: Kind, to: &Message) -> Message {
    message(kind, Code::EMPTY, to.id, &[])
}

#[test]
fn notifications_are_numbered_upwards_under_the_token_of_the_request() {
    let (mut alone, first) = observed();
    notify(&mut alone, b"b", false);
    let second = alone.sent().unwrap();
    assert_eq!(
        (second.kind, second.code),
        (Kind::NonConfirmable, Code::CONTENT)
    );
    assert_eq!(second.token, token(&[7]));
    assert_eq!(second.payload, b"b");
    assert!(second.options.observe > Some(first));
    notify(&mut alone, b"c", true);
    let third = alone.sent().unwrap();
    assert_eq!(third.kind, Kind::Confirmable);
    assert!(third.options.observe > second.options.observe);
    alone.receive(&reply(Kind::Acknowledgement, &third));
    alone.pass(Duration::from_secs(100));
    alone.assert_quiet();
}

#[test]
fn observe_numbers_wrap_at_24_bits() {
    let (mut alone, _) = observed();
    alone.endpoint.observe_number = 0xff_fffe;
    let numbers: Vec<_> = (0..3)
        .map(|_| {
            notify(&mut alone, b"b", false);
            alone.sent().unwrap().options.observe
        })
        .collect();
    assert_eq!(numbers, [Some(0xff_ffff), Some(0), Some(1)]);
}

#[test]
fn an_observation_that_is_not_accepted_does_not_stand() {
    let mut refused = content(b"");
    refused.code = Code::METHOD_NOT_ALLOWED;
    let mut once = content(b"a");
    once.observe = None;
    for response in [refused, once] {
        let mut alone = Alone::new();
        let incoming = register(&mut alone, 1, 0);
        alone.endpoint.respond(alone.now, incoming, response);
        assert_eq!(alone.sent().unwrap().options.observe, None);
        notify(&mut alone, b"b", false);
        alone.assert_quiet();
    }
}

#[test]
fn observe_1_ends_the_observation() {
    let (mut alone, _) = observed();
    let incoming = register(&mut alone, 2, 1);
    alone.endpoint.respond(alone.now, incoming, content(b"a"));
    assert_eq!(alone.sent().unwrap().options.observe, None);
    notify(&mut alone, b"b", false);
    alone.assert_quiet();
    assert_eq!(
        alone.endpoint.links.len(),
        0,
        "nothing is left of the observer"
    );
}

#[test]
fn asking_again_under_the_same_token_is_the_same_observation() {
    let (mut alone, _) = observed();
    let incoming = register(&mut alone, 2, 0);
    alone.endpoint.respond(alone.now, incoming, content(b"a"));
    assert!(alone.sent().unwrap().options.observe.is_some());
    assert_eq!(alone.endpoint.observations, 1);
}

#[test]
fn reset_ends_the_observation_whatever_kind_of_notification_it_answers() {
    for confirmable in [true, false] {
        let (mut alone, _) = observed();
        notify(&mut alone, b"b", confirmable);
        let sent = alone.sent().unwrap();
        alone.receive(&reply(Kind::Reset, &sent));
        assert_gone(&mut alone);
    }
}

#[test]
fn an_observer_that_does_not_acknowledge_is_gone() {
    let (mut alone, _) = observed();
    notify(&mut alone, b"b", true);
    alone.pass(Duration::from_secs(100));
    let sent = std::iter::from_fn(|| alone.sent()).count();
    assert_eq!(sent, 5);
    assert_gone(&mut alone);
    alone.pass(Duration::from_secs(300));
    assert_eq!(alone.endpoint.links.len(), 0);
}

#[test]
fn while_one_is_unacknowledged_only_the_newest_waits() {
    let (mut alone, _) = observed();
    notify(&mut alone, b"b", true);
    let first = alone.sent().unwrap();
    notify(&mut alone, b"c", true);
    notify(&mut alone, b"d", false);
    alone.assert_quiet();
    alone.receive(&reply(Kind::Acknowledgement, &first));
    let next = alone.sent().unwrap();
    assert_eq!(
        (next.payload.as_slice(), next.kind),
        (&b"d"[..], Kind::Confirmable)
    );
    alone.receive(&reply(Kind::Acknowledgement, &next));
    alone.pass(Duration::from_secs(100));
    alone.assert_quiet();
}

#[test]
fn a_retransmission_carries_what_is_newest_with_the_patience_left() {
    let (mut alone, _) = observed();
    notify(&mut alone, b"b", true);
    let first = alone.sent().unwrap();
    notify(&mut alone, b"c", true);
    alone.pass(Duration::from_secs(3));
    let second = alone.sent().unwrap();
    assert_eq!(second.payload, b"c");
    assert_ne!(second.id, first.id);
    assert!(second.options.observe > first.options.observe);
    alone.pass(Duration::from_secs(100));
    assert_eq!(std::iter::from_fn(|| alone.sent()).count(), 3);
    assert_gone(&mut alone);
}

#[test]
fn an_error_is_the_last_notification() {
    for confirmable in [true, false] {
        let (mut alone, _) = observed();
        let gone = Response::new(Code::NOT_FOUND);
        alone
            .endpoint
            .notify(alone.now, peer(1), token(&[7]), gone, confirmable);
        let last = alone.sent().unwrap();
        assert_eq!((last.code, last.options.observe), (Code::NOT_FOUND, None));
        assert_eq!(last.kind == Kind::Confirmable, confirmable);
        notify(&mut alone, b"b", false);
        alone.assert_quiet();
        alone.receive(&reply(Kind::Reset, &last));
        alone.pass(Duration::from_secs(300));
        while alone.sent().is_some() {}
        alone.assert_quiet();
    }
}

#[test]
fn once_a_day_a_notification_is_confirmable() {
    let (mut alone, _) = observed();
    alone.pass(Duration::from_secs(24 * 60 * 60 - 1));
    notify(&mut alone, b"b", false);
    assert_eq!(alone.sent().unwrap().kind, Kind::NonConfirmable);
    alone.pass(Duration::from_secs(1));
    notify(&mut alone, b"c", false);
    let sent = alone.sent().unwrap();
    assert_eq!(sent.kind, Kind::Confirmable);
    alone.receive(&reply(Kind::Acknowledgement, &sent));
    notify(&mut alone, b"d", false);
    assert_eq!(alone.sent().unwrap().kind, Kind::NonConfirmable);
}

#[test]
fn a_large_notification_is_a_first_block_and_the_rest_waits_to_be_fetched() {
    let (mut alone, _) = observed();
    notify(&mut alone, &body(1500), false);
    let first = alone.sent().unwrap();
    assert_eq!(first.options.block2, block(0, true, 1024));
    assert_eq!(first.options.size2, Some(1500));
    assert!(first.options.observe.is_some());
    let mut next = message(Kind::Confirmable, Code::GET, 9, &[99]);
    next.options.uri_path = vec!["3303".to_owned()];
    next.options.block2 = block(1, false, 1024);
    alone.receive(&next);
    let rest = alone.sent().unwrap();
    assert_eq!(rest.options.observe, None);
    assert_eq!(rest.options.etag, first.options.etag);
    assert_eq!([first.payload, rest.payload].concat(), body(1500));
    alone.assert_quiet();
}

#[test]
fn forgetting_a_peer_forgets_its_observations() {
    let (mut alone, _) = observed();
    notify(&mut alone, b"b", true);
    alone.sent().unwrap();
    alone.endpoint.forget_peer(alone.now, peer(1));
    notify(&mut alone, b"c", true);
    alone.pass(Duration::from_secs(300));
    alone.assert_quiet();
    assert_eq!(alone.endpoint.next_timeout(), None);
    assert_eq!(
        (alone.endpoint.observations, alone.endpoint.links.len()),
        (0, 0)
    );
}
