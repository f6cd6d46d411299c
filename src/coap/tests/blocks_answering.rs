//! Block-wise transfer as the answering side (RFC 7959).

use std::time::Duration;

use super::{block, body};
use crate::coap::message::{Kind, Message};
use crate::coap::option::Tag;
use crate::coap::rig::{Alone, limits, message, peer, token};
use crate::coap::{Code, Event, IncomingId, Limits, Parameters, Request, Response};

/// One block of a request body of `length` bytes.
fn upload(id: u16, number: usize, size: usize, length: usize) -> Message {
    let mut upload = message(Kind::Confirmable, Code::POST, id, &[id as u8]);
    upload.options.uri_path = vec!["rd".to_owned()];
    upload.options.uri_query = vec!["ep=a".to_owned()];
    upload.options.block1 = block(number as u32, (number + 1) * size < length, size);
    upload.payload = body(length)[number * size..length.min((number + 1) * size)].to_vec();
    upload
}

fn get(id: u16) -> Message {
    let mut get = message(Kind::Confirmable, Code::GET, id, &[id as u8]);
    get.options.uri_path = vec!["3".to_owned()];
    get
}

fn incoming(alone: &mut Alone) -> (IncomingId, Request) {
    match alone.event() {
        Some(Event::Request {
            incoming, request, ..
        }) => (incoming, request),
        other => panic!("{other:?}"),
    }
}

fn content(length: usize) -> Response {
    let mut content = Response::new(Code::CONTENT);
    content.content_format = Some(112);
    content.payload = body(length);
    content
}

fn code(alone: &mut Alone) -> Code {
    let sent = alone.sent().expect("an answer");
    assert_eq!(sent.kind, Kind::Acknowledgement);
    sent.code
}

// conformance: P18
#[test]
fn a_request_in_blocks_comes_out_once_and_whole_though_its_token_changes() {
    let mut alone = Alone::new();
    for number in 0..3 {
        let part = upload(10 + number, number.into(), 512, 1500);
        alone.receive(&part);
        // Each once more, as retransmissions.
        alone.receive(&part);
        if number < 2 {
            for _ in 0..2 {
                let reply = alone.sent().unwrap();
                assert_eq!(reply.code, Code::CONTINUE);
                assert_eq!(reply.token, part.token);
                assert_eq!(reply.options.block1, part.options.block1);
            }
        }
    }
    let (id, request) = incoming(&mut alone);
    assert_eq!(request.payload, body(1500));
    assert_eq!(request.query, ["ep=a"]);
    alone.assert_quiet();
    alone
        .endpoint
        .respond(alone.now, id, Response::new(Code::CREATED));
    let reply = alone.sent().unwrap();
    assert_eq!((reply.code, reply.token), (Code::CREATED, token(&[12])));
    assert_eq!(reply.options.block1, block(2, false, 512));
    assert_eq!(alone.endpoint.budget.used(), (0, 0));
}

#[test]
fn a_single_block_is_a_whole_request() {
    let mut alone = Alone::new();
    alone.receive(&upload(1, 0, 64, 30));
    let (id, request) = incoming(&mut alone);
    assert_eq!(request.payload, body(30));
    alone
        .endpoint
        .respond(alone.now, id, Response::new(Code::CREATED));
    assert_eq!(alone.sent().unwrap().options.block1, block(0, false, 64));
}

#[test]
fn we_ask_for_blocks_no_larger_than_ours() {
    let parameters = Parameters {
        block_size: 256,
        ..Parameters::default()
    };
    let mut alone = Alone::with(parameters, limits());
    alone.receive(&upload(1, 0, 1024, 1200));
    assert_eq!(alone.sent().unwrap().options.block1, block(0, true, 256));
    // The sender goes on in such blocks, behind the 1024 bytes that are through.
    alone.receive(&upload(2, 4, 256, 1200));
    assert_eq!(incoming(&mut alone).1.payload, body(1200));
}

