//! One message and its datagram (RFC 7252 §3).
//!
//! coap-lite does the coding; what it lets pass is refused here before it, on the raw bytes. None
//! of its types leave this file.

use coap_lite::{CoapOption, MessageClass, MessageType, Packet};

use crate::coap::option::{OptionFault, Options};
use crate::coap::types::{Code, Token};

/// The type of a message (RFC 7252 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Confirmable,
    NonConfirmable,
    Acknowledgement,
    Reset,
}

/// A message, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) code: Code,
    pub(super) id: u16,
    pub(super) token: Token,
    pub(super) options: Options,
    pub(super) payload: Vec<u8>,
}

/// A datagram that is a message.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) message: Message,
    /// Why the message cannot be used though its form is right; `message.options` lack the rest.
    pub(super) fault: Option<OptionFault>,
}

/// A datagram that is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// Shorter than a header.
    Short,
    /// Another version than 1: to be ignored silently (RFC 7252 §3).
    Version,
    /// A message format error, or a reserved code class (RFC 7252 §3, §4.2).
    Format {
        /// Whether it is to be answered with Reset (RFC 7252 §4.2); else it is ignored (§4.3).
        confirmable: bool,
        /// Its Message ID.
        id: u16,
    },
}

/// The payload marker.
const MARKER: u8 = 0xff;

impl Message {
    /// Takes a datagram apart.
    pub(super) fn parse(datagram: &[u8]) -> Result<Parsed, Malformed> {
        let [first, code, id_high, id_low, rest @ ..] = datagram else {
            return Err(Malformed::Short);
        };
        if first >> 6 != 1 {
            return Err(Malformed::Version);
        }
        let kind = match first >> 4 & 3 {
            0 => Kind::Confirmable,
            1 => Kind::NonConfirmable,
            2 => Kind::Acknowledgement,
            _ => Kind::Reset,
        };
        let id = u16::from_be_bytes([*id_high, *id_low]);
        let format = Malformed::Format {
            confirmable: kind == Kind::Confirmable,
            id,
        };
        let code = Code(*code);
        let token_length = usize::from(first & 0x0f);
        let well_formed = if code == Code::EMPTY {
            token_length == 0 && rest.is_empty()
        } else {
            // 3.xx is as unassigned as the classes that the RFC calls reserved.
            let usable = matches!(code.class(), 0 | 2 | 4 | 5);
            usable && token_length <= 8 && are_options_and_payload(rest.get(token_length..))
        };
        if !well_formed {
            return Err(format);
        }
        let packet = Packet::from_bytes(datagram).map_err(|_| format)?;
        let mut options = Options::default();
        let fault = packet
            .options()
            .flat_map(|(number, values)| values.iter().map(|value| (*number, value)))
            .try_for_each(|(number, value)| options.take(number, value))
            .err();
        Ok(Parsed {
            message: Self {
                kind,
                code,
                id,
                token: Token::new(packet.get_token()).ok_or(format)?,
                options,
                payload: packet.payload,
            },
            fault,
        })
    }

    /// Puts the datagram together.
    pub(super) fn encode(self) -> Vec<u8> {
        let mut packet = Packet::new();
        packet.header.set_version(1);
        packet.header.set_type(match self.kind {
            Kind::Confirmable => MessageType::Confirmable,
            Kind::NonConfirmable => MessageType::NonConfirmable,
            Kind::Acknowledgement => MessageType::Acknowledgement,
            Kind::Reset => MessageType::Reset,
        });
        packet.header.code = MessageClass::from(self.code.0);
        packet.header.message_id = self.id;
        packet.set_token(self.token.as_bytes().to_vec());
        self.options
            .each(|number, value| packet.add_option(CoapOption::from(number), value));
        packet.payload = self.payload;
        // It can only fail for want of room, and the vector grows.
        packet.to_bytes_unlimited().unwrap_or_default()
    }

