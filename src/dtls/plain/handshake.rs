//! The handshake of a session without cryptography: the messages of a PSK handshake (RFC 6347
//! §4.2, RFC 4279 §2), of which the Finished proves the key by its checksum.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::dtls::hello::{self, ClientHello};
use crate::dtls::plain::session::{Key, Keyed, Message, Out, PlainSession, Stage};
use crate::dtls::record::{Reader, Record, content};
use crate::dtls::{Fatal, PeerIdentity};
use crate::time::Now;

const SERVER_HELLO: u8 = 2;
const SERVER_HELLO_DONE: u8 = 14;
const CLIENT_KEY_EXCHANGE: u8 = 16;
const FINISHED: u8 = 20;

/// The extension `connection_id` (RFC 9146 §3).
const CONNECTION_ID: u64 = 54;

/// Retransmissions of a flight.
const MOST_TRIES: u32 = 6;

const HANDSHAKE_FAILURE: u8 = 40;
const BAD_RECORD_MAC: u8 = 20;
const PROTOCOL_VERSION: u8 = 70;

impl PlainSession {
    /// Client: sends its hello, with a cookie if it has one.
    pub(super) fn say_hello(&mut self, now: Now) {
        let Some(handshake) = &mut self.handshake else {
            return;
        };
        let mut body = vec![0xfe, 0xfd];
        body.extend(handshake.random);
        body.push(0);
        body.push(handshake.cookie.len() as u8);
        body.extend(&handshake.cookie);
        body.extend((handshake.suites.len() as u16 * 2).to_be_bytes());
        for suite in &handshake.suites {
            body.extend(suite.to_be_bytes());
        }
        body.extend([1, 0]);
        if handshake.offers_cid {
            body.extend(connection_id(&self.own_cid));
        }
        let hello = self.message(hello::CLIENT_HELLO, &body);
        self.fly(now, vec![hello]);
    }

