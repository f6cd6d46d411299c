//! Block-wise transfer as the asking side (RFC 7959).

use std::time::Duration;

use super::{block, body};
use crate::coap::message::{Kind, Message};
use crate::coap::option::Tag;
use crate::coap::rig::{Alone, limits, message, peer};
use crate::coap::{
    Code, Event, ExchangeId, Failure, Limits, Parameters, Position, Request, Response,
};

fn request(alone: &mut Alone, method: Code, payload: Vec<u8>) -> (ExchangeId, Message) {
    let mut request = Request::new(method, ["5", "0", "0"]);
    request.query = vec!["a=1".to_owned()];
    request.content_format = Some(42);
    request.payload = payload;
    let id = alone.endpoint.request(alone.now, peer(1), request).unwrap();
    (id, alone.sent().unwrap())
}

fn result(alone: &mut Alone, id: ExchangeId) -> Result<Response, Failure> {
    match alone.event() {
        Some(Event::Response { exchange, result }) if exchange == id => {
            alone.assert_quiet();
            assert_eq!(alone.endpoint.budget.used(), (0, 0));
            result
        }
        other => panic!("{other:?}"),
    }
}

/// A piggybacked response.
fn answer(request: &Message, code: Code) -> Message {
    message(
        Kind::Acknowledgement,
        code,
        request.id,
        request.token.as_bytes(),
    )
}

/// A block of a representation.
fn piece(request: &Message, whole: &[u8], number: usize, size: usize, etag: &[u8]) -> Message {
    let mut piece = answer(request, Code::CONTENT);
    let more = (number + 1) * size < whole.len();
    piece.options.block2 = block(number as u32, more, size);
    piece.options.etag = Tag::new(etag).filter(|_| !etag.is_empty());
    piece.payload = whole[number * size..whole.len().min((number + 1) * size)].to_vec();
    piece
}

#[test]
fn a_large_request_body_goes_out_in_blocks() {
    let mut alone = Alone::new();
    let body = body(2500);
    let (id, mut sent) = request(&mut alone, Code::PUT, body.clone());
    let token = sent.token;
    for (number, range) in [0..1024, 1024..2048, 2048..2500].into_iter().enumerate() {
        let more = range.end < 2500;
        assert_eq!(sent.options.block1, block(number as u32, more, 1024));
        assert_eq!(sent.payload, body[range]);
        assert_eq!(sent.options.size1, (number == 0).then_some(2500));
        // Each is the request as a whole, for those who do not keep the first.
        assert_eq!(sent.options.uri_path, ["5", "0", "0"]);
        assert_eq!(sent.options.uri_query, ["a=1"]);
        assert_eq!(sent.options.content_format, Some(42));
        // Some devices find the transfer by its token.
        assert_eq!(sent.token, token);
        let code = if more { Code::CONTINUE } else { Code::CHANGED };
        let mut reply = answer(&sent, code);
        reply.options.block1 = sent.options.block1;
        alone.receive(&reply);
        if more {
            sent = alone.sent().unwrap();
        }
    }
    assert_eq!(result(&mut alone, id).unwrap().code, Code::CHANGED);
}

#[test]
fn a_body_of_exactly_one_block_goes_out_whole() {
    let mut alone = Alone::new();
    let (_, sent) = request(&mut alone, Code::PUT, body(1024));
    assert_eq!(sent.options.block1, None);
    assert_eq!(sent.payload.len(), 1024);
}

