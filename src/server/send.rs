//! Send: values that a device reports of its own accord (LwM2M Core 1.1 §6.4.6).

use std::fmt;

use super::registration::Refusal;
use super::*;
use crate::coap::Token;
use crate::lwm2m::codec::{self, Decoded};
use crate::name::short_hash;

/// What the sender of values waits for: see [`Server::acknowledge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// The ACK of a confirmable notification.
    Notification(coap::Receipt),
    /// The answer to a Send.
    Send(IncomingId),
}

/// What tells a message of a device with values from its others, and is the same when the device
/// says it again, to another process as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The token of an observation, and the number of a notification.
    Notification(Token, u32),
    /// The token and the Message ID of a Send.
    Send(Token, u16),
}

/// A token is what a stranger would have to guess who wants to speak in the device's name, so it is
/// not shown.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Notification(token, number) => {
                write!(f, "{}.{number}", short_hash(token.as_bytes()))
            }
            Self::Send(token, id) => write!(f, "{}.s{id}", short_hash(token.as_bytes())),
        }
    }
}

impl Server {
    /// A mark that tells a message from those of every registration.
    pub fn mark_of(&self, device: DeviceId, mark: Option<Mark>) -> Option<String> {
        let location = &self.registration(device)?.location;
        Some(format!("{location}.{}", mark?))
    }

    /// `POST /dp`. All of it is taken or nothing: the answer is for the whole message. A refusal is
    /// said at once; of what can be taken, the answer waits until the values are safe.
    pub(super) fn on_send(
        &mut self,
        now: Now,
        peer: Peer,
        incoming: IncomingId,
        request: &Request,
    ) -> Option<Response> {
        let device = self.by_peer.get(&peer).copied();
        let taken = match device {
            Some(device) => self.read_send(now, device, request),
            None => Err(Refusal::new(Code::BAD_REQUEST, "not registered")),
        };
        match (device, taken) {
            (Some(device), Ok(records)) => {
                let mark = self.endpoint.identity_of(incoming);
                self.emit(Event::Sent {
                    device,
                    mark: mark.map(|(token, id)| Mark::Send(token, id)),
                    records,
                    receipt: Receipt::Send(incoming),
                });
                None
            }
            (device, Err(refusal)) => {
                let response = refusal.to_response();
                self.emit(Event::SendRefused {
                    peer,
                    device,
                    refusal,
                });
                Some(response)
            }
            (None, Ok(_)) => Some(Response::new(Code::BAD_REQUEST)),
        }
    }

    fn read_send(
        &self,
        now: Now,
        device: DeviceId,
        request: &Request,
    ) -> Result<Vec<Record>, Refusal> {
        let bad = |detail: String| Refusal::new(Code::BAD_REQUEST, detail);
        let registration = self
            .registration(device)
            .ok_or_else(|| bad("not registered".to_owned()))?;
        let format = match request.content_format.map(ContentFormat) {
            Some(
                format @ (ContentFormat::SENML_JSON
                | ContentFormat::SENML_CBOR
                | ContentFormat::LWM2M_CBOR),
            ) => format,
            Some(other) => {
                return Err(bad(format!(
                    "values are sent in 110, 112 or 11544, not in {other}"
                )));
            }
            None => return Err(bad("no Content-Format".to_owned())),
        };
        let types = registration.types(&self.models);
        let context = Context {
            base: Path::ROOT,
            alternate: registration.objects.alternate.as_deref(),
            now: now.unix,
            types: &types,
        };
        let mut records = Vec::new();
        codec::decode(format, &request.payload, &context, &mut records)
            .and_then(Decoded::complete)
            .map_err(|error| bad(format!("{format}: {error}")))?;
        if records.is_empty() {
            return Err(bad("no values".to_owned()));
        }
        let is_strange = |record: &&Record| !registration.has(&record.path.truncate(2));
        match records.iter().find(is_strange) {
            None => Ok(records),
            Some(record) => Err(Refusal::new(
                Code::NOT_FOUND,
                format!("{} is not registered", record.path.truncate(2)),
            )),
        }
    }
}
