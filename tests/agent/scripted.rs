//! A broker that follows a script: it records every PUBLISH, and misbehaves as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// What one connection is like; the last one of a script serves all later connections too.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    /// The answer to CONNECT; empty: the connection is closed.
    pub(crate) connack: Vec<u8>,
    /// After so many PUBLISHes the connection is closed, and the next one is not recorded.
    pub(crate) drop_after: usize,
    /// It acknowledges so many PUBLISHes, in order, and then none.
    pub(crate) acknowledge: usize,
    /// What it sends after the CONNACK.
    pub(crate) greeting: Vec<u8>,
    /// It reads nothing after the CONNECT for this long.
    pub(crate) deaf: Duration,
}

impl Act {
    /// A healthy MQTT 3.1.1 connection.
    pub(crate) fn v311() -> Self {
        Self {
            connack: vec![0x20, 2, 0, 0],
            drop_after: usize::MAX,
            acknowledge: usize::MAX,
            greeting: Vec::new(),
            deaf: Duration::ZERO,
        }
    }

    /// A healthy MQTT 5 connection; `resumed` is Session Present.
    pub(crate) fn v5(resumed: bool) -> Self {
        Self {
            connack: vec![0x20, 3, u8::from(resumed), 0, 0],
            ..Self::v311()
        }
    }

    /// Answers CONNECT with these bytes, or not at all.
    pub(crate) fn answer(connack: &[u8]) -> Self {
        Self {
            connack: connack.to_vec(),
            drop_after: 0,
            ..Self::v311()
        }
    }
}

/// A recorded PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) connection: usize,
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) id: u16,
    pub(crate) duplicate: bool,
    /// What is not acknowledged, a broker may have lost.
    pub(crate) acknowledged: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Record {
    /// The CONNECT packets: version byte and the bytes behind the fixed header.
    pub(crate) connects: Vec<Vec<u8>>,
    pub(crate) publishes: Vec<Seen>,
    pub(crate) subscribes: Vec<Vec<u8>>,
    /// Connections that ended with a DISCONNECT.
    pub(crate) disconnects: usize,
}

/// A scripted broker on a free port.
pub(crate) struct Scripted {
    pub(crate) port: u16,
    pub(crate) record: Arc<Mutex<Record>>,
}

impl Scripted {
    pub(crate) async fn start(script: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let record = Arc::new(Mutex::new(Record::default()));
        let mut script: VecDeque<Act> = script.into_iter().collect();
        let recorded = record.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let act = if script.len() > 1 {
                    script.pop_front().unwrap()
                } else {
                    script.front().unwrap().clone()
                };
                tokio::spawn(serve(stream, connection, act, recorded.clone()));
            }
        });
        Self { port, record }
    }

    /// The version bytes of the CONNECTs so far: 4 is 3.1.1, 5 is 5.
    pub(crate) fn versions(&self) -> Vec<u8> {
        let record = self.record.lock().unwrap();
        record.connects.iter().map(|body| body[6]).collect()
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    act: Act,
    record: Arc<Mutex<Record>>,
) -> Option<()> {
    let (mut seen, mut acknowledged) = (0, 0);
    let mut v5 = false;
    loop {
        let first = stream.read_u8().await.ok()?;
        let body = body(&mut stream).await?;
        match first >> 4 {
            1 => {
                v5 = body[6] == 5;
                record.lock().unwrap().connects.push(body);
                if act.connack.is_empty() {
                    return None;
                }
                stream.write_all(&act.connack).await.ok()?;
                stream.write_all(&act.greeting).await.ok()?;
                sleep(act.deaf).await;
            }
            3 => {
                if seen >= act.drop_after {
                    return None;
                }
                seen += 1;
                let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                let qos_1 = first & 0b110 != 0;
                let mut at = topic_end + if qos_1 { 2 } else { 0 };
                let id = if qos_1 {
                    u16::from_be_bytes([body[topic_end], body[topic_end + 1]])
                } else {
                    0
                };
                if v5 {
                    at += 1 + usize::from(body[at]);
                }
                let acknowledges = qos_1 && acknowledged < act.acknowledge;
                record.lock().unwrap().publishes.push(Seen {
                    connection,
                    topic: String::from_utf8(body[2..topic_end].to_vec()).unwrap(),
                    payload: String::from_utf8(body[at..].to_vec()).unwrap(),
                    id,
                    duplicate: first & 0b1000 != 0,
                    acknowledged: acknowledges,
                });
                if acknowledges {
                    acknowledged += 1;
                    let [high, low] = id.to_be_bytes();
                    stream.write_all(&[0x40, 2, high, low]).await.ok()?;
                }
            }
            8 => {
                let mut suback = if v5 {
                    vec![0x90, 4, body[0], body[1], 0, 1]
                } else {
                    vec![0x90, 3, body[0], body[1], 1]
                };
                if body.ends_with(b"forbidden\x01") || body.ends_with(b"forbidden\x2d") {
                    *suback.last_mut().unwrap() = if v5 { 0x87 } else { 0x80 };
                }
                record.lock().unwrap().subscribes.push(body);
                stream.write_all(&suback).await.ok()?;
            }
            12 => stream.write_all(&[0xD0, 0]).await.ok()?,
            14 => {
                record.lock().unwrap().disconnects += 1;
                return None;
            }
            _ => {}
        }
    }
}

async fn body(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut len = 0;
    for shift in [0, 7, 14, 21] {
        let byte = stream.read_u8().await.ok()?;
        len |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}
