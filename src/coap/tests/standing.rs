//! Observations that outlive the process.

use std::time::Duration;

use crate::coap::message::Kind;
use crate::coap::rig::{Alone, message, peer};
use crate::coap::{Code, Event, ObservationId, Observe, Request, Standing};

fn begun() -> (Alone, ObservationId) {
    let mut alone = Alone::new();
    let mut request = Request::new(Code::GET, ["3303", "0"]);
    request.observe = Some(Observe::Register);
    let id = alone.endpoint.request(alone.now, peer(1), request).unwrap();
    let sent = alone.sent().unwrap();
    let mut first = message(
        Kind::Acknowledgement,
        Code::CONTENT,
        sent.id,
        sent.token.as_bytes(),
    );
    first.options.observe = Some(10);
    alone.receive(&first);
    assert!(matches!(alone.event(), Some(Event::Response { .. })));
    (alone, id)
}

/// Another process, a while later, that goes on with what stood.
fn gone_on(standing: &Standing, next: u16) -> (Alone, ObservationId) {
    let mut alone = Alone::new();
    alone.now += Duration::from_secs(20);
    let id = alone
        .endpoint
        .stand(alone.now, peer(1), standing.clone())
        .unwrap();
    alone.endpoint.number_apart(peer(1), next);
    (alone, id)
}

fn notify(alone: &mut Alone, standing: &Standing, id: u16, number: u32) {
    let token = standing.token.as_bytes();
    let mut notification = message(Kind::Confirmable, Code::CONTENT, id, token);
    notification.options.observe = Some(number);
    alone.receive(&notification);
}

#[test]
fn an_observation_goes_on_in_another_process_without_a_request() {
    let (mut before, observation) = begun();
    let standing = before.endpoint.standing(observation).unwrap();
    let next = before.endpoint.message_id(peer(1)).unwrap();
    let (mut alone, id) = gone_on(&standing, next);
    assert_eq!(alone.sent(), None);
    notify(&mut alone, &standing, 7, 11);
    let receipt = match alone.event() {
        Some(Event::Notification {
            observation,
            ended: false,
            receipt: Some(receipt),
            ..
        }) if observation == id => receipt,
        other => panic!("{other:?}"),
    };
    alone.endpoint.acknowledge(receipt);
    let sent = alone.sent().unwrap();
    assert_eq!((sent.kind, sent.id), (Kind::Acknowledgement, 7));
}

#[test]
fn the_order_of_notifications_goes_on_over_a_restart() {
    let (mut before, observation) = begun();
    let standing = before.endpoint.standing(observation).unwrap();
    let (mut alone, _) = gone_on(&standing, 0);
    notify(&mut alone, &standing, 7, 9);
    assert!(matches!(
        alone.event(),
        Some(Event::Notification {
            overtaken: true,
            ..
        })
    ));
}

#[test]
fn what_was_not_acknowledged_is_taken_again_after_a_restart() {
    let (mut before, observation) = begun();
    let standing = before.endpoint.standing(observation).unwrap();
    for (id, number) in [(7, 11), (8, 12)] {
        notify(&mut before, &standing, id, number);
    }
    let mut receipts = Vec::new();
    while let Some(Event::Notification { receipt, .. }) = before.event() {
        receipts.extend(receipt);
    }
    // The first is safe, the second is not.
    before.endpoint.acknowledge(receipts[0]);
    let standing = before.endpoint.standing(observation).unwrap();
    assert_eq!(standing.newest.unwrap().0, 11);
    let (mut alone, _) = gone_on(&standing, 0);
    notify(&mut alone, &standing, 8, 12);
    assert!(matches!(
        alone.event(),
        Some(Event::Notification {
            overtaken: false,
            receipt: Some(_),
            ..
        })
    ));
    before.endpoint.acknowledge(receipts[1]);
    let standing = before.endpoint.standing(observation).unwrap();
    assert_eq!(standing.newest.unwrap().0, 12);
}

#[test]
fn a_token_that_nobody_kept_is_reset() {
    let (mut before, observation) = begun();
    let standing = before.endpoint.standing(observation).unwrap();
    let mut alone = Alone::new();
    notify(&mut alone, &standing, 7, 11);
    assert_eq!(alone.sent().unwrap().kind, Kind::Reset);
}

#[test]
fn message_ids_of_another_process_are_far_from_those_before() {
    let (mut before, observation) = begun();
    let standing = before.endpoint.standing(observation).unwrap();
    let next = before.endpoint.message_id(peer(1)).unwrap();
    let (mut alone, _) = gone_on(&standing, next);
    let request = Request::new(Code::GET, ["3", "0"]);
    alone.endpoint.request(alone.now, peer(1), request).unwrap();
    assert_eq!(alone.sent().unwrap().id, next.wrapping_add(1 << 15));
}

#[test]
fn two_observations_do_not_stand_under_one_token() {
    let (mut before, observation) = begun();
    let standing = before.endpoint.standing(observation).unwrap();
    let (mut alone, _) = gone_on(&standing, 0);
    let now = alone.now;
    assert_eq!(alone.endpoint.stand(now, peer(1), standing), None);
}
