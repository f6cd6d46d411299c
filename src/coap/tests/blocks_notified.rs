//! Notifications that come in blocks (RFC 7959 §2.6).

use std::time::Duration;

use super::{block, body};
use crate::coap::message::{Kind, Message};
use crate::coap::option::Tag;
use crate::coap::rig::{Alone, message, peer};
use crate::coap::{Cancel, Code, Event, ObservationId, Observe, Receipt, Request, Response, Token};

fn observe(alone: &mut Alone) -> (ObservationId, Token) {
    let (id, sent) = register(alone);
    let mut first = message(
        Kind::Acknowledgement,
        Code::CONTENT,
        sent.id,
        sent.token.as_bytes(),
    );
    first.options.observe = Some(1);
    alone.receive(&first);
    assert!(matches!(
        alone.event(),
        Some(Event::Response { result: Ok(_), .. })
    ));
    (id, sent.token)
}

fn register(alone: &mut Alone) -> (ObservationId, Message) {
    let mut request = Request::new(Code::GET, ["3", "0"]);
    request.accept = Some(112);
    request.observe = Some(Observe::Register);
    let id = alone.endpoint.request(alone.now, peer(1), request).unwrap();
    (id, alone.sent().unwrap())
}

/// The first block of a notification.
fn first(kind: Kind, id: u16, token: Token, number: u32, whole: &[u8]) -> Message {
    let mut first = message(kind, Code::CONTENT, id, token.as_bytes());
    first.options.observe = Some(number);
    first.options.block2 = block(0, true, 64);
    first.options.etag = Tag::new(&[number as u8]);
    first.options.size2 = u32::try_from(whole.len()).ok();
    first.payload = whole[..64].to_vec();
    first
}

/// A further block.
fn further(request: &Message, whole: &[u8], etag: u8) -> Message {
    let number = request.options.block2.unwrap().number as usize;
    let mut further = message(
        Kind::Acknowledgement,
        Code::CONTENT,
        request.id,
        request.token.as_bytes(),
    );
    further.options.block2 = block(number as u32, (number + 1) * 64 < whole.len(), 64);
    further.options.etag = Tag::new(&[etag]);
    further.payload = whole[number * 64..whole.len().min((number + 1) * 64)].to_vec();
    further
}

fn notified(alone: &mut Alone) -> (Response, bool, Option<Receipt>) {
    match alone.event() {
        Some(Event::Notification {
            response,
            ended,
            receipt,
            ..
        }) => (response, ended, receipt),
        other => panic!("{other:?}"),
    }
}

fn ack(id: u16) -> Option<Message> {
    Some(message(Kind::Acknowledgement, Code::EMPTY, id, &[]))
}

// conformance: P17
#[test]
fn the_rest_is_fetched_and_the_whole_delivered_once_with_the_first_receipt() {
    let mut alone = Alone::new();
    let (id, token) = observe(&mut alone);
    let whole = body(150);
    let notification = first(Kind::Confirmable, 5, token, 2, &whole);
    alone.receive(&notification);
    for number in 1..3 {
        let sent = alone.sent().unwrap();
        assert_eq!(sent.code, Code::GET);
        assert_eq!(sent.options.observe, None);
        assert_ne!(sent.token, token);
        assert_eq!(sent.options.uri_path, ["3", "0"]);
        assert_eq!(sent.options.accept, Some(112));
        assert_eq!(sent.options.block2, block(number, false, 64));
        // The device repeats, for it has no ACK.
        alone.receive(&notification);
        alone.assert_quiet();
        alone.receive(&further(&sent, &whole, 2));
    }
    let (response, ended, receipt) = notified(&mut alone);
    assert_eq!(response.payload, whole);
    assert_eq!(response.observe, Some(2));
    assert!(!ended);
    alone.assert_quiet();
    alone.endpoint.acknowledge(receipt.unwrap());
    assert_eq!(alone.sent(), ack(5));
    alone.receive(&notification);
    assert_eq!(alone.sent(), ack(5));
    assert_eq!(alone.endpoint.budget.used(), (0, 0));
    assert_eq!(alone.endpoint.cancel(alone.now, id, Cancel::Forget), None);
}

#[test]
fn a_newer_notification_takes_the_place_of_one_being_fetched() {
    let mut alone = Alone::new();
    let (_, token) = observe(&mut alone);
    let (old, new) = (body(150), vec![7; 100]);
    alone.receive(&first(Kind::Confirmable, 5, token, 2, &old));
    let stale = alone.sent().unwrap();
    alone.receive(&first(Kind::Confirmable, 6, token, 3, &new));
    // The newer one is what the device waits for.
    assert_eq!(alone.sent(), ack(5));
    let sent = alone.sent().unwrap();
    assert_ne!(sent.token, stale.token);
    alone.receive(&further(&stale, &old, 2));
    alone.assert_quiet();
    alone.receive(&further(&sent, &new, 3));
    let (response, _, receipt) = notified(&mut alone);
    assert_eq!((response.payload, response.observe), (new, Some(3)));
    assert_eq!(receipt.map(|receipt| receipt.message_id), Some(6));
    alone.assert_quiet();
}

