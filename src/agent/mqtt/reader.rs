//! Packets from the broker, through rumqttc's codec; but a PUBACK, the most frequent one, is read
//! here.

use bytes::{Buf, BytesMut};
use rumqttc::mqttbytes::{self as old, v4};
use rumqttc::v5::mqttbytes::{self as new, v5};
use thiserror::Error;

use super::Version;
use crate::gateway::outbox::Session;
use crate::gateway::publish::{Message, Qos};

/// The largest packet we take, in bytes. Requests are small.
pub(super) const PACKET_MAX: usize = 1 << 20;

/// The broker broke the protocol.
#[derive(Debug, Error)]
#[error("the broker sent a malformed packet ({0})")]
pub(super) struct Malformed(String);

impl Malformed {
    fn new(what: impl ToString) -> Self {
        Self(what.to_string())
    }
}

/// A packet from the broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet {
    ConnAck {
        code: u8,
        session: Session,
        /// Seconds, when the broker wants another keep alive than ours.
        keep_alive: Option<u16>,
    },
    PubAck {
        id: u16,
        code: u8,
    },
    /// `id` is 0 at QoS 0.
    Publish {
        id: u16,
        message: Message,
    },
    /// A PUBLISH over [`PACKET_MAX`], which is being dropped.
    Oversized {
        id: u16,
        topic: String,
        size: usize,
    },
    /// One code for each filter.
    SubAck {
        codes: Vec<u8>,
    },
    Pong,
    Disconnect {
        code: u8,
    },
    /// Nothing that concerns us.
    Other,
}

/// Cuts packets out of the byte stream.
pub(super) struct Reader {
    version: Version,
    pub(super) buffer: BytesMut,
    /// Bytes of an oversized packet still to be dropped.
    skip: usize,
}

impl Reader {
    pub(super) fn new(version: Version) -> Self {
        Self {
            version,
            buffer: BytesMut::new(),
            skip: 0,
        }
    }

    /// Whether what has come begins as a CONNACK does.
    pub(super) fn may_be_connack(&self) -> bool {
        self.buffer.first().is_none_or(|first| *first == 0x20)
    }