    /// The datagram of an Empty message: Acknowledgement, Reset, or a ping.
    pub(super) fn empty(kind: Kind, id: u16) -> Vec<u8> {
        let [high, low] = id.to_be_bytes();
        let kind = match kind {
            Kind::Confirmable => 0,
            Kind::NonConfirmable => 1,
            Kind::Acknowledgement => 2,
            Kind::Reset => 3,
        };
        vec![1 << 6 | kind << 4, 0, high, low]
    }
}

/// Whether the bytes behind the token are options, then nothing or a marker with a payload behind
/// it. Nibbles of 15 are reserved (RFC 7252 §3.1).
fn are_options_and_payload(bytes: Option<&[u8]>) -> bool {
    let Some(mut bytes) = bytes else {
        return false;
    };
    let mut number = 0;
    while let [first, rest @ ..] = bytes {
        if *first == MARKER {
            return !rest.is_empty();
        }
        let Some((delta, rest)) = extended(first >> 4, rest) else {
            return false;
        };
        let Some((length, rest)) = extended(first & 0x0f, rest) else {
            return false;
        };
        number += delta;
        let Some(rest) = rest.get(length..) else {
            return false;
        };
        if number > usize::from(u16::MAX) {
            return false;
        }
        bytes = rest;
    }
    true
}

