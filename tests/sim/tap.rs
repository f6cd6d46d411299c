//! What devices were told to be safe, as the wire shows it. It is read with another implementation
//! than ours, and knows nothing of observations: a confirmable notification whose empty
//! acknowledgement arrives at the device, and a Send whose 2.04 does.

use std::collections::{BTreeMap, BTreeSet};

use coap_lite::{CoapOption, MessageClass, MessageType, Packet, RequestType, ResponseType};
use lwm2mqtt::lwm2m::codec::{Context, decode};
use lwm2mqtt::lwm2m::model::Models;
use lwm2mqtt::lwm2m::{ContentFormat, Path, Value};
use lwm2mqtt::time::UnixTime;

/// Listens for one resource that holds whole numbers.
pub struct Tap {
    path: Path,
    models: Models,
    notified: BTreeMap<(usize, u16), Vec<i64>>,
    sent: BTreeMap<(usize, Vec<u8>), Vec<i64>>,
    /// What is safe: the device, and the value.
    pub safe: BTreeSet<(usize, i64)>,
}

impl Tap {
    pub fn new(path: Path) -> Self {
        Self {
            path,
            models: Models::builtin(),
            notified: BTreeMap::new(),
            sent: BTreeMap::new(),
            safe: BTreeSet::new(),
        }
    }

    /// A device begins anew: its message ids and tokens mean something else.
    pub fn forget(&mut self, device: usize) {
        self.notified.retain(|(of, _), _| *of != device);
        self.sent.retain(|(of, _), _| *of != device);
    }

    /// A datagram leaves a device.
    pub fn leaves(&mut self, device: usize, bytes: &[u8]) {
        let Ok(packet) = Packet::from_bytes(bytes) else {
            return;
        };
        if packet.header.get_type() != MessageType::Confirmable {
            return;
        }
        match packet.header.code {
            MessageClass::Response(ResponseType::Content)
                if packet.get_option(CoapOption::Observe).is_some() =>
            {
                let values = self.values(&packet);
                let key = (device, packet.header.message_id);
                self.notified.insert(key, values);
            }
            MessageClass::Request(RequestType::Post) if is_send(&packet) => {
                let values = self.values(&packet);
                let key = (device, packet.get_token().to_vec());
                self.sent.insert(key, values);
            }
            _ => {}
        }
    }

    /// A datagram arrives at a device.
    pub fn arrives(&mut self, device: usize, bytes: &[u8]) {
        let Ok(packet) = Packet::from_bytes(bytes) else {
            return;
        };
        let safe = match packet.header.code {
            MessageClass::Empty if packet.header.get_type() == MessageType::Acknowledgement => {
                self.notified.remove(&(device, packet.header.message_id))
            }
            MessageClass::Response(ResponseType::Changed) => {
                self.sent.remove(&(device, packet.get_token().to_vec()))
            }
            _ => None,
        };
        self.safe
            .extend(safe.unwrap_or_default().into_iter().map(|it| (device, it)));
    }

    fn values(&self, packet: &Packet) -> Vec<i64> {
        let format = packet.get_option(CoapOption::ContentFormat);
        let format = format.and_then(|values| values.front()).map(|bytes| {
            bytes
                .iter()
                .fold(0, |number, byte| number << 8 | u16::from(*byte))
        });
        // A payload in blocks is not for this.
        let (Some(format), None) = (format, packet.get_option(CoapOption::Block2)) else {
            return Vec::new();
        };
        let context = Context {
            base: self.path.truncate(2),
            alternate: None,
            now: UnixTime::from_millis(0),
            types: &self.models,
        };
        let mut records = Vec::new();
        let _ = decode(
            ContentFormat(format),
            &packet.payload,
            &context,
            &mut records,
        );
        let of_it = records.into_iter().filter(|it| it.path == self.path);
        of_it
            .filter_map(|record| match record.value {
                Value::Integer(value) => Some(value),
                _ => None,
            })
            .collect()
    }
}

fn is_send(packet: &Packet) -> bool {
    let path = packet.get_option(CoapOption::UriPath);
    path.is_some_and(|path| path.iter().eq([b"dp"]))
}
