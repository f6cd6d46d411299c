//! Asking: transmission, the kinds of response, NSTART.

use std::time::Duration;

use crate::coap::message::{Kind, Message};
use crate::coap::rig::{Alone, limits, message, peer};
use crate::coap::{
    Code, Event, ExchangeId, Failure, Overload, Parameters, Peer, Request, Response,
};
use crate::route::Route;

fn get(path: &str) -> Request {
    Request::new(
        Code::GET,
        path.split('/').filter(|segment| !segment.is_empty()),
    )
}

fn ask(alone: &mut Alone, path: &str) -> (ExchangeId, Message) {
    let id = alone
        .endpoint
        .request(alone.now, peer(1), get(path))
        .unwrap();
    let sent = alone.sent().expect("the request is sent");
    assert_eq!((sent.kind, sent.code), (Kind::Confirmable, Code::GET));
    (id, sent)
}

/// A response to `request` in another kind of message.
fn answer(request: &Message, kind: Kind, id: u16) -> Message {
    let mut answer = message(kind, Code::CONTENT, id, request.token.as_bytes());
    answer.payload = b"21".to_vec();
    answer
}

fn result(alone: &mut Alone, id: ExchangeId) -> Result<Response, Failure> {
    match alone.event() {
        Some(Event::Response { exchange, result }) if exchange == id => result,
        other => panic!("{other:?}"),
    }
}

fn payload(alone: &mut Alone, id: ExchangeId) -> Vec<u8> {
    result(alone, id).unwrap().payload
}

#[test]
fn a_piggybacked_response_ends_a_request() {
    let mut alone = Alone::new();
    let (id, request) = ask(&mut alone, "/3/0");
    assert_eq!(request.options.uri_path, ["3", "0"]);
    assert_eq!(request.token.as_bytes().len(), 8);
    alone.receive(&answer(&request, Kind::Acknowledgement, request.id));
    assert_eq!(payload(&mut alone, id), b"21");
    alone.assert_quiet();
    alone.pass(Duration::from_secs(300));
    alone.assert_quiet();
    assert_eq!(alone.endpoint.next_timeout(), None);
    assert_eq!(alone.endpoint.links.len(), 0);
}

#[test]
fn a_request_is_repeated_four_times_in_doubling_intervals_and_then_given_up() {
    let mut alone = Alone::new();
    let (id, request) = ask(&mut alone, "/3/0");
    let start = alone.now;
    let mut last = start;
    let mut waits = Vec::new();
    for _ in 0..4 {
        let next = alone.endpoint.next_timeout().unwrap();
        alone.pass(next.since(alone.now));
        assert_eq!(alone.sent().unwrap(), request);
        waits.push(alone.now.since(last));
        last = alone.now;
    }
    assert!(waits[0] >= Duration::from_secs(2) && waits[0] <= Duration::from_secs(3));
    for (shorter, longer) in waits.iter().zip(&waits[1..]) {
        assert!(longer.abs_diff(*shorter * 2) < Duration::from_micros(10));
    }
    alone.assert_quiet();
    alone.pass(waits[3] * 2 + Duration::from_millis(1));
    assert_eq!(result(&mut alone, id), Err(Failure::Timeout));
    // MAX_TRANSMIT_WAIT
    assert!(alone.now.since(start) <= Duration::from_secs(93));
    assert_eq!(alone.endpoint.counters().retransmissions, 4);
    assert_eq!(alone.endpoint.counters().unacknowledged, 1);
}

#[test]
fn a_separate_response_is_taken_from_either_kind_of_message() {
    for kind in [Kind::Confirmable, Kind::NonConfirmable] {
        let mut alone = Alone::new();
        let (id, request) = ask(&mut alone, "/3/0");
        alone.receive(&message(
            Kind::Acknowledgement,
            Code::EMPTY,
            request.id,
            &[],
        ));
        alone.pass(Duration::from_secs(30));
        alone.assert_quiet();
        let response = answer(&request, kind, 77);
        alone.receive(&response);
        assert_eq!(payload(&mut alone, id), b"21");
        if kind == Kind::Confirmable {
            let ack = message(Kind::Acknowledgement, Code::EMPTY, 77, &[]);
            assert_eq!(alone.sent(), Some(ack.clone()));
            // Its ACK was lost: it comes again.
            alone.receive(&response);
            assert_eq!(alone.sent(), Some(ack));
            assert_eq!(alone.endpoint.counters().duplicates, 1);
        }
        alone.assert_quiet();
    }
}