/// A delta or length whose nibble may announce one or two further bytes.
fn extended(nibble: u8, bytes: &[u8]) -> Option<(usize, &[u8])> {
    match (nibble, bytes) {
        (0..=12, _) => Some((usize::from(nibble), bytes)),
        (13, [low, rest @ ..]) => Some((usize::from(*low) + 13, rest)),
        (14, [high, low, rest @ ..]) => {
            let value = u16::from_be_bytes([*high, *low]);
            Some((usize::from(value) + 269, rest))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, RngExt, SeedableRng};

    use super::*;
    use crate::coap::block::Block;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    fn message(kind: Kind, code: Code, id: u16, token: &[u8]) -> Message {
        Message {
            kind,
            code,
            id,
            token: Token::new(token).unwrap(),
            options: Options::default(),
            payload: Vec::new(),
        }
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    /// Messages of LwM2M as its transport specification words them.
    fn vectors() -> Vec<(&'static str, Message)> {
        use Kind::{Acknowledgement, Confirmable, NonConfirmable};
        let uri = |path: &[&str], query: &[&str]| Options {
            uri_path: strings(path),
            uri_query: strings(query),
            ..Options::default()
        };
        let mut vectors = Vec::new();

        let mut register = message(Confirmable, Code::POST, 0x1234, &[0xab]);
        register.options = uri(&["rd"], &["ep=gw1", "lt=86400", "lwm2m=1.1", "b=U"]);
        register.options.content_format = Some(40);
        register.payload = b"</1/0>,</3/0>".to_vec();
        vectors.push((
            "41021234abb2726411283665703d677731086c743d3836343030096c776d326d3d312e3103623d55ff3c2f312f303e2c3c2f332f303e",
            register,
        ));

        let mut created = message(Acknowledgement, Code::CREATED, 0x1234, &[0xab]);
        created.options.location_path = strings(&["rd", "5a3f"]);
        vectors.push(("61411234ab8272640435613366", created));

        let mut update = message(Confirmable, Code::POST, 0x1235, &[0xac]);
        update.options = uri(&["rd", "5a3f"], &[]);
        vectors.push(("41021235acb272640435613366", update));

        let mut read = message(Confirmable, Code::GET, 0x2001, &[1]);
        read.options = uri(&["3", "0"], &[]);
        read.options.accept = Some(11542);
        vectors.push(("4101200101b1330130622d16", read));

        let mut observe = message(Confirmable, Code::GET, 0x2002, &[2]);
        observe.options = uri(&["3303", "0", "5700"], &[]);
        observe.options.observe = Some(0);
        observe.options.accept = Some(112);
        vectors.push(("4101200202605433333033013004353730306170", observe));

        let mut notify = message(NonConfirmable, Code::CONTENT, 0x7001, &[2]);
        notify.options.observe = Some(12);
        notify.options.content_format = Some(112);
        notify.payload = bytes("81a2006c2f333330332f302f3537303002fb403619999999999a");
        vectors.push((
            "5145700102610c6170ff81a2006c2f333330332f302f3537303002fb403619999999999a",
            notify,
        ));

        let mut write_attributes = message(Confirmable, Code::PUT, 0x2003, &[3]);
        write_attributes.options = uri(&["3303", "0", "5700"], &["pmin=5", "pmax=60"]);
        vectors.push((
            "4103200303b4333330330130043537303046706d696e3d3507706d61783d3630",
            write_attributes,
        ));

        let mut fetch = message(Confirmable, Code::FETCH, 0x2004, &[4]);
        fetch.options.content_format = Some(112);
        fetch.options.accept = Some(112);
        fetch.payload = bytes("82a100672f332f302f3136a100642f312f30");
        vectors.push((
            "4105200404c1705170ff82a100672f332f302f3136a100642f312f30",
            fetch,
        ));

        let mut send = message(Confirmable, Code::POST, 0x3001, &[5]);
        send.options = uri(&["dp"], &[]);
        send.options.content_format = Some(110);
        send.payload = br#"[{"n":"/3/0/9","v":10}]"#.to_vec();
        vectors.push((
            "4102300105b26470116eff5b7b226e223a222f332f302f39222c2276223a31307d5d",
            send,
        ));

        let mut bootstrap_request = message(Confirmable, Code::POST, 0x4001, &[6]);
        bootstrap_request.options = uri(&["bs"], &["ep=gw1", "pct=112"]);
        vectors.push((
            "4102400106b262734665703d677731077063743d313132",
            bootstrap_request,
        ));

        let mut bootstrap_finish = message(Confirmable, Code::POST, 0x4002, &[7]);
        bootstrap_finish.options = uri(&["bs"], &[]);
        vectors.push(("4102400207b26273", bootstrap_finish));

        let mut trigger = message(Confirmable, Code::POST, 0xb60b, &[0x21, 0x61, 0xfb, 0x63]);
        trigger.options = uri(&["1", "0", "8"], &[]);
        vectors.push(("4402b60b2161fb63b13101300138", trigger));
        vectors
    }

    #[test]
    fn the_messages_of_lwm2m_are_read_and_written_byte_for_byte() {
        for (hex, message) in vectors() {
            let parsed = Message::parse(&bytes(hex)).unwrap();
            assert_eq!(parsed.fault, None, "{hex}");
            assert_eq!(parsed.message, message, "{hex}");
            assert_eq!(message.encode(), bytes(hex));
        }
    }

    #[test]
    fn all_options_come_back_as_they_were_written() {
        let mut message = message(
            Kind::NonConfirmable,
            Code::CONTENT,
            7,
            &[1, 2, 3, 4, 5, 6, 7, 8],
        );
        message.options = Options {
            uri_path: strings(&["", "a", &"x".repeat(255)]),
            uri_query: strings(&["b=", &"y".repeat(13)]),
            location_path: strings(&["rd", "1"]),
            content_format: Some(0),
            accept: Some(65_535),
            observe: Some(0xff_ffff),
            max_age: Some(u32::MAX),
            etag: crate::coap::option::Tag::new(b"e"),
            block1: Block::parse(&[0xff, 0xff, 0xfe]).unwrap().ok(),
            block2: Block::parse(&[0x01, 0x00, 0x0e]).unwrap().ok(),
            size1: Some(1),
            size2: Some(70_000),
            request_tag: vec![crate::coap::option::Tag::new(b"").unwrap()],
            ..Options::default()
        };
        // coap-lite would stop at 1280 bytes.
        message.payload = vec![1; 1500];
        let parsed = Message::parse(&message.clone().encode()).unwrap();
        assert_eq!(parsed.fault, None);
        assert_eq!(parsed.message, message);
    }

    #[test]
    fn every_usable_code_survives() {
        for code in (1..=0xff).map(Code) {
            let datagram = message(Kind::Confirmable, code, 1, &[9]).encode();
            assert_eq!(datagram[1], code.0);
            match Message::parse(&datagram) {
                Ok(parsed) => assert_eq!(parsed.message.code, code),
                Err(_) => assert!(matches!(code.class(), 1 | 3 | 6 | 7)),
            }
        }
    }

    #[test]
    fn what_is_malformed_is_told_apart() {
        const RESET: Malformed = Malformed::Format {
            confirmable: true,
            id: 0x0102,
        };
        const IGNORE: Malformed = Malformed::Format {
            confirmable: false,
            id: 0x0102,
        };
        let cases = [
            ("", Malformed::Short),
            ("400101", Malformed::Short),
            ("00010102", Malformed::Version),
            ("80010102", Malformed::Version),
            ("c0010102", Malformed::Version),
            // token: reserved length, cut off
            ("49010102000000000000000000", RESET),
            ("4f010102000000000000000000000000000000", RESET),
            ("4201010200", RESET),
            // Empty with a token, an option, a payload
            ("4100010200", RESET),
            ("40000102b161", RESET),
            ("60000102ff61", IGNORE),
            // marker without payload
            ("40010102ff", RESET),
            ("50010102b161ff", IGNORE),
            // delta and length of 15
            ("40010102f0", RESET),
            ("400101020f", RESET),
            ("70450102f1ff", IGNORE),
            // option cut off: value, extended delta, extended length
            ("40010102b36162", RESET),
            ("40010102d0", RESET),
            ("40010102e001", RESET),
            ("401001020d", RESET),
            ("400101020e01", RESET),
            // option number beyond 16 bit
            ("40010102e0ffff", RESET),
            ("40010102e0fef210", RESET),
            // classes 1, 3, 6, 7
            ("40200102", RESET),
            ("50600102", IGNORE),
            ("40c00102", RESET),
            ("60ff0102", IGNORE),
        ];
        for (hex, malformed) in cases {
            assert_eq!(Message::parse(&bytes(hex)).unwrap_err(), malformed, "{hex}");
        }
    }

    #[test]
    fn faulty_options_leave_the_rest_of_the_message_readable() {
        let parsed = Message::parse(&bytes("4101010255905a")).unwrap_err();
        assert!(matches!(parsed, Malformed::Format { .. }));
        // Uri-Path "a", then option 2049
        let parsed = Message::parse(&bytes("4101010277b161e006e9")).unwrap();
        assert_eq!(parsed.fault, Some(OptionFault::Critical(2049)));
        assert_eq!(parsed.message.token.as_bytes(), [0x77]);
    }

    #[test]
    fn arbitrary_bytes_and_damaged_messages_never_panic() {
        let mut rng = StdRng::from_seed([3; 32]);
        let vectors = vectors();
        let mut accepted = 0;
        for round in 0..60_000_usize {
            let mut datagram = if round % 4 == 0 {
                let mut noise = vec![0; rng.random_range(0..64)];
                rng.fill_bytes(&mut noise);
                noise
            } else {
                bytes(vectors[round % vectors.len()].0)
            };
            for _ in 0..rng.random_range(0..4) {
                if let Some(length) = std::num::NonZero::new(datagram.len()) {
                    let at = rng.random_range(0..length.get());
                    datagram[at] = rng.random();
                }
            }
            datagram.truncate(rng.random_range(0..=datagram.len() + 8));
            if let Ok(mut parsed) = Message::parse(&datagram) {
                accepted += 1;
                // Read and not written.
                parsed.message.options.uri_host = false;
                parsed.message.options.uri_port = false;
                if parsed.fault.is_none() {
                    let again = Message::parse(&parsed.message.clone().encode()).unwrap();
                    assert_eq!(again.message, parsed.message);
                }
            }
        }
        assert!(accepted > 1_000);
    }
}
