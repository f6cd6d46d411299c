//! A device of a few bytes, written without the project's CoAP: registers, answers, notifies.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::time::timeout;

const CON: u8 = 0;
const ACK: u8 = 2;
const RESET: u8 = 3;
const PUT: u8 = 3;
const CREATED: u8 = 0x41;
const CHANGED: u8 = 0x44;
const CONTENT: u8 = 0x45;
const NOT_FOUND: u8 = 0x84;
const SENML_JSON: [u8; 1] = [110];

/// Object 3303 with one instance, observed as soon as the gateway wishes.
pub(crate) struct Device {
    socket: Arc<UdpSocket>,
    server: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Something came in.
    stirred: Arc<Notify>,
}

#[derive(Default)]
struct State {
    value: u32,
    /// The token of the observation of /3303/0.
    observer: Option<Vec<u8>>,
    /// How often it was asked for.
    observed: u32,
    /// How many of its notifications were rejected.
    resets: u32,
    sequence: u32,
    message_id: u16,
    acknowledged: BTreeSet<u16>,
    /// Reads of a resource are not answered for now.
    holds: bool,
    held: Option<Vec<u8>>,
    /// What was written, in order.
    written: Vec<String>,
}

impl State {
    fn next_id(&mut self) -> u16 {
        self.message_id += 1;
        self.message_id
    }

    fn payload(&self) -> Vec<u8> {
        format!(r#"[{{"n":"/3303/0/5700","v":{}}}]"#, self.value).into()
    }
}

impl Device {
    /// Registered, and observed by the gateway.
    pub(crate) async fn register(server: SocketAddr, name: &str, value: u32) -> Self {
        Self::register_as(server, name, value, &["b=U"]).await
    }

    /// The same, with queries of its own: `Q` is queue mode.
    pub(crate) async fn register_as(
        server: SocketAddr,
        name: &str,
        value: u32,
        queries: &[&str],
    ) -> Self {
        let device = Self {
            socket: Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap()),
            server,
            state: Arc::default(),
            stirred: Arc::default(),
        };
        device.state.lock().unwrap().value = value;
        let mut register = message(CON, 0x02, 0, b"r");
        let endpoint = format!("ep={name}");
        let queries = [&[&*endpoint, "lt=300", "lwm2m=1.1"], queries].concat();
        options(
            &mut register,
            [(11, &b"rd"[..]), (12, &[40])]
                .into_iter()
                .chain(queries.iter().map(|query| (15, query.as_bytes()))),
        );
        register.push(0xFF);
        register.extend_from_slice(b"</>;rt=\"oma.lwm2m\";ct=110,</3303/0>");
        device.socket.send_to(&register, server).await.unwrap();
        let (socket, state) = (device.socket.clone(), device.state.clone());
        let stirred = device.stirred.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            loop {
                // Nobody may be there just now.
                let Ok((len, from)) = socket.recv_from(&mut buffer).await else {
                    continue;
                };
                let answer = answer(&buffer[..len], &mut state.lock().unwrap());
                stirred.notify_waiters();
                if let Some(answer) = answer {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        device
            .soon("observed", |state| state.observer.is_some())
            .await;
        device
    }

    /// Sends a confirmable notification until the gateway has acknowledged it: accepted.
    pub(crate) async fn notify(&self, value: u32) {
        self.insist(value, Duration::from_secs(3), Duration::from_secs(12))
            .await;
    }

    /// The same, repeated so often and for so long.
    pub(crate) async fn insist(&self, value: u32, every: Duration, patience: Duration) {
        let (id, notification) = {
            let mut state = self.state.lock().unwrap();
            state.value = value;
            state.sequence += 1;
            let id = state.next_id();
            let token = state.observer.clone().unwrap();
            let mut bytes = message(CON, CONTENT, id, &token);
            let number = state.sequence.to_be_bytes();
            options(&mut bytes, [(6, &number[1..]), (12, &SENML_JSON[..])]);
            bytes.push(0xFF);
            bytes.extend_from_slice(&state.payload());
            (id, bytes)
        };
        let insisting = async {
            loop {
                // Where nobody listens, the system says so.
                let _ = self.socket.send_to(&notification, self.server).await;
                let acknowledged = self.until(|state| state.acknowledged.remove(&id));
                if timeout(every, acknowledged).await.is_ok() {
                    return;
                }
            }
        };
        let acknowledged = timeout(patience, insisting).await;
        acknowledged.unwrap_or_else(|_| panic!("the notification of {value} was not acknowledged"));
    }

    /// The next read of a resource is not answered before [`Device::release`].
    pub(crate) fn hold(&self) {
        self.state.lock().unwrap().holds = true;
    }

    /// How often the gateway wanted it observed.
    pub(crate) fn observed(&self) -> u32 {
        self.state.lock().unwrap().observed
    }

    /// How many of its notifications were rejected.
    pub(crate) fn resets(&self) -> u32 {
        self.state.lock().unwrap().resets
    }

    /// What was written so far, as it came.
    pub(crate) fn written(&self) -> Vec<String> {
        self.state.lock().unwrap().written.clone()
    }

    /// Answers the read that was held.
    pub(crate) async fn release(&self) {
        self.soon("asked", |state| state.held.is_some()).await;
        let held = self.state.lock().unwrap().held.take().unwrap();
        self.socket.send_to(&held, self.server).await.unwrap();
    }

    async fn soon(&self, what: &str, holds: impl FnMut(&mut State) -> bool) {
        let holds = timeout(Duration::from_secs(20), self.until(holds)).await;
        holds.unwrap_or_else(|_| panic!("not {what}"));
    }

    async fn until(&self, mut holds: impl FnMut(&mut State) -> bool) {
        loop {
            let stirred = self.stirred.notified();
            let mut stirred = std::pin::pin!(stirred);
            stirred.as_mut().enable();
            if holds(&mut self.state.lock().unwrap()) {
                return;
            }
            stirred.await;
        }
    }
}

/// The header (RFC 7252 §3) and the token.
fn message(kind: u8, code: u8, id: u16, token: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x40 | kind << 4 | token.len() as u8, code];
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(token);
    bytes
}

/// Options in the order of their numbers, each value shorter than 269 bytes.
fn options<'a>(bytes: &mut Vec<u8>, options: impl IntoIterator<Item = (u8, &'a [u8])>) {
    let mut last = 0;
    for (number, value) in options {
        let delta = number - last;
        last = number;
        if value.len() < 13 {
            bytes.push(delta << 4 | value.len() as u8);
        } else {
            bytes.extend_from_slice(&[delta << 4 | 13, value.len() as u8 - 13]);
        }
        bytes.extend_from_slice(value);
    }
}