#[test]
fn a_response_that_overtakes_the_ack_stops_the_retransmission() {
    let mut alone = Alone::new();
    let (id, request) = ask(&mut alone, "/3/0");
    alone.receive(&answer(&request, Kind::NonConfirmable, 77));
    assert_eq!(payload(&mut alone, id), b"21");
    alone.receive(&message(
        Kind::Acknowledgement,
        Code::EMPTY,
        request.id,
        &[],
    ));
    assert_eq!(alone.endpoint.counters().unmatched, 1);
    alone.pass(Duration::from_secs(100));
    alone.assert_quiet();
}

// conformance: P40
#[test]
fn the_time_outs_are_told_apart() {
    let mut alone = Alone::new();
    let (acknowledged, request) = ask(&mut alone, "/1");
    alone.receive(&message(
        Kind::Acknowledgement,
        Code::EMPTY,
        request.id,
        &[],
    ));
    alone.pass(Duration::from_secs(92));
    alone.assert_quiet();
    alone.pass(Duration::from_secs(1));
    assert_eq!(result(&mut alone, acknowledged), Err(Failure::NoResponse));

    let (unheard, _) = ask(&mut alone, "/2");
    alone.pass(Duration::from_secs(93));
    assert_eq!(result(&mut alone, unheard), Err(Failure::Timeout));

    while alone.sent().is_some() {}
    let (reset, request) = ask(&mut alone, "/3");
    alone.receive(&message(Kind::Reset, Code::EMPTY, request.id, &[]));
    assert_eq!(result(&mut alone, reset), Err(Failure::Reset));
}

#[test]
fn a_piggybacked_response_with_the_wrong_message_id_or_token_is_ignored() {
    let mut alone = Alone::new();
    let (id, request) = ask(&mut alone, "/3/0");
    alone.receive(&answer(
        &request,
        Kind::Acknowledgement,
        request.id.wrapping_add(1),
    ));
    let mut other = answer(&request, Kind::Acknowledgement, request.id);
    other.token = crate::coap::rig::token(&[1]);
    alone.receive(&other);
    alone.assert_quiet();
    assert_eq!(alone.endpoint.counters().unmatched, 2);
    alone.receive(&answer(&request, Kind::Acknowledgement, request.id));
    assert_eq!(payload(&mut alone, id), b"21");
}

#[test]
fn a_response_from_another_address_or_listener_is_reset_and_changes_nothing() {
    let mut alone = Alone::new();
    let (_, request) = ask(&mut alone, "/3/0");
    let response = answer(&request, Kind::Confirmable, 9).encode();
    let Peer::Route(route) = peer(1) else {
        unreachable!()
    };
    let other_listener = Peer::Route(Route {
        listener: 1,
        ..route
    });
    for stranger in [peer(2), other_listener] {
        alone.endpoint.receive(alone.now, stranger, &response);
        assert_eq!(
            alone.sent(),
            Some(message(Kind::Reset, Code::EMPTY, 9, &[]))
        );
    }
    alone.assert_quiet();
    assert_eq!(alone.endpoint.counters().unknown_tokens, 2);
}

#[test]
fn a_response_with_an_unknown_critical_option_is_rejected() {
    let mut alone = Alone::new();
    let (id, request) = ask(&mut alone, "/3/0");
    let mut datagram = answer(&request, Kind::Confirmable, 9);
    datagram.payload.clear();
    let mut datagram = datagram.encode();
    datagram.extend([0xd0, 2049_u16.to_be_bytes()[1]]);
    // option 13 + 1 = 14 is Max-Age; one more delta of 1 makes 15, Uri-Query, which is known.
    // 9, OSCORE, is not.
    datagram.truncate(datagram.len() - 2);
    datagram.push(0x90);
    alone.receive_bytes(&datagram);
    assert_eq!(
        alone.sent(),
        Some(message(Kind::Reset, Code::EMPTY, 9, &[]))
    );
    alone.assert_quiet();
    alone.receive(&answer(&request, Kind::Acknowledgement, request.id));
    assert_eq!(payload(&mut alone, id), b"21");
}

#[test]
fn one_request_at_a_time_and_the_others_in_their_order() {
    let mut alone = Alone::new();
    let (first, request) = ask(&mut alone, "/1");
    let others: Vec<_> = ["/2", "/3", "/4", "/5"]
        .iter()
        .map(|path| {
            alone
                .endpoint
                .request(alone.now, peer(1), get(path))
                .unwrap()
        })
        .collect();
    assert_eq!(
        alone.endpoint.request(alone.now, peer(1), get("/6")),
        Err(Overload)
    );
    assert_eq!(alone.endpoint.counters().overloads, 1);
    alone.assert_quiet();
    // An empty ACK lets nobody go: the device is busy with the first.
    alone.receive(&message(
        Kind::Acknowledgement,
        Code::EMPTY,
        request.id,
        &[],
    ));
    alone.assert_quiet();
    alone.receive(&answer(&request, Kind::NonConfirmable, 1));
    assert_eq!(payload(&mut alone, first), b"21");
    for (id, path) in others.into_iter().zip(["2", "3", "4", "5"]) {
        let request = alone.sent().unwrap();
        assert_eq!(request.options.uri_path, [path]);
        alone.assert_quiet();
        alone.receive(&answer(&request, Kind::Acknowledgement, request.id));
        assert_eq!(payload(&mut alone, id), b"21");
    }
    alone.assert_quiet();
    // Another peer has a queue of its own.
    assert!(
        alone
            .endpoint
            .request(alone.now, peer(2), get("/6"))
            .is_ok()
    );
}

