//! Observing, as the observing side (RFC 7641).

use std::time::Duration;

use crate::coap::block::{Block, BlockSize};
use crate::coap::message::{Kind, Message};
use crate::coap::rig::{Alone, message, peer};
use crate::coap::{
    Cancel, Code, Event, Failure, ObservationId, Observe, Receipt, Request, Response, Token,
};

fn observe(alone: &mut Alone) -> (ObservationId, Message) {
    let mut request = Request::new(Code::GET, ["3303", "0", "5700"]);
    request.accept = Some(112);
    request.observe = Some(Observe::Register);
    let id = alone.endpoint.request(alone.now, peer(1), request).unwrap();
    let sent = alone.sent().unwrap();
    assert_eq!(sent.options.observe, Some(0));
    let mut first = notification(Kind::Acknowledgement, sent.id, sent.token, 10);
    first.payload = b"first".to_vec();
    alone.receive(&first);
    match alone.event() {
        Some(Event::Response {
            exchange,
            result: Ok(response),
        }) => {
            assert_eq!(exchange, id);
            assert_eq!(response.observe, Some(10));
        }
        other => panic!("{other:?}"),
    }
    (id, sent)
}

fn notification(kind: Kind, id: u16, token: Token, number: u32) -> Message {
    let mut notification = message(kind, Code::CONTENT, id, token.as_bytes());
    notification.options.observe = Some(number);
    notification.options.content_format = Some(112);
    notification.payload = number.to_string().into_bytes();
    notification
}

fn notified(alone: &mut Alone, id: ObservationId) -> (Response, bool, Option<Receipt>) {
    match alone.event() {
        Some(Event::Notification {
            observation,
            response,
            ended,
            overtaken: false,
            receipt,
        }) if observation == id => (response, ended, receipt),
        other => panic!("{other:?}"),
    }
}

/// A notification that a newer one came before.
fn overtaken(alone: &mut Alone, id: ObservationId) -> (Response, Option<Receipt>) {
    match alone.event() {
        Some(Event::Notification {
            observation,
            response,
            ended: false,
            overtaken: true,
            receipt,
        }) if observation == id => (response, receipt),
        other => panic!("{other:?}"),
    }
}

fn ack(id: u16) -> Option<Message> {
    Some(message(Kind::Acknowledgement, Code::EMPTY, id, &[]))
}

fn reset(id: u16) -> Option<Message> {
    Some(message(Kind::Reset, Code::EMPTY, id, &[]))
}

// conformance: P17
#[test]
fn notifications_come_out_with_their_order_and_each_once() {
    let mut alone = Alone::new();
    let (id, request) = observe(&mut alone);
    let token = request.token;
    for (message_id, number, fresh) in [
        (1, 11, Some(true)),
        (2, 13, Some(true)),
        (3, 12, Some(false)),
        (2, 13, None),
        (4, 14, Some(true)),
    ] {
        alone.receive(&notification(
            Kind::NonConfirmable,
            message_id,
            token,
            number,
        ));
        let response = match fresh {
            Some(true) => Some(notified(&mut alone, id).0),
            Some(false) => Some(overtaken(&mut alone, id).0),
            None => None,
        };
        if let Some(response) = response {
            assert_eq!(response.observe, Some(number));
            assert_eq!(response.payload, number.to_string().into_bytes());
        }
        alone.assert_quiet();
    }
    assert_eq!(alone.endpoint.counters().stale_notifications, 2);
    alone.pass(Duration::from_secs(129));
    alone.receive(&notification(Kind::NonConfirmable, 5, token, 3));
    assert_eq!(notified(&mut alone, id).0.observe, Some(3));
    assert_eq!(
        alone.endpoint.seen.len(),
        0,
        "order drops repetitions, not memory"
    );
}