#[test]
fn a_newer_whole_notification_takes_over_the_receipt_of_one_being_fetched() {
    let mut alone = Alone::new();
    let (_, token) = observe(&mut alone);
    alone.receive(&first(Kind::Confirmable, 5, token, 2, &body(150)));
    alone.sent().unwrap();
    let mut small = message(Kind::NonConfirmable, Code::CONTENT, 6, token.as_bytes());
    small.options.observe = Some(3);
    small.payload = b"small".to_vec();
    alone.receive(&small);
    let (response, _, receipt) = notified(&mut alone);
    assert_eq!(response.payload, b"small");
    assert_eq!(receipt.map(|receipt| receipt.message_id), Some(5));
    alone.pass(Duration::from_secs(100));
    alone.assert_quiet();
    assert_eq!(alone.endpoint.budget.used(), (0, 0));
}

#[test]
fn a_notification_whose_rest_does_not_come_is_not_acknowledged_and_may_come_again() {
    let mut alone = Alone::new();
    let (_, token) = observe(&mut alone);
    let whole = body(100);
    let notification = first(Kind::Confirmable, 5, token, 2, &whole);
    alone.receive(&notification);
    let sent = alone.sent().unwrap();
    alone.receive(&message(Kind::Reset, Code::EMPTY, sent.id, &[]));
    alone.assert_quiet();
    assert_eq!(alone.endpoint.counters().lost_notifications, 1);
    alone.receive(&notification);
    let sent = alone.sent().unwrap();
    alone.receive(&further(&sent, &whole, 2));
    assert_eq!(notified(&mut alone).0.payload, whole);
}

#[test]
fn a_representation_that_changed_meanwhile_is_fetched_from_the_start() {
    let mut alone = Alone::new();
    let (_, token) = observe(&mut alone);
    let (old, new) = (body(150), vec![7; 100]);
    alone.receive(&first(Kind::NonConfirmable, 5, token, 2, &old));
    let sent = alone.sent().unwrap();
    alone.receive(&further(&sent, &new, 9));
    let sent = alone.sent().unwrap();
    assert_eq!(sent.options.block2, block(0, false, 64));
    alone.receive(&further(&sent, &new, 9));
    let sent = alone.sent().unwrap();
    alone.receive(&further(&sent, &new, 9));
    assert_eq!(notified(&mut alone).0.payload, new);
}

#[test]
fn the_first_representation_may_come_in_blocks_and_be_overtaken() {
    let mut alone = Alone::new();
    let (id, sent) = register(&mut alone);
    let whole = body(150);
    let mut answer = first(Kind::Acknowledgement, sent.id, sent.token, 1, &whole);
    alone.receive(&answer);
    let rest = alone.sent().unwrap();
    assert_eq!(
        (rest.options.observe, rest.options.block2),
        (None, block(1, false, 64))
    );
    assert_ne!(rest.token, sent.token);
    // A confirmable notification has to wait until the first representation is through.
    alone.receive(&first(Kind::Confirmable, 8, sent.token, 2, &whole));
    alone.assert_quiet();
    // One that is not becomes the first representation.
    answer = first(Kind::NonConfirmable, 9, sent.token, 3, &whole);
    alone.receive(&answer);
    for _ in 0..2 {
        let rest = alone.sent().unwrap();
        alone.receive(&further(&rest, &whole, 3));
    }
    match alone.event() {
        Some(Event::Response {
            exchange,
            result: Ok(response),
        }) => {
            assert_eq!(exchange, id);
            assert_eq!((response.payload, response.observe), (whole, Some(3)));
        }
        other => panic!("{other:?}"),
    }
    alone.assert_quiet();
    assert_eq!(alone.endpoint.observations, 1);
}

#[test]
fn an_observation_whose_first_representation_cannot_be_fetched_does_not_stand() {
    let mut alone = Alone::new();
    let (id, sent) = register(&mut alone);
    alone.receive(&first(
        Kind::Acknowledgement,
        sent.id,
        sent.token,
        1,
        &body(150),
    ));
    alone.sent().unwrap();
    alone.pass(Duration::from_secs(100));
    assert!(matches!(
        alone.event(),
        Some(Event::Response { exchange, result: Err(_) }) if exchange == id
    ));
    assert_eq!(alone.endpoint.observations, 0);
}

#[test]
fn a_last_notification_in_blocks_is_fetched_and_ends_the_observation_even_if_that_fails() {
    for answered in [true, false] {
        let mut alone = Alone::new();
        let (_, token) = observe(&mut alone);
        let whole = body(100);
        let mut last = first(Kind::NonConfirmable, 5, token, 2, &whole);
        last.options.observe = None;
        alone.receive(&last);
        let sent = alone.sent().unwrap();
        if answered {
            alone.receive(&further(&sent, &whole, 2));
        } else {
            alone.pass(Duration::from_secs(100));
        }
        let (response, ended, _) = notified(&mut alone);
        assert!(ended);
        let expected = if answered {
            Code::CONTENT
        } else {
            Code::REQUEST_ENTITY_INCOMPLETE
        };
        assert_eq!(response.code, expected);
        assert_eq!(alone.endpoint.observations, 0);
    }
}

#[test]
fn cancelling_drops_what_is_being_fetched() {
    let mut alone = Alone::new();
    let (id, token) = observe(&mut alone);
    alone.receive(&first(Kind::Confirmable, 5, token, 2, &body(150)));
    alone.sent().unwrap();
    alone.endpoint.cancel(alone.now, id, Cancel::Forget);
    assert_eq!(alone.sent(), ack(5));
    alone.pass(Duration::from_secs(300));
    alone.assert_quiet();
    assert_eq!(alone.endpoint.budget.used(), (0, 0));
    assert_eq!(alone.endpoint.links.len(), 0);
}
