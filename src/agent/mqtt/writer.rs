//! Packets to the broker, through rumqttc's codec; but a PUBLISH is written here, straight from the
//! outbox into the buffer.

use bytes::{BufMut, BytesMut};
use rumqttc::mqttbytes::{self as old, v4};
use rumqttc::v5::mqttbytes::{self as new, v5};

use super::Version;
use super::reader::PACKET_MAX;
use super::settings::{Settings, Subscription};
use crate::gateway::outbox::Outgoing;
use crate::gateway::publish::{Properties, Qos, variable_len};

/// How many unacknowledged messages the broker may send us (MQTT 5 Receive Maximum).
const RECEIVE_MAXIMUM: u16 = 100;
/// How long the broker keeps our session, in seconds (MQTT 5 §3.1.2.11.2).
const SESSION_EXPIRY: u32 = 600;

/// CONNECT: the session kept for ten minutes in MQTT 5, a clean one in 3.1.1.
pub(super) fn connect(
    version: Version,
    settings: &Settings,
    out: &mut BytesMut,
) -> Result<(), String> {
    let keep_alive = settings.keep_alive.as_secs().clamp(1, u16::MAX.into()) as u16;
    let client_id = settings.client_id.clone();
    let login = settings.username.clone().map(|username| {
        let password = settings.password.clone().unwrap_or_default();
        (username, password)
    });
    let will = settings.will.as_ref();
    let written = match version {
        Version::V5 => {
            let connect = v5::Connect {
                keep_alive,
                client_id,
                clean_start: settings.passing,
                properties: Some(v5::ConnectProperties {
                    session_expiry_interval: (!settings.passing).then_some(SESSION_EXPIRY),
                    receive_maximum: Some(RECEIVE_MAXIMUM),
                    max_packet_size: Some(PACKET_MAX as u32),
                    ..v5::ConnectProperties::default()
                }),
            };
            let will = will.map(|will| {
                let qos = match will.qos {
                    Qos::AtMostOnce => new::QoS::AtMostOnce,
                    Qos::AtLeastOnce => new::QoS::AtLeastOnce,
                };
                v5::LastWill::new(&*will.topic, will.payload.clone(), qos, will.retain, None)
            });
            let login = login.map(|(username, password)| v5::Login { username, password });
            v5::Packet::Connect(connect, will, login)
                .write(out, None)
                .map_err(|error| error.to_string())
        }
        Version::V311 => {
            let connect = v4::Connect {
                protocol: old::Protocol::V4,
                keep_alive,
                client_id,
                clean_session: true,
                last_will: will.map(|will| {
                    let qos = match will.qos {
                        Qos::AtMostOnce => old::QoS::AtMostOnce,
                        Qos::AtLeastOnce => old::QoS::AtLeastOnce,
                    };
                    v4::LastWill::new(&*will.topic, will.payload.clone(), qos, will.retain)
                }),
                login: login.map(|(username, password)| v4::Login { username, password }),
            };
            connect.write(out).map_err(|error| error.to_string())
        }
    };
    written.map(|_| ())
}

/// SUBSCRIBE at QoS 1.
pub(super) fn subscribe(
    version: Version,
    id: u16,
    subscriptions: &[Subscription],
    out: &mut BytesMut,
) -> Result<(), String> {
    let written = match version {
        Version::V5 => {
            let filters = subscriptions.iter().map(|subscription| v5::Filter {
                path: subscription.filter.clone(),
                qos: new::QoS::AtLeastOnce,
                nolocal: !subscription.own,
                preserve_retain: true,
                retain_forward_rule: if subscription.retained {
                    v5::RetainForwardRule::OnEverySubscribe
                } else {
                    v5::RetainForwardRule::Never
                },
            });
            let mut subscribe = v5::Subscribe::new_many(filters, None);
            subscribe.pkid = id;
            subscribe.write(out).map_err(|error| error.to_string())
        }
        Version::V311 => {
            let filters = subscriptions.iter().map(|subscription| {
                v4::SubscribeFilter::new(subscription.filter.clone(), old::QoS::AtLeastOnce)
            });
            let mut subscribe = v4::Subscribe::new_many(filters);
            subscribe.pkid = id;
            subscribe.write(out).map_err(|error| error.to_string())
        }
    };
    written.map(|_| ())
}

/// PUBLISH (MQTT 5 §3.3). The outbox has seen to it that all lengths fit.
pub(super) fn publish(
    version: Version,
    outgoing: &Outgoing<'_>,
    id: u16,
    duplicate: bool,
    out: &mut BytesMut,
) {
    let publish = outgoing.publish;
    let properties = match version {
        Version::V5 => Some(publish.properties.as_deref()),
        Version::V311 => None,
    };
    let properties_len = properties.map(|properties| properties.map_or(0, Properties::len));
    let remaining = 2
        + publish.topic.len()
        + if id == 0 { 0 } else { 2 }
        + properties_len.map_or(0, |len| variable_len(len) + len)
        + publish.payload.len();
    out.reserve(5 + remaining);
    let qos = match outgoing.qos {
        Qos::AtMostOnce => 0,
        Qos::AtLeastOnce => 0b10,
    };
    out.put_u8(0x30 | u8::from(duplicate) << 3 | qos | u8::from(outgoing.retain));
    put_variable(out, remaining);
    put_binary(out, publish.topic.as_bytes());
    if id != 0 {
        out.put_u16(id);
    }
    if let Some(len) = properties_len {
        put_variable(out, len);
    }
    if let Some(Some(properties)) = properties {
        put_properties(out, properties);
    }
    out.put_slice(&publish.payload);
}