#[test]
fn a_confirmable_notification_is_acknowledged_when_custody_is_taken_and_not_before() {
    let mut alone = Alone::new();
    let (id, request) = observe(&mut alone);
    let notification = notification(Kind::Confirmable, 9, request.token, 11);
    alone.receive(&notification);
    let (_, _, receipt) = notified(&mut alone, id);
    let receipt = receipt.unwrap();
    assert_eq!(
        receipt,
        Receipt {
            peer: peer(1),
            message_id: 9
        }
    );
    for _ in 0..3 {
        alone.pass(Duration::from_secs(2));
        alone.receive(&notification);
        alone.assert_quiet();
    }
    assert_eq!(alone.endpoint.counters().withheld_notifications, 3);
    alone.endpoint.acknowledge(receipt);
    assert_eq!(alone.sent(), ack(9));
    // The ACK was lost.
    alone.receive(&notification);
    assert_eq!(alone.sent(), ack(9));
    alone.endpoint.acknowledge(receipt);
    alone.assert_quiet();
}

#[test]
fn an_overtaken_confirmable_notification_is_acknowledged_when_custody_is_taken() {
    let mut alone = Alone::new();
    let (id, request) = observe(&mut alone);
    alone.receive(&notification(Kind::NonConfirmable, 1, request.token, 20));
    notified(&mut alone, id);
    alone.receive(&notification(Kind::Confirmable, 2, request.token, 19));
    let (_, receipt) = overtaken(&mut alone, id);
    alone.assert_quiet();
    alone.endpoint.acknowledge(receipt.unwrap());
    assert_eq!(alone.sent(), ack(2));
}

#[test]
fn the_newest_notification_said_again_is_acknowledged_at_once_and_dropped() {
    let mut alone = Alone::new();
    let (id, request) = observe(&mut alone);
    alone.receive(&notification(Kind::NonConfirmable, 1, request.token, 20));
    notified(&mut alone, id);
    alone.receive(&notification(Kind::Confirmable, 2, request.token, 20));
    assert_eq!(alone.sent(), ack(2));
    alone.assert_quiet();
}

#[test]
fn the_first_block_of_an_overtaken_notification_is_acknowledged_and_dropped() {
    let mut alone = Alone::new();
    let (id, request) = observe(&mut alone);
    alone.receive(&notification(Kind::NonConfirmable, 1, request.token, 20));
    notified(&mut alone, id);
    let mut first = notification(Kind::Confirmable, 2, request.token, 19);
    first.options.block2 = Some(Block {
        number: 0,
        more: true,
        size: BlockSize::at_most(64),
    });
    first.payload = vec![0; 64];
    alone.receive(&first);
    // What is at the peer now is not what it was then.
    assert_eq!(alone.sent(), ack(2));
    alone.assert_quiet();
}

#[test]
fn open_receipts_are_bounded_and_the_rest_is_withheld() {
    let mut alone = Alone::new();
    let (id, request) = observe(&mut alone);
    for number in 0..100 {
        alone.receive(&notification(
            Kind::Confirmable,
            number,
            request.token,
            11 + u32::from(number),
        ));
    }
    let receipts: Vec<_> = std::iter::from_fn(|| alone.event()).collect();
    assert_eq!(receipts.len(), 64);
    assert_eq!(alone.sent(), None);
    assert_eq!(alone.endpoint.counters().withheld_notifications, 36);
    // One withheld is taken when there is room again.
    alone.endpoint.acknowledge(Receipt {
        peer: peer(1),
        message_id: 0,
    });
    assert_eq!(alone.sent(), ack(0));
    alone.receive(&notification(Kind::Confirmable, 64, request.token, 75));
    assert_eq!(notified(&mut alone, id).0.observe, Some(75));
}