/// What the device answers to a datagram of the gateway.
fn answer(bytes: &[u8], state: &mut State) -> Option<Vec<u8>> {
    let (kind, code) = (bytes[0] >> 4 & 3, bytes[1]);
    let id = u16::from_be_bytes([bytes[2], bytes[3]]);
    let token = &bytes[4..4 + usize::from(bytes[0] & 0xF)];
    if kind == ACK {
        assert!(code == 0 || code == CREATED, "registered: {code:#x}");
        state.acknowledged.insert(id);
        return None;
    }
    if kind == RESET {
        state.resets += 1;
        return None;
    }
    let mut path = Vec::new();
    let mut observes = false;
    let (mut at, mut number) = (4 + token.len(), 0);
    while at < bytes.len() && bytes[at] != 0xFF {
        let (delta, mut len) = (bytes[at] >> 4, usize::from(bytes[at] & 0xF));
        at += 1;
        number += delta;
        if len == 13 {
            len = 13 + usize::from(bytes[at]);
            at += 1;
        }
        let value = &bytes[at..at + len];
        match number {
            6 => observes = value.is_empty(),
            11 => path.push(String::from_utf8_lossy(value).into_owned()),
            _ => {}
        }
        at += len;
    }
    let path = path.join("/");
    if !path.starts_with("3303") {
        return Some(message(ACK, NOT_FOUND, id, token));
    }
    if code == PUT {
        let payload = bytes.get(at + 1..).unwrap_or_default();
        state.written.push(String::from_utf8_lossy(payload).into());
        return Some(message(ACK, CHANGED, id, token));
    }
    let mut reply = message(ACK, CONTENT, id, token);
    if observes {
        state.observer = Some(token.to_vec());
        state.observed += 1;
        options(
            &mut reply,
            [(6, &state.sequence.to_be_bytes()[1..]), (12, &SENML_JSON)],
        );
    } else {
        options(&mut reply, [(12, &SENML_JSON[..])]);
    }
    reply.push(0xFF);
    reply.extend_from_slice(&state.payload());
    if !observes && std::mem::take(&mut state.holds) {
        state.held = Some(reply);
        return None;
    }
    Some(reply)
}