    /// A record of epoch 0 during the handshake.
    pub(super) fn shake_hands(&mut self, now: Now, record: &Record<'_>) -> Result<(), Fatal> {
        if record.content == content::ALERT {
            return match record.fragment {
                [2, alert] => Err(Fatal::Alert(*alert)),
                _ => Ok(()),
            };
        }
        if hello::is_client_hello(record) {
            return self.client_hello(now, record);
        }
        if record.content != content::HANDSHAKE {
            return Ok(());
        }
        // What is malformed has no effect.
        let Some((kind, body)) = message_in(record.fragment) else {
            return Ok(());
        };
        match (self.stage, kind) {
            (Stage::AwaitServerHello, hello::HELLO_VERIFY_REQUEST) => {
                let mut body = Reader(body);
                body.take(2);
                if let Some(cookie) = body.vector(1)
                    && let Some(handshake) = &mut self.handshake
                    && handshake.cookie.is_empty()
                {
                    handshake.cookie = cookie.to_vec();
                    self.say_hello(now);
                }
            }
            (Stage::AwaitServerHello, SERVER_HELLO) => {
                self.server_hello(body);
            }
            (Stage::AwaitServerHello, SERVER_HELLO_DONE) if self.suite != 0 => {
                self.answer_server(now);
            }
            (Stage::AwaitServerFinished, SERVER_HELLO_DONE) => self.resend(now),
            (Stage::AwaitFinished, CLIENT_KEY_EXCHANGE) => {
                if let Some(identity) = Reader(body).vector(2) {
                    self.key_exchange(identity);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Server: the hello whose cookie the mux has proven.
    fn client_hello(&mut self, now: Now, record: &Record<'_>) -> Result<(), Fatal> {
        let (Some(hello), Some(handshake)) = (ClientHello::parse(record), &mut self.handshake)
        else {
            return Ok(());
        };
        if self.stage == Stage::AwaitFinished {
            self.resend(now);
            return Ok(());
        }
        if self.stage != Stage::AwaitClientHello {
            return Ok(());
        }
        if hello.cookie != handshake.cookie {
            return Err(Fatal::Protocol("it proved another cookie".into()));
        }
        if hello.version >> 8 != 0xfe || hello.version > 0xfefd {
            return Err(self.give_up(PROTOCOL_VERSION, Fatal::Version));
        }
        let served = |suite: &u16| handshake.suites.contains(suite);
        let Some(suite) = hello.suites.iter().find(served) else {
            let offered = hello.suites.iter().collect();
            return Err(self.give_up(HANDSHAKE_FAILURE, Fatal::NoCommonSuite { offered }));
        };
        handshake.peer_random = hello.random;
        let mut body = vec![0xfe, 0xfd];
        body.extend(handshake.random);
        body.push(0);
        body.extend(suite.to_be_bytes());
        body.push(0);
        self.suite = suite;
        match connection_id_in(hello.extensions) {
            Some(cid) if !self.own_cid.is_empty() => {
                self.peer_cid = cid.to_vec();
                body.extend(connection_id(&self.own_cid));
            }
            _ => self.own_cid.clear(),
        }
        self.stage = Stage::AwaitFinished;
        let flight = vec![
            self.message(SERVER_HELLO, &body),
            self.message(SERVER_HELLO_DONE, &[]),
        ];
        self.fly(now, flight);
        Ok(())
    }

    /// Client: what the server chose.
    fn server_hello(&mut self, body: &[u8]) -> Option<()> {
        let mut body = Reader(body);
        body.take(2)?;
        let random = body.array()?;
        body.vector(1)?;
        let suite = body.uint(2)? as u16;
        body.take(1)?;
        let handshake = self.handshake.as_mut()?;
        if !handshake.suites.contains(&suite) {
            return None;
        }
        handshake.peer_random = random;
        self.suite = suite;
        match body.vector(2).and_then(connection_id_in) {
            Some(cid) => self.peer_cid = cid.to_vec(),
            None => self.own_cid.clear(),
        }
        Some(())
    }

    /// Client: says who it is, and proves it.
    fn answer_server(&mut self, now: Now) {
        let Some(handshake) = &self.handshake else {
            return;
        };
        let mut body = (handshake.identity.len() as u16).to_be_bytes().to_vec();
        body.extend(&handshake.identity);
        let exchange = self.message(CLIENT_KEY_EXCHANGE, &body);
        self.derive();
        self.stage = Stage::AwaitServerFinished;
        let mut flight = vec![exchange];
        flight.extend(self.closing());
        self.fly(now, flight);
    }

    /// Server: who the client says to be.
    fn key_exchange(&mut self, identity: &[u8]) {
        let Some(handshake) = &mut self.handshake else {
            return;
        };
        handshake.identity = identity.to_vec();
        handshake.psk = handshake
            .lookup
            .as_ref()
            .and_then(|lookup| lookup.psk(identity));
        self.derive();
    }

    /// The keys of both directions, of the PSK and both randoms. Whoever is not known gets keys
    /// that nobody has.
    fn derive(&mut self) {
        let Some(handshake) = &self.handshake else {
            return;
        };
        let (client, server) = if self.is_server {
            (&handshake.peer_random, &handshake.random)
        } else {
            (&handshake.random, &handshake.peer_random)
        };
        let psk = handshake.psk.as_ref().map(|psk| psk.expose());
        let key = |label: u8| -> Key {
            let half = |half: u8| {
                let mut hasher = SipHasher13::new();
                hasher.write(&[label, half, u8::from(psk.is_none())]);
                hasher.write(client);
                hasher.write(server);
                hasher.write(psk.unwrap_or_default());
                u128::from(hasher.finish())
            };
            (half(0) << 64 | half(1)).to_be_bytes()
        };
        let (own, peer) = (u8::from(self.is_server), u8::from(!self.is_server));
        self.keys = Some(Keyed {
            send: key(own),
            receive: key(peer),
        });
    }

    /// The end of either side's part: ChangeCipherSpec and Finished.
    fn closing(&mut self) -> [Message; 2] {
        let mut finished = self.message(FINISHED, &[0; 12]);
        finished.epoch = 1;
        let change = Message {
            epoch: 0,
            content: content::CHANGE_CIPHER_SPEC,
            bytes: vec![1],
        };
        [change, finished]
    }

    /// A genuine handshake message under the new keys.
    pub(super) fn finished(&mut self, fragment: &[u8]) {
        if message_in(fragment).is_none_or(|(kind, _)| kind != FINISHED) {
            return;
        }
        match self.stage {
            Stage::AwaitFinished | Stage::AwaitServerFinished => {
                let Some(handshake) = &mut self.handshake else {
                    return;
                };
                let identity = std::mem::take(&mut handshake.identity);
                self.stage = Stage::Established;
                if self.is_server {
                    self.send_closing();
                }
                self.handshake = None;
                let identity = PeerIdentity::Psk(identity);
                self.out.push_back(Out::Established(identity));
            }
            // Ours got lost, so the client repeats its own.
            Stage::Established if self.is_server => self.send_closing(),
            _ => {}
        }
    }

    fn send_closing(&mut self) {
        let messages = self.closing();
        let datagram = messages
            .iter()
            .flat_map(|at| self.seal(at.epoch, at.content, &at.bytes))
            .collect();
        self.out.push_back(Out::Send(datagram));
    }

    /// A protected record that is not genuine. Where the client's Finished is awaited, it tells
    /// that the keys differ.
    pub(super) fn refuse(&mut self, record: &Record<'_>) -> Result<(), Fatal> {
        let is_finished = matches!(record.content, content::HANDSHAKE | content::CID);
        if self.stage != Stage::AwaitFinished || self.keys.is_none() || !is_finished {
            return Ok(());
        }
        let Some(handshake) = &self.handshake else {
            return Ok(());
        };
        let identity = handshake.identity.clone();
        let reason = match handshake.psk {
            Some(_) => Fatal::WrongKey { identity },
            None => Fatal::UnknownIdentity { identity },
        };
        Err(self.give_up(BAD_RECORD_MAC, reason))
    }

    /// Says a fatal alert.
    fn give_up(&mut self, alert: u8, reason: Fatal) -> Fatal {
        let record = self.seal(0, content::ALERT, &[2, alert]);
        self.out.push_back(Out::Send(record));
        reason
    }

    /// Sends a flight, and again until the other side goes on.
    fn fly(&mut self, now: Now, flight: Vec<Message>) {
        if let Some(handshake) = &mut self.handshake {
            handshake.flight = flight;
            handshake.tries = 0;
        }
        self.resend(now);
    }

    fn resend(&mut self, now: Now) {
        let Some(mut handshake) = self.handshake.take() else {
            return;
        };
        let datagram = handshake
            .flight
            .iter()
            .flat_map(|at| self.seal(at.epoch, at.content, &at.bytes))
            .collect();
        self.out.push_back(Out::Send(datagram));
        handshake.retransmit = Some(now.instant + handshake.wait * (1 << handshake.tries));
        self.handshake = Some(handshake);
    }

    /// The other side did not go on in time.
    pub(super) fn retransmit(&mut self, now: Now) -> Result<(), Fatal> {
        let Some(handshake) = &mut self.handshake else {
            return Ok(());
        };
        if handshake.retransmit.is_none_or(|at| at > now.instant) {
            return Ok(());
        }
        if handshake.tries >= MOST_TRIES {
            return Err(Fatal::TimedOut);
        }
        handshake.tries += 1;
        self.resend(now);
        Ok(())
    }

    /// A handshake message, whole.
    fn message(&mut self, kind: u8, body: &[u8]) -> Message {
        let number = match &mut self.handshake {
            Some(handshake) => {
                handshake.next_message += 1;
                handshake.next_message - 1
            }
            // The Finished, said again.
            None => 2,
        };
        let length = (body.len() as u32).to_be_bytes();
        let mut bytes = vec![kind];
        bytes.extend(&length[1..]);
        bytes.extend(number.to_be_bytes());
        bytes.extend([0; 3]);
        bytes.extend(&length[1..]);
        bytes.extend(body);
        Message {
            epoch: 0,
            content: content::HANDSHAKE,
            bytes,
        }
    }
}

/// Type and body of a handshake message that came whole.
fn message_in(fragment: &[u8]) -> Option<(u8, &[u8])> {
    let mut from = Reader(fragment);
    let kind = from.uint(1)? as u8;
    let length = from.uint(3)?;
    from.take(2)?;
    let (offset, fragment_length) = (from.uint(3)?, from.uint(3)?);
    (offset == 0 && fragment_length == length && length == from.0.len() as u64)
        .then_some((kind, from.0))
}

/// The extensions of a hello: the connection ID that the sender wants.
fn connection_id(cid: &[u8]) -> Vec<u8> {
    let length = cid.len() as u8;
    let mut extensions = vec![0, 5 + length, 0, CONNECTION_ID as u8, 0, 1 + length, length];
    extensions.extend(cid);
    extensions
}

/// The connection ID among extensions.
fn connection_id_in(extensions: &[u8]) -> Option<&[u8]> {
    let mut from = Reader(extensions);
    loop {
        let (kind, content) = (from.uint(2)?, from.vector(2)?);
        if kind == CONNECTION_ID {
            return Reader(content).vector(1);
        }
    }
}