    /// The next complete packet.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, Malformed> {
        let skipped = self.skip.min(self.buffer.len());
        self.buffer.advance(skipped);
        self.skip -= skipped;
        let Some((header, remaining)) = frame(&self.buffer)? else {
            return Ok(None);
        };
        if header + remaining > PACKET_MAX {
            return self.oversized(header, remaining);
        }
        if self.buffer.len() < header + remaining {
            return Ok(None);
        }
        let body = &self.buffer[header..header + remaining];
        let packet = match self.buffer[0] >> 4 {
            2 => return self.connack(header, remaining).map(Some),
            3 => return self.publish().map(Some),
            4 => {
                let [high, low, ..] = *body else {
                    return Err(Malformed::new("short PUBACK"));
                };
                Packet::PubAck {
                    id: u16::from_be_bytes([high, low]),
                    code: body.get(2).copied().unwrap_or(0),
                }
            }
            // The codes stand at the end, whatever properties come before. How many there are is
            // known to who subscribed.
            9 => Packet::SubAck {
                codes: body.get(2..).unwrap_or_default().to_vec(),
            },
            13 => Packet::Pong,
            14 => Packet::Disconnect {
                code: body.first().copied().unwrap_or(0),
            },
            _ => Packet::Other,
        };
        self.buffer.advance(header + remaining);
        Ok(Some(packet))
    }

    /// Only its topic and packet identifier are read, so that it can be acknowledged: else a 3.1.1
    /// broker would send it again and again.
    fn oversized(&mut self, header: usize, remaining: usize) -> Result<Option<Packet>, Malformed> {
        let first = self.buffer[0];
        if first >> 4 != 3 {
            return Err(Malformed::new("a packet over 1 MiB that is no PUBLISH"));
        }
        let mut rest = &self.buffer[header..];
        let Ok(len) = rest.try_get_u16() else {
            return Ok(None);
        };
        let len = usize::from(len);
        if rest.len() < len + 2 {
            return Ok(None);
        }
        let topic = String::from_utf8_lossy(&rest[..len]).into_owned();
        rest.advance(len);
        let id = if first & 0b110 == 0 {
            0
        } else {
            rest.get_u16()
        };
        let size = header + remaining;
        self.skip = size;
        Ok(Some(Packet::Oversized { id, topic, size }))
    }

    fn connack(&mut self, header: usize, remaining: usize) -> Result<Packet, Malformed> {
        let code = match self.buffer[header..header + remaining] {
            [_, code, ..] => code,
            _ => return Err(Malformed::new("short CONNACK")),
        };
        if code != 0 {
            // In the form of either version: a broker that does not know ours answers in its own.
            return Ok(Packet::ConnAck {
                code,
                session: Session::default(),
                keep_alive: None,
            });
        }
        match self.version {
            Version::V311 => {
                self.buffer.advance(header + remaining);
                Ok(Packet::ConnAck {
                    code,
                    session: Session::default(),
                    keep_alive: None,
                })
            }
            Version::V5 => match v5::Packet::read(&mut self.buffer, None) {
                Ok(v5::Packet::ConnAck(connack)) => {
                    let resumed = connack.session_present;
                    let limits = connack.properties.as_ref();
                    let session = Session {
                        resumed,
                        receive_maximum: limits.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
                        maximum_packet_size: limits.and_then(|p| p.max_packet_size),
                        retain_available: limits.and_then(|p| p.retain_available) != Some(0),
                        maximum_qos: match limits.and_then(|p| p.max_qos) {
                            Some(0) => Qos::AtMostOnce,
                            _ => Qos::AtLeastOnce,
                        },
                    };
                    Ok(Packet::ConnAck {
                        code,
                        session,
                        keep_alive: limits.and_then(|p| p.server_keep_alive),
                    })
                }
                Ok(_) => Err(Malformed::new("CONNACK")),
                Err(error) => Err(Malformed::new(error)),
            },
        }
    }

    fn publish(&mut self) -> Result<Packet, Malformed> {
        match self.version {
            Version::V5 => match v5::Packet::read(&mut self.buffer, None) {
                Ok(v5::Packet::Publish(publish)) if publish.qos != new::QoS::ExactlyOnce => {
                    let properties = publish.properties.unwrap_or_default();
                    Ok(Packet::Publish {
                        id: publish.pkid,
                        message: Message {
                            topic: String::from_utf8(publish.topic.into())
                                .map_err(Malformed::new)?,
                            payload: publish.payload.into(),
                            retain: publish.retain,
                            duplicate: publish.dup,
                            response_topic: properties.response_topic,
                            correlation: properties.correlation_data.map(Into::into),
                            expiry: properties.message_expiry_interval,
                        },
                    })
                }
                Ok(_) => Err(Malformed::new("PUBLISH at QoS 2, which we did not ask for")),
                Err(error) => Err(Malformed::new(error)),
            },
            Version::V311 => match v4::Packet::read(&mut self.buffer, PACKET_MAX) {
                Ok(v4::Packet::Publish(publish)) if publish.qos != old::QoS::ExactlyOnce => {
                    Ok(Packet::Publish {
                        id: publish.pkid,
                        message: Message {
                            topic: publish.topic,
                            payload: publish.payload.into(),
                            retain: publish.retain,
                            duplicate: publish.dup,
                            ..Message::default()
                        },
                    })
                }
                Ok(_) => Err(Malformed::new("PUBLISH at QoS 2, which we did not ask for")),
                Err(error) => Err(Malformed::new(error)),
            },
        }
    }
}