#[test]
fn the_peer_may_ask_for_smaller_blocks_on_the_way() {
    let mut alone = Alone::new();
    let body = body(1100);
    let (id, sent) = request(&mut alone, Code::PUT, body.clone());
    let mut reply = answer(&sent, Code::CONTINUE);
    reply.options.block1 = block(0, true, 32);
    alone.receive(&reply);
    // 1024 bytes are through: the next is block 32 of 32 bytes (RFC 7959 §2.3).
    for (number, range) in [(32, 1024..1056), (33, 1056..1088), (34, 1088..1100)] {
        let sent = alone.sent().unwrap();
        let more = number < 34;
        assert_eq!(sent.options.block1, block(number, more, 32));
        assert_eq!(sent.payload, body[range]);
        let mut reply = answer(&sent, if more { Code::CONTINUE } else { Code::CHANGED });
        reply.options.block1 = sent.options.block1;
        alone.receive(&reply);
    }
    assert_eq!(result(&mut alone, id).unwrap().code, Code::CHANGED);
}

#[test]
fn too_large_with_a_smaller_block_is_tried_again_in_such_blocks() {
    for (length, first) in [(500, None), (2000, block(0, true, 1024))] {
        let mut alone = Alone::new();
        let (id, sent) = request(&mut alone, Code::PUT, body(length));
        assert_eq!(sent.options.block1, first);
        let mut refusal = answer(&sent, Code::REQUEST_ENTITY_TOO_LARGE);
        refusal.options.block1 = block(0, true, 128);
        alone.receive(&refusal);
        let sent = alone.sent().unwrap();
        assert_eq!(sent.options.block1, block(0, true, 128));
        assert_eq!(sent.payload, body(length)[..128]);
        // The same hint again is no hint.
        let mut refusal = answer(&sent, Code::REQUEST_ENTITY_TOO_LARGE);
        refusal.options.block1 = block(0, true, 128);
        alone.receive(&refusal);
        let response = result(&mut alone, id).unwrap();
        assert_eq!(response.code, Code::REQUEST_ENTITY_TOO_LARGE);
    }
}

#[test]
fn an_incomplete_body_is_sent_again_once() {
    let mut alone = Alone::new();
    let (id, sent) = request(&mut alone, Code::PUT, body(2000));
    let mut reply = answer(&sent, Code::CONTINUE);
    reply.options.block1 = sent.options.block1;
    alone.receive(&reply);
    let second = alone.sent().unwrap();
    alone.receive(&answer(&second, Code::REQUEST_ENTITY_INCOMPLETE));
    let again = alone.sent().unwrap();
    assert_eq!(again.options.block1, block(0, true, 1024));
    alone.receive(&answer(&again, Code::REQUEST_ENTITY_INCOMPLETE));
    let response = result(&mut alone, id).unwrap();
    assert_eq!(response.code, Code::REQUEST_ENTITY_INCOMPLETE);
}

#[test]
fn a_final_error_or_reset_ends_an_upload() {
    let mut alone = Alone::new();
    let (id, sent) = request(&mut alone, Code::PUT, body(2000));
    alone.receive(&answer(&sent, Code::UNAUTHORIZED));
    assert_eq!(result(&mut alone, id).unwrap().code, Code::UNAUTHORIZED);

    let (id, sent) = request(&mut alone, Code::PUT, body(2000));
    alone.receive(&message(Kind::Reset, Code::EMPTY, sent.id, &[]));
    assert_eq!(result(&mut alone, id), Err(Failure::Reset));
}

#[test]
fn a_continue_that_does_not_fit_ends_an_upload() {
    for echoed in [None, block(1, true, 1024), block(7, true, 1024)] {
        let mut alone = Alone::new();
        let (id, sent) = request(&mut alone, Code::PUT, body(4000));
        let mut reply = answer(&sent, Code::CONTINUE);
        reply.options.block1 = echoed;
        alone.receive(&reply);
        assert_eq!(result(&mut alone, id), Err(Failure::Blockwise));
    }
}