#[test]
fn an_error_or_a_response_without_observe_ends_the_observation() {
    for code in [Code::NOT_FOUND, Code::CONTENT] {
        for kind in [Kind::Confirmable, Kind::NonConfirmable] {
            let mut alone = Alone::new();
            let (id, request) = observe(&mut alone);
            let last = message(kind, code, 5, request.token.as_bytes());
            alone.receive(&last);
            let (response, ended, receipt) = notified(&mut alone, id);
            assert_eq!((response.code, ended), (code, true));
            assert_eq!(receipt.is_some(), kind == Kind::Confirmable);
            alone.assert_quiet();
            if let Some(receipt) = receipt {
                // Repeated before and after custody.
                alone.receive(&last);
                alone.assert_quiet();
                alone.endpoint.acknowledge(receipt);
                assert_eq!(alone.sent(), ack(5));
                alone.receive(&last);
                assert_eq!(alone.sent(), ack(5));
            }
            alone.receive(&notification(Kind::NonConfirmable, 6, request.token, 30));
            assert_eq!(alone.sent(), reset(6));
            alone.assert_quiet();
            assert_eq!(alone.endpoint.observations, 0);
        }
    }
}

#[test]
fn a_notification_under_an_unknown_token_is_reset() {
    let mut alone = Alone::new();
    let stray = crate::coap::rig::token(&[1, 2]);
    for kind in [Kind::Confirmable, Kind::NonConfirmable] {
        alone.receive(&notification(kind, 8, stray, 1));
        assert_eq!(alone.sent(), reset(8));
    }
    assert_eq!(alone.endpoint.counters().unknown_tokens, 2);
    assert_eq!(alone.endpoint.links.len(), 0, "a stranger costs nothing");
}

// conformance: 302
#[test]
fn forgetting_an_observation_resets_the_next_notification() {
    let mut alone = Alone::new();
    let (id, request) = observe(&mut alone);
    assert_eq!(alone.endpoint.cancel(alone.now, id, Cancel::Forget), None);
    assert_eq!(alone.endpoint.cancel(alone.now, id, Cancel::Forget), None);
    alone.assert_quiet();
    alone.receive(&notification(Kind::NonConfirmable, 8, request.token, 11));
    assert_eq!(alone.sent(), reset(8));
    alone.pass(Duration::from_secs(300));
    assert_eq!(alone.endpoint.links.len(), 0);
}

// conformance: 303, 305
#[test]
fn cancelling_by_request_repeats_the_request_with_the_same_token() {
    let mut alone = Alone::new();
    let (id, request) = observe(&mut alone);
    let exchange = alone
        .endpoint
        .cancel(alone.now, id, Cancel::Request)
        .unwrap();
    let cancel = alone.sent().unwrap();
    assert_eq!(cancel.token, request.token);
    assert_eq!(cancel.options.observe, Some(1));
    assert_eq!(cancel.options.uri_path, request.options.uri_path);
    assert_eq!(cancel.options.accept, request.options.accept);
    // Notifications that were under way are no answer.
    alone.receive(&notification(Kind::Confirmable, 8, request.token, 11));
    assert_eq!(alone.sent(), ack(8));
    alone.receive(&notification(Kind::NonConfirmable, 9, request.token, 12));
    alone.assert_quiet();
    let answer = message(
        Kind::Acknowledgement,
        Code::CONTENT,
        cancel.id,
        cancel.token.as_bytes(),
    );
    alone.receive(&answer);
    assert!(matches!(
        alone.event(),
        Some(Event::Response { exchange: of, result: Ok(_) }) if of == exchange
    ));
    alone.receive(&notification(Kind::NonConfirmable, 10, request.token, 13));
    assert_eq!(alone.sent(), reset(10));
}

#[test]
fn a_peer_that_does_not_take_the_observation_answers_once() {
    let mut alone = Alone::new();
    let mut request = Request::new(Code::GET, ["3", "0"]);
    request.observe = Some(Observe::Register);
    alone.endpoint.request(alone.now, peer(1), request).unwrap();
    let sent = alone.sent().unwrap();
    let answer = message(
        Kind::Acknowledgement,
        Code::CONTENT,
        sent.id,
        sent.token.as_bytes(),
    );
    alone.receive(&answer);
    match alone.event() {
        Some(Event::Response {
            result: Ok(response),
            ..
        }) => assert_eq!(response.observe, None),
        other => panic!("{other:?}"),
    }
    assert_eq!(alone.endpoint.observations, 0);
}