/// The lengths of the fixed header and of what remains behind it (MQTT 5 §2.1), once they are there.
fn frame(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut remaining = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        remaining |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((index + 2, remaining)));
        }
    }
    if bytes.len() > 4 {
        return Err(Malformed::new("remaining length of five bytes"));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn read(version: Version, bytes: &[u8]) -> Vec<Packet> {
        let mut reader = Reader::new(version);
        let mut packets = Vec::new();
        for byte in bytes {
            reader.buffer.put_u8(*byte);
            while let Some(packet) = reader.next().unwrap() {
                packets.push(packet);
            }
        }
        packets
    }

    #[test]
    fn packets_are_found_however_the_stream_is_cut() {
        let stream = [
            0x20, 2, 0, 0, // CONNACK
            0x90, 4, 0, 1, 1, 0x80, // SUBACK
            0x40, 2, 0, 9, // PUBACK
            0xD0, 0, // PINGRESP
            0x32, 6, 0, 1, b't', 0, 5, b'p', // PUBLISH at QoS 1
        ];
        let packets = read(Version::V311, &stream);
        assert_eq!(
            packets[1..],
            [
                Packet::SubAck {
                    codes: vec![1, 0x80]
                },
                Packet::PubAck { id: 9, code: 0 },
                Packet::Pong,
                Packet::Publish {
                    id: 5,
                    message: Message {
                        topic: "t".into(),
                        payload: b"p".to_vec(),
                        ..Message::default()
                    }
                },
            ]
        );
    }

    #[test]
    fn the_limits_of_the_broker_are_read() {
        let stream = [
            0x20, 19, 1, 0, 16, 0x21, 0, 20, 0x27, 0, 0, 1, 0, 0x25, 0, 0x24, 0, 0x13, 0, 10, 0xE0,
            1, 0x8E,
        ];
        // Property length 16: Receive Maximum, Maximum Packet Size, Retain Available, Maximum QoS,
        // Server Keep Alive make 3 + 5 + 2 + 2 + 3 = 15.
        let mut stream = stream.to_vec();
        (stream[1], stream[4]) = (18, 15);
        assert_eq!(
            read(Version::V5, &stream),
            [
                Packet::ConnAck {
                    code: 0,
                    session: Session {
                        resumed: true,
                        receive_maximum: 20,
                        maximum_packet_size: Some(256),
                        retain_available: false,
                        maximum_qos: Qos::AtMostOnce,
                    },
                    keep_alive: Some(10),
                },
                Packet::Disconnect { code: 0x8E },
            ]
        );
    }

    #[test]
    fn a_3_1_1_refusal_is_understood_while_speaking_5() {
        let mut reader = Reader::new(Version::V5);
        reader.buffer.put_slice(&[0x20, 2, 0, 1]);
        assert!(matches!(
            reader.next(),
            Ok(Some(Packet::ConnAck { code: 1, .. }))
        ));
    }

    #[test]
    fn an_oversized_publish_is_dropped_and_can_be_acknowledged() {
        // Remaining length 2 097 157: topic, packet identifier and 2 MiB.
        let mut stream = vec![0x32, 0x85, 0x80, 0x80, 0x01, 0, 1, b't', 0, 5];
        stream.extend(std::iter::repeat_n(0xAA, 2 << 20));
        stream.extend_from_slice(&[0xD0, 0]);
        let mut reader = Reader::new(Version::V311);
        let mut packets = Vec::new();
        for chunk in stream.chunks(1000) {
            reader.buffer.put_slice(chunk);
            while let Some(packet) = reader.next().unwrap() {
                packets.push(packet);
            }
            assert!(reader.buffer.len() <= 1000, "nothing of it is kept");
        }
        let size = stream.len() - 2;
        assert_eq!(
            packets,
            [
                Packet::Oversized {
                    id: 5,
                    topic: "t".into(),
                    size
                },
                Packet::Pong
            ]
        );
    }

    #[test]
    fn no_bytes_of_a_broker_make_the_reader_panic() {
        let mut rng = StdRng::seed_from_u64(7);
        let seeds: [&[u8]; 7] = [
            &[0x20, 8, 0, 0, 5, 0x21, 0, 20, 0x25, 0],
            &[
                0x32, 18, 0, 1, b't', 0, 5, 10, 2, 0, 0, 0, 1, 8, 0, 2, b'r', b't', b'p', b'q',
            ],
            &[0x40, 3, 0, 1, 0x87],
            &[0x90, 4, 0, 1, 0, 1],
            &[0xE0, 2, 0x8E, 0],
            &[0xD0, 0],
            &[0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0, 1, b't'],
        ];
        for _ in 0..100_000 {
            let mut bytes = seeds[rng.random_range(0..seeds.len())].to_vec();
            for _ in 0..rng.random_range(1..4) {
                let index = rng.random_range(0..bytes.len());
                match rng.random_range(0..3) {
                    0 => bytes[index] = rng.random(),
                    1 => bytes.truncate(index.max(1)),
                    _ => bytes.push(rng.random()),
                }
            }
            for version in [Version::V5, Version::V311] {
                let mut reader = Reader::new(version);
                reader.buffer.put_slice(&bytes);
                while let Ok(Some(_)) = reader.next() {
                    if reader.buffer.len() == bytes.len() {
                        break;
                    }
                }
            }
        }
    }
}