#[test]
fn a_large_response_is_fetched_block_by_block() {
    for etag in [&b""[..], b"v1"] {
        let mut alone = Alone::new();
        let whole = body(2100);
        let (id, mut sent) = request(&mut alone, Code::GET, Vec::new());
        assert_eq!(sent.options.block2, None);
        let token = sent.token;
        for number in 0..3 {
            if number > 0 {
                sent = alone.sent().unwrap();
                assert_eq!(sent.options.block2, block(number, false, 1024));
                assert_eq!(sent.options.uri_path, ["5", "0", "0"]);
                assert_eq!(sent.options.uri_query, ["a=1"]);
                assert_eq!(sent.token, token);
            }
            alone.receive(&piece(&sent, &whole, number as usize, 1024, etag));
        }
        assert_eq!(result(&mut alone, id).unwrap().payload, whole);
    }
}

#[test]
fn blocks_beyond_number_4095_are_told_apart() {
    let limits = Limits {
        body: 100_000,
        ..limits()
    };
    let mut alone = Alone::with(Parameters::default(), limits);
    let whole = body(16 * 4100);
    let (id, mut sent) = request(&mut alone, Code::GET, Vec::new());
    for number in 0..4100 {
        assert_eq!(
            sent.options.block2,
            (number > 0).then(|| block(number, false, 16)).flatten()
        );
        alone.receive(&piece(&sent, &whole, number as usize, 16, b""));
        if number < 4099 {
            sent = alone.sent().unwrap();
        }
    }
    assert_eq!(result(&mut alone, id).unwrap().payload, whole);
}

#[test]
fn blocks_may_come_as_separate_responses_and_repeatedly() {
    let mut alone = Alone::new();
    let whole = body(2000);
    let (id, sent) = request(&mut alone, Code::GET, Vec::new());
    let mut first = piece(&sent, &whole, 0, 1024, b"");
    first.kind = Kind::NonConfirmable;
    first.id = 1;
    alone.receive(&first);
    let sent = alone.sent().unwrap();
    // The network made two of it.
    alone.receive(&first);
    alone.assert_quiet();
    let mut second = piece(&sent, &whole, 1, 1024, b"");
    second.kind = Kind::Confirmable;
    second.id = 2;
    alone.receive(&second);
    assert_eq!(
        alone.sent(),
        Some(message(Kind::Acknowledgement, Code::EMPTY, 2, &[]))
    );
    assert_eq!(result(&mut alone, id).unwrap().payload, whole);
}

#[test]
fn the_peer_may_turn_to_smaller_blocks_on_the_way() {
    let mut alone = Alone::new();
    let whole = body(1200);
    let (id, sent) = request(&mut alone, Code::GET, Vec::new());
    alone.receive(&piece(&sent, &whole, 0, 1024, b""));
    let sent = alone.sent().unwrap();
    alone.receive(&piece(&sent, &whole, 8, 128, b""));
    let sent = alone.sent().unwrap();
    assert_eq!(sent.options.block2, block(9, false, 128));
    alone.receive(&piece(&sent, &whole, 9, 128, b""));
    assert_eq!(result(&mut alone, id).unwrap().payload, whole);
}

#[test]
fn a_representation_that_changes_is_fetched_from_the_start_again() {
    let mut alone = Alone::new();
    let (old, new) = (body(2000), vec![9; 1500]);
    let (id, sent) = request(&mut alone, Code::GET, Vec::new());
    alone.receive(&piece(&sent, &old, 0, 1024, b"1"));
    let sent = alone.sent().unwrap();
    alone.receive(&piece(&sent, &new, 1, 1024, b"2"));
    let sent = alone.sent().unwrap();
    assert_eq!(sent.options.block2, block(0, false, 1024));
    alone.receive(&piece(&sent, &new, 0, 1024, b"2"));
    let sent = alone.sent().unwrap();
    alone.receive(&piece(&sent, &new, 1, 1024, b"2"));
    assert_eq!(result(&mut alone, id).unwrap().payload, new);
}

#[test]
fn a_representation_that_never_rests_is_given_up() {
    let mut alone = Alone::new();
    let whole = body(2000);
    let (id, mut sent) = request(&mut alone, Code::GET, Vec::new());
    for version in 0..100_u8 {
        let number = usize::from(sent.options.block2.is_some_and(|block| block.number == 1));
        alone.receive(&piece(&sent, &whole, number, 1024, &[version]));
        match alone.sent() {
            Some(next) => sent = next,
            None => break,
        }
    }
    assert_eq!(result(&mut alone, id), Err(Failure::Blockwise));
}