#[test]
fn observations_beyond_the_limit_do_not_stand() {
    let mut alone = Alone::new();
    for _ in 0..16 {
        observe(&mut alone);
    }
    let mut request = Request::new(Code::GET, ["3", "0"]);
    request.observe = Some(Observe::Register);
    alone.endpoint.request(alone.now, peer(1), request).unwrap();
    let sent = alone.sent().unwrap();
    alone.receive(&notification(Kind::Acknowledgement, sent.id, sent.token, 1));
    match alone.event() {
        Some(Event::Response {
            result: Ok(response),
            ..
        }) => assert_eq!(response.observe, None),
        other => panic!("{other:?}"),
    }
    alone.receive(&notification(Kind::NonConfirmable, 10, sent.token, 2));
    assert_eq!(alone.sent(), reset(10));
    assert_eq!(alone.endpoint.counters().refused_observations, 1);
}

#[test]
fn the_first_notification_may_come_before_the_ack_of_the_request() {
    let mut alone = Alone::new();
    let mut request = Request::new(Code::GET, ["3", "0"]);
    request.observe = Some(Observe::Register);
    let id = alone.endpoint.request(alone.now, peer(1), request).unwrap();
    let sent = alone.sent().unwrap();
    alone.receive(&notification(Kind::NonConfirmable, 1, sent.token, 2));
    assert!(matches!(
        alone.event(),
        Some(Event::Response { result: Ok(_), .. })
    ));
    // The piggybacked response was overtaken: it is no notification.
    alone.receive(&notification(Kind::Acknowledgement, sent.id, sent.token, 1));
    alone.assert_quiet();
    alone.receive(&notification(Kind::NonConfirmable, 2, sent.token, 3));
    assert_eq!(notified(&mut alone, id).0.observe, Some(3));
}

#[test]
fn forgetting_a_peer_forgets_its_observations() {
    let mut alone = Alone::new();
    let (_, request) = observe(&mut alone);
    alone.receive(&notification(Kind::Confirmable, 1, request.token, 11));
    alone.event();
    alone.endpoint.forget_peer(alone.now, peer(1));
    alone.assert_quiet();
    assert_eq!(alone.endpoint.observations, 0);
    alone.endpoint.acknowledge(Receipt {
        peer: peer(1),
        message_id: 1,
    });
    alone.assert_quiet();
    alone.receive(&notification(Kind::NonConfirmable, 2, request.token, 12));
    assert_eq!(alone.sent(), reset(2));
    assert_ne!(Failure::Abandoned, Failure::Reset);
}

#[test]
fn an_observation_goes_on_with_the_peer_that_it_was_carried_over_to() {
    let mut alone = Alone::new();
    let (id, request) = observe(&mut alone);
    let token = request.token;
    alone.endpoint.rebind(alone.now, peer(1), peer(2));

    let next = notification(Kind::NonConfirmable, 1, token, 11);
    alone.endpoint.receive(alone.now, peer(2), &next.encode());
    assert_eq!(notified(&mut alone, id).0.payload, b"11");

    let late = notification(Kind::Confirmable, 2, token, 12);
    alone.endpoint.receive(alone.now, peer(1), &late.encode());
    assert_eq!(alone.sent(), reset(2));
    alone.assert_quiet();
}

#[test]
fn what_the_new_peer_had_of_its_own_gives_way_to_what_is_carried_over() {
    let mut alone = Alone::new();
    let (id, request) = observe(&mut alone);
    let own = Request::new(Code::GET, ["3", "0", "1"]);
    let asked = alone.endpoint.request(alone.now, peer(2), own).unwrap();
    alone.sent().unwrap();
    alone.endpoint.rebind(alone.now, peer(1), peer(2));
    assert!(matches!(
        alone.event(),
        Some(Event::Response { exchange, result: Err(Failure::Abandoned) }) if exchange == asked
    ));
    let next = notification(Kind::NonConfirmable, 1, request.token, 11);
    alone.endpoint.receive(alone.now, peer(2), &next.encode());
    assert_eq!(notified(&mut alone, id).0.payload, b"11");
}