// conformance: P18
#[test]
fn the_same_block_under_another_message_id_is_not_taken_twice() {
    let mut alone = Alone::new();
    for (id, number) in [(1, 0), (2, 1), (3, 1), (4, 2)] {
        alone.receive(&upload(id, number, 64, 200));
        assert_eq!(code(&mut alone), Code::CONTINUE);
    }
    alone.receive(&upload(5, 3, 64, 200));
    assert_eq!(incoming(&mut alone).1.payload, body(200));
}

#[test]
fn block_0_begins_anew() {
    let mut alone = Alone::new();
    for (id, number) in [(1, 0), (2, 1), (3, 0), (4, 1)] {
        alone.receive(&upload(id, number, 64, 160));
        assert_eq!(code(&mut alone), Code::CONTINUE);
    }
    alone.receive(&upload(5, 2, 64, 160));
    assert_eq!(incoming(&mut alone).1.payload, body(160));
    assert_eq!(alone.endpoint.budget.used(), (0, 0));
}

#[test]
fn a_missing_block_is_incomplete() {
    let mut alone = Alone::new();
    alone.receive(&upload(1, 1, 64, 200));
    assert_eq!(code(&mut alone), Code::REQUEST_ENTITY_INCOMPLETE);
    alone.receive(&upload(2, 0, 64, 200));
    assert_eq!(code(&mut alone), Code::CONTINUE);
    alone.receive(&upload(3, 2, 64, 200));
    assert_eq!(code(&mut alone), Code::REQUEST_ENTITY_INCOMPLETE);
    assert_eq!(alone.endpoint.budget.used(), (0, 0));
    alone.assert_quiet();
}

#[test]
fn a_block_that_is_not_full_and_not_the_last_is_bad() {
    let mut alone = Alone::new();
    let mut short = upload(1, 0, 64, 200);
    short.payload.pop();
    alone.receive(&short);
    assert_eq!(code(&mut alone), Code::BAD_REQUEST);
}

#[test]
fn a_body_over_the_limit_is_refused_with_the_limit() {
    let limits = Limits {
        body: 1000,
        ..limits()
    };
    // By what it announces
    let mut alone = Alone::with(Parameters::default(), limits.clone());
    let mut first = upload(1, 0, 64, 2000);
    first.options.size1 = Some(2000);
    alone.receive(&first);
    let refusal = alone.sent().unwrap();
    assert_eq!(refusal.code, Code::REQUEST_ENTITY_TOO_LARGE);
    assert_eq!(refusal.options.size1, Some(1000));
    // By what comes
    let mut alone = Alone::with(Parameters::default(), limits);
    alone.receive(&upload(1, 0, 512, 2000));
    assert_eq!(code(&mut alone), Code::CONTINUE);
    alone.receive(&upload(2, 1, 512, 2000));
    assert_eq!(code(&mut alone), Code::REQUEST_ENTITY_TOO_LARGE);
    assert_eq!(alone.endpoint.budget.used(), (0, 0));
    assert_eq!(alone.endpoint.counters().refused_transfers, 1);
}

// conformance: P18
#[test]
fn transfers_of_different_peers_queries_and_request_tags_do_not_mix() {
    let mut alone = Alone::new();
    let other_query = |mut part: Message| {
        part.options.uri_query = vec!["ep=b".to_owned()];
        part
    };
    let tagged = |mut part: Message| {
        part.options.request_tag = vec![Tag::new(&[1]).unwrap()];
        part
    };
    let parts = [
        (peer(1), upload(1, 0, 16, 20)),
        (peer(2), upload(2, 0, 16, 21)),
        (peer(1), other_query(upload(3, 0, 16, 22))),
        (peer(1), tagged(upload(4, 0, 16, 23))),
        (peer(1), upload(5, 1, 16, 20)),
        (peer(2), upload(6, 1, 16, 21)),
        (peer(1), other_query(upload(7, 1, 16, 22))),
        (peer(1), tagged(upload(8, 1, 16, 23))),
    ];
    for (peer, part) in parts {
        alone.endpoint.receive(alone.now, peer, &part.encode());
    }
    for length in 20..24 {
        assert_eq!(incoming(&mut alone).1.payload, body(length));
    }
}