#[test]
fn inconsistent_blocks_end_a_download() {
    type Spoil = fn(&mut Message);
    let spoils: [(usize, Spoil); 6] = [
        // does not begin at the beginning
        (0, |piece| piece.options.block2 = block(1, true, 1024)),
        // shorter than it says, and not the last
        (0, |piece| piece.payload.truncate(1023)),
        // more than we take
        (0, |piece| piece.options.size2 = Some(1 << 20)),
        // leaves a hole
        (1, |piece| piece.options.block2 = block(2, true, 1024)),
        // repeats itself instead of going on
        (1, |piece| piece.options.block2 = block(0, true, 1024)),
        // longer than it says
        (1, |piece| {
            piece.options.block2 = block(2, false, 512);
            piece.payload.truncate(513);
        }),
    ];
    let whole = body(4000);
    for (at, spoil) in spoils {
        let mut alone = Alone::new();
        let (id, mut sent) = request(&mut alone, Code::GET, Vec::new());
        for number in 0..=at {
            let mut piece = piece(&sent, &whole, number, 1024, b"");
            if number == at {
                spoil(&mut piece);
            }
            alone.receive(&piece);
            if number < at {
                sent = alone.sent().unwrap();
            }
        }
        assert_eq!(result(&mut alone, id), Err(Failure::Blockwise));
    }
}

#[test]
fn a_response_body_grows_up_to_the_limit() {
    let limits = Limits {
        body: 4096,
        ..limits()
    };
    for (length, fits) in [(4096, true), (4097, false)] {
        let mut alone = Alone::with(Parameters::default(), limits.clone());
        let whole = body(length);
        let (id, mut sent) = request(&mut alone, Code::GET, Vec::new());
        for number in 0..length.div_ceil(1024) {
            alone.receive(&piece(&sent, &whole, number, 1024, b""));
            if let Some(next) = alone.sent() {
                sent = next;
            }
        }
        assert_eq!(result(&mut alone, id).is_ok(), fits);
    }
}

#[test]
fn an_error_in_the_middle_is_the_response() {
    let mut alone = Alone::new();
    let (id, sent) = request(&mut alone, Code::GET, Vec::new());
    alone.receive(&piece(&sent, &body(2000), 0, 1024, b""));
    let sent = alone.sent().unwrap();
    alone.receive(&answer(&sent, Code::NOT_FOUND));
    assert_eq!(result(&mut alone, id).unwrap().code, Code::NOT_FOUND);
}

#[test]
fn a_block_that_gets_no_answer_ends_the_transfer() {
    let mut alone = Alone::new();
    let (id, sent) = request(&mut alone, Code::GET, Vec::new());
    alone.receive(&piece(&sent, &body(2000), 0, 1024, b""));
    alone.pass(Duration::from_secs(100));
    while alone.sent().is_some() {}
    assert_eq!(result(&mut alone, id), Err(Failure::Timeout));
}

#[test]
fn a_fetch_asks_in_blocks_and_is_answered_in_blocks() {
    let mut alone = Alone::new();
    let whole = body(1500);
    let (id, sent) = request(&mut alone, Code::FETCH, body(1030));
    let mut reply = answer(&sent, Code::CONTINUE);
    reply.options.block1 = sent.options.block1;
    alone.receive(&reply);
    let last = alone.sent().unwrap();
    assert_eq!(last.options.block1, block(1, false, 1024));
    let mut first = piece(&last, &whole, 0, 1024, b"");
    first.options.block1 = last.options.block1;
    alone.receive(&first);
    let next = alone.sent().unwrap();
    // Similar to the requests before, without Block1 (RFC 7959 §2.7).
    assert_eq!(next.code, Code::FETCH);
    assert_eq!(next.options.block1, None);
    assert_eq!(next.options.block2, block(1, false, 1024));
    assert!(next.payload.is_empty());
    alone.receive(&piece(&next, &whole, 1, 1024, b""));
    assert_eq!(result(&mut alone, id).unwrap().payload, whole);
}