#[test]
fn nstart_lets_more_requests_go() {
    let parameters = Parameters {
        nstart: 3,
        ..Parameters::default()
    };
    let mut alone = Alone::with(parameters, limits());
    let ids: Vec<_> = (0..4)
        .map(|_| {
            alone
                .endpoint
                .request(alone.now, peer(1), get("/1"))
                .unwrap()
        })
        .collect();
    let sent: Vec<_> = std::iter::from_fn(|| alone.sent()).collect();
    assert_eq!(sent.len(), 3);
    assert_ne!(sent[0].token, sent[1].token);
    assert_ne!(sent[0].id, sent[1].id);
    alone.receive(&answer(&sent[1], Kind::Acknowledgement, sent[1].id));
    assert_eq!(payload(&mut alone, ids[1]), b"21");
    assert!(alone.sent().is_some());
}

#[test]
fn a_request_given_up_ends_and_lets_the_next_one_go() {
    let mut alone = Alone::new();
    let (first, request) = ask(&mut alone, "/1");
    let second = alone
        .endpoint
        .request(alone.now, peer(1), get("/2"))
        .unwrap();
    let third = alone
        .endpoint
        .request(alone.now, peer(1), get("/3"))
        .unwrap();
    alone.endpoint.abandon(second);
    assert_eq!(result(&mut alone, second), Err(Failure::Abandoned));
    alone.assert_quiet();
    alone.endpoint.abandon(first);
    assert_eq!(result(&mut alone, first), Err(Failure::Abandoned));
    let next = alone.sent().unwrap();
    assert_eq!(next.options.uri_path, ["3"]);
    // The answer to the first comes after all.
    alone.receive(&answer(&request, Kind::NonConfirmable, 4));
    assert_eq!(
        alone.sent(),
        Some(message(Kind::Reset, Code::EMPTY, 4, &[]))
    );
    alone.endpoint.abandon(first);
    alone.receive(&answer(&next, Kind::Acknowledgement, next.id));
    assert_eq!(payload(&mut alone, third), b"21");
    alone.assert_quiet();
}

#[test]
fn forgetting_a_peer_ends_all_its_requests() {
    let mut alone = Alone::new();
    let (first, _) = ask(&mut alone, "/1");
    let second = alone
        .endpoint
        .request(alone.now, peer(1), get("/2"))
        .unwrap();
    alone.endpoint.forget_peer(alone.now, peer(1));
    assert_eq!(result(&mut alone, first), Err(Failure::Abandoned));
    assert_eq!(result(&mut alone, second), Err(Failure::Abandoned));
    alone.assert_quiet();
    alone.pass(Duration::from_secs(300));
    alone.assert_quiet();
    assert_eq!(alone.endpoint.links.len(), 0);
}

#[test]
fn a_ping_is_answered_by_reset_or_not_at_all() {
    let mut alone = Alone::new();
    let alive = alone.endpoint.ping(alone.now, peer(1)).unwrap();
    let ping = alone.sent().unwrap();
    assert_eq!(ping, message(Kind::Confirmable, Code::EMPTY, ping.id, &[]));
    alone.receive(&message(Kind::Reset, Code::EMPTY, ping.id, &[]));
    assert_eq!(result(&mut alone, alive), Err(Failure::Reset));

    let dead = alone.endpoint.ping(alone.now, peer(1)).unwrap();
    alone.pass(Duration::from_secs(100));
    assert_eq!(result(&mut alone, dead), Err(Failure::Timeout));
}

#[test]
fn message_ids_are_not_used_again_while_the_peer_may_remember_them() {
    let mut alone = Alone::new();
    let (_, first) = ask(&mut alone, "/1");
    alone.receive(&answer(&first, Kind::Acknowledgement, first.id));
    alone.pass(Duration::from_secs(246));
    let (_, second) = ask(&mut alone, "/1");
    assert_eq!(second.id, first.id.wrapping_add(1));
}