#[test]
fn uploads_that_stop_are_dropped_and_those_of_one_peer_are_few() {
    let mut alone = Alone::new();
    for id in 0..20_u16 {
        let mut part = upload(id, 0, 64, 200);
        part.options.uri_query = vec![format!("ep={id}")];
        alone.receive(&part);
    }
    let codes: Vec<_> = std::iter::from_fn(|| alone.sent())
        .map(|sent| sent.code)
        .collect();
    assert_eq!(codes[..8], [Code::CONTINUE; 8]);
    assert_eq!(codes[8..], [Code::SERVICE_UNAVAILABLE; 12]);
    assert_eq!(alone.endpoint.budget.used().0, 8);
    alone.pass(Duration::from_secs(125));
    assert_eq!(alone.endpoint.budget.used(), (0, 0));
    assert_eq!(alone.endpoint.counters().expired_transfers, 8);
    assert_eq!(alone.endpoint.counters().refused_transfers, 12);
}

#[test]
fn a_large_response_is_served_block_by_block_from_one_state() {
    let mut alone = Alone::new();
    alone.receive(&get(1));
    let (id, _) = incoming(&mut alone);
    alone.endpoint.respond(alone.now, id, content(2500));
    let first = alone.sent().unwrap();
    assert_eq!(first.options.block2, block(0, true, 1024));
    assert_eq!(first.options.size2, Some(2500));
    assert_eq!(first.options.content_format, Some(112));
    let etag = first.options.etag;
    assert!(etag.is_some());
    let mut whole = first.payload;
    for number in 1..3 {
        let mut next = get(1 + number);
        next.options.block2 = block(number.into(), false, 1024);
        alone.receive(&next);
        let piece = alone.sent().unwrap();
        assert_eq!(piece.options.block2, block(number.into(), number < 2, 1024));
        assert_eq!((piece.options.etag, piece.token), (etag, next.token));
        whole.extend(piece.payload);
    }
    assert_eq!(whole, body(2500));
    // There is no fourth.
    let mut beyond = get(9);
    beyond.options.block2 = block(3, false, 1024);
    alone.receive(&beyond);
    assert_eq!(code(&mut alone), Code::BAD_REQUEST);
    alone.assert_quiet();
    alone.pass(Duration::from_secs(300));
    assert_eq!(alone.endpoint.budget.used(), (0, 0));
    assert_eq!(alone.endpoint.next_timeout(), None);
}

#[test]
fn the_peer_may_ask_for_small_blocks_from_the_start() {
    let mut alone = Alone::new();
    let mut early = get(1);
    early.options.block2 = block(0, false, 64);
    alone.receive(&early);
    let (id, _) = incoming(&mut alone);
    alone.endpoint.respond(alone.now, id, content(100));
    let first = alone.sent().unwrap();
    assert_eq!(first.options.block2, block(0, true, 64));
    assert_eq!(first.payload, body(100)[..64]);

    // What fits is one block.
    early.id = 2;
    alone.receive(&early);
    let (id, _) = incoming(&mut alone);
    alone.endpoint.respond(alone.now, id, content(10));
    let only = alone.sent().unwrap();
    assert_eq!(only.options.block2, block(0, false, 64));
    assert_eq!(alone.endpoint.budget.used(), (0, 0));
}