#[test]
fn a_fetch_of_one_message_repeats_its_body_for_each_block() {
    let mut alone = Alone::new();
    let whole = body(1500);
    let (id, sent) = request(&mut alone, Code::FETCH, body(20));
    alone.receive(&piece(&sent, &whole, 0, 1024, b""));
    let next = alone.sent().unwrap();
    assert_eq!(next.payload, body(20));
    assert_eq!(next.options.content_format, Some(42));
    alone.receive(&piece(&next, &whole, 1, 1024, b""));
    assert_eq!(result(&mut alone, id).unwrap().payload, whole);
}

/// Answers a block with 2.31.
fn go_on(alone: &mut Alone, sent: &Message) {
    let mut reply = answer(sent, Code::CONTINUE);
    reply.options.block1 = sent.options.block1;
    alone.receive(&reply);
}

fn progress(alone: &mut Alone) -> usize {
    match alone.event() {
        Some(Event::Progress { position, .. }) => position.offset,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_upload_goes_on_where_an_earlier_one_came_to_and_begins_anew_after_4_08() {
    let mut alone = Alone::new();
    let whole = bytes::Bytes::from(body(2500));
    let from = Position {
        offset: 1024,
        block_size: 512,
    };
    let request = Request::new(Code::PUT, ["5", "0", "0"]);
    let id = alone
        .endpoint
        .upload(alone.now, peer(1), request, whole.clone(), from)
        .unwrap();
    let sent = alone.sent().unwrap();
    assert_eq!(sent.options.block1, block(2, true, 512));
    assert_eq!(sent.payload, whole[1024..1536]);
    go_on(&mut alone, &sent);
    assert_eq!(progress(&mut alone), 1536);
    let sent = alone.sent().unwrap();
    assert_eq!(sent.options.block1, block(3, true, 512));
    alone.receive(&answer(&sent, Code::REQUEST_ENTITY_INCOMPLETE));
    assert_eq!(progress(&mut alone), 0);
    let mut sent = alone.sent().unwrap();
    assert_eq!(sent.options.block1, block(0, true, 512));
    assert_eq!(sent.options.size1, Some(2500));
    for offset in [512, 1024, 1536, 2048] {
        go_on(&mut alone, &sent);
        assert_eq!(progress(&mut alone), offset);
        sent = alone.sent().unwrap();
    }
    assert_eq!(sent.options.block1, block(4, false, 512));
    alone.receive(&answer(&sent, Code::CHANGED));
    assert_eq!(result(&mut alone, id).unwrap().code, Code::CHANGED);
}

#[test]
fn between_two_blocks_of_an_upload_another_request_has_its_turn() {
    let mut alone = Alone::new();
    let whole = bytes::Bytes::from(body(2500));
    let put = Request::new(Code::PUT, ["5", "0", "0"]);
    alone
        .endpoint
        .upload(alone.now, peer(1), put, whole, Position::START)
        .unwrap();
    let sent = alone.sent().unwrap();
    let read = Request::new(Code::GET, ["3", "0"]);
    alone.endpoint.request(alone.now, peer(1), read).unwrap();
    assert!(alone.sent().is_none());
    go_on(&mut alone, &sent);
    assert_eq!(progress(&mut alone), 1024);
    let read = alone.sent().unwrap();
    assert_eq!(read.code, Code::GET);
    assert!(alone.sent().is_none());
    alone.receive(&answer(&read, Code::CONTENT));
    assert!(matches!(alone.event(), Some(Event::Response { .. })));
    let sent = alone.sent().unwrap();
    assert_eq!(sent.options.block1, block(1, true, 1024));
}