/// PUBLISH properties by their identifiers (MQTT 5 §2.2.2.2).
fn put_properties(out: &mut BytesMut, properties: &Properties) {
    if let Some(seconds) = properties.expiry {
        out.put_u8(0x02);
        out.put_u32(seconds);
    }
    if let Some(content_type) = properties.content_type {
        out.put_u8(0x03);
        put_binary(out, content_type.as_bytes());
    }
    if let Some(correlation) = &properties.correlation {
        out.put_u8(0x09);
        put_binary(out, correlation);
    }
    for (name, value) in &properties.user {
        out.put_u8(0x26);
        put_binary(out, name.as_bytes());
        put_binary(out, value.as_bytes());
    }
}

fn put_binary(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u16(bytes.len() as u16);
    out.put_slice(bytes);
}

/// A Variable Byte Integer (MQTT 5 §1.5.5).
fn put_variable(out: &mut BytesMut, mut value: usize) {
    while value > 0x7F {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// PUBACK with success, alike in both versions.
pub(super) fn puback(id: u16, out: &mut BytesMut) {
    out.put_slice(&[0x40, 2]);
    out.put_u16(id);
}

/// PINGREQ.
pub(super) fn ping(out: &mut BytesMut) {
    out.put_slice(&[0xC0, 0]);
}

/// DISCONNECT, normal: the broker forgets the will. Alike in both versions.
pub(super) fn disconnect(out: &mut BytesMut) {
    out.put_slice(&[0xE0, 0]);
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::gateway::outbox::{Limits, Outbox, Session};
    use crate::gateway::publish::Publish;

    /// What the outbox hands over for `publish`, written to bytes.
    fn written(version: Version, publish: Publish, id: u16, duplicate: bool) -> BytesMut {
        let mut outbox = Outbox::new(Limits::default(), &mut StdRng::seed_from_u64(1));
        outbox.connected(Session::default());
        outbox.push(publish).unwrap();
        let mut out = BytesMut::new();
        super::publish(version, &outbox.poll().unwrap(), id, duplicate, &mut out);
        out
    }

    fn rich() -> Publish {
        Publish {
            properties: Some(std::sync::Arc::new(Properties {
                content_type: Some("application/json"),
                expiry: Some(60),
                correlation: Some(vec![0, 0xFF]),
                user: vec![("ep".into(), "dev1".into()), ("path".into(), "/3".into())],
            })),
            ..Publish::state("a/b".into(), b"{}".to_vec())
        }
    }

    #[test]
    fn the_library_reads_what_we_write_in_version_5() {
        let mut bytes = written(Version::V5, rich(), 7, true);
        assert_eq!(bytes.len(), rich().packet_len());
        let Ok(v5::Packet::Publish(read)) = v5::Packet::read(&mut bytes, None) else {
            panic!("no PUBLISH");
        };
        assert!(read.dup && read.retain);
        assert_eq!((read.qos, read.pkid), (new::QoS::AtLeastOnce, 7));
        assert_eq!((&*read.topic, &*read.payload), (&b"a/b"[..], &b"{}"[..]));
        let properties = read.properties.unwrap();
        assert_eq!(properties.content_type.unwrap(), "application/json");
        assert_eq!(properties.message_expiry_interval, Some(60));
        assert_eq!(properties.correlation_data.unwrap(), &[0, 0xFF][..]);
        assert_eq!(properties.user_properties, rich().properties.unwrap().user);
        assert!(bytes.is_empty());
    }

    #[test]
    fn the_library_reads_what_we_write_in_version_3_1_1() {
        let long = Publish {
            payload: vec![b'x'; 20_000],
            ..rich()
        };
        let mut bytes = written(Version::V311, long, 7, false);
        let Ok(v4::Packet::Publish(read)) = v4::Packet::read(&mut bytes, usize::MAX) else {
            panic!("no PUBLISH");
        };
        assert_eq!((read.dup, read.retain, read.pkid), (false, true, 7));
        assert_eq!((&*read.topic, read.payload.len()), ("a/b", 20_000));
        assert!(bytes.is_empty());
    }

    #[test]
    fn a_qos_0_publish_has_no_packet_identifier() {
        let publish = Publish {
            qos: Qos::AtMostOnce,
            retain: false,
            ..Publish::state("a".into(), b"1".to_vec())
        };
        let bytes = written(Version::V311, publish, 0, false);
        assert_eq!(&*bytes, [0x30, 4, 0, 1, b'a', b'1']);
    }
}