#[test]
fn a_block_of_what_is_not_kept_any_more_is_cut_out_of_a_new_answer() {
    let mut alone = Alone::new();
    let mut late = get(1);
    late.options.block2 = block(1, false, 64);
    alone.receive(&late);
    let (id, request) = incoming(&mut alone);
    assert_eq!(request.method, Code::GET);
    alone.endpoint.respond(alone.now, id, content(100));
    let piece = alone.sent().unwrap();
    assert_eq!(piece.options.block2, block(1, false, 64));
    assert_eq!(piece.payload, body(100)[64..]);

    // Nothing is done twice for it.
    let mut post = message(Kind::Confirmable, Code::POST, 2, &[2]);
    post.options.block2 = block(1, false, 64);
    alone.receive(&post);
    assert_eq!(code(&mut alone), Code::REQUEST_ENTITY_INCOMPLETE);
    alone.assert_quiet();
}

#[test]
fn what_is_kept_for_further_blocks_is_bounded_and_dropped_with_its_peer() {
    let mut alone = Alone::new();
    for id in 0..30 {
        let mut get = get(id);
        get.options.uri_path = vec![id.to_string()];
        alone.receive(&get);
        let (incoming, _) = incoming(&mut alone);
        alone.endpoint.respond(alone.now, incoming, content(20_000));
        // It is answered all the same.
        assert_eq!(code(&mut alone), Code::CONTENT);
    }
    assert_eq!(alone.endpoint.budget.used(), (13, 260_000));
    alone.endpoint.forget_peer(alone.now, peer(2));
    assert_eq!(alone.endpoint.budget.used(), (13, 260_000));
    alone.endpoint.forget_peer(alone.now, peer(1));
    assert_eq!(alone.endpoint.budget.used(), (0, 0));
}

#[test]
fn a_request_in_blocks_may_be_answered_in_blocks() {
    let mut alone = Alone::new();
    let part = |id, number, length| {
        let mut part = upload(id, number, 64, length);
        part.code = Code::FETCH;
        part
    };
    alone.receive(&part(1, 0, 100));
    assert_eq!(code(&mut alone), Code::CONTINUE);
    alone.receive(&part(2, 1, 100));
    let (id, request) = incoming(&mut alone);
    assert_eq!(request.payload, body(100));
    alone.endpoint.respond(alone.now, id, content(1500));
    let first = alone.sent().unwrap();
    assert_eq!(first.options.block1, block(1, false, 64));
    assert_eq!(first.options.block2, block(0, true, 1024));
    let mut next = part(3, 0, 10);
    next.options.block1 = None;
    next.options.block2 = block(1, false, 1024);
    next.payload.clear();
    alone.receive(&next);
    assert_eq!(alone.sent().unwrap().payload, body(1500)[1024..]);
}

#[test]
fn a_shared_body_is_served_block_by_block_and_nothing_of_it_is_kept() {
    let mut alone = Alone::new();
    let whole = bytes::Bytes::from(body(1100));
    let mut got = Vec::new();
    for number in 0..3 {
        let mut get = get(20 + number);
        get.options.block2 = block(number.into(), false, 512);
        // A repetition is as good as the first, and asks the layer above again.
        for repeated in [false, true] {
            alone.receive(&get);
            let (id, _) = incoming(&mut alone);
            let response = Response::new(Code::CONTENT);
            let so_far = alone
                .endpoint
                .respond_with(alone.now, id, &response, &whole, 7);
            let sent = alone.sent().unwrap();
            assert_eq!(sent.options.block2, block(number.into(), number < 2, 512));
            assert_eq!(sent.options.etag, Tag::new(&7u64.to_be_bytes()));
            assert_eq!(sent.options.size2, (number == 0).then_some(1100));
            if !repeated {
                got.extend_from_slice(&sent.payload);
            }
            assert_eq!(so_far, Some(got.len()));
        }
    }
    assert_eq!(got, whole);
    assert_eq!(alone.endpoint.budget.used(), (0, 0));
    let mut beyond = get(30);
    beyond.options.block2 = block(3, false, 512);
    alone.receive(&beyond);
    let (id, _) = incoming(&mut alone);
    let response = Response::new(Code::CONTENT);
    let so_far = alone
        .endpoint
        .respond_with(alone.now, id, &response, &whole, 7);
    assert_eq!((so_far, code(&mut alone)), (None, Code::BAD_REQUEST));
}
