//! What devices fetch from us: where, and under which name.

use std::sync::Arc;

use rand::RngExt;

use crate::gateway::{Gateway, Output};
use crate::lwm2m::{Path, Value};
use crate::server::{Answer, DeviceId, Offer};

/// Where devices reach what we serve, as the beginnings of URIs, `coap://gw.example.net:5683`;
/// `None` for what is not served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Protocol 0 of /5/0/8.
    pub coap: Option<String>,
    /// Protocol 1.
    pub coaps: Option<String>,
    /// Protocol 2.
    pub http: Option<String>,
    /// Protocol 3.
    pub https: Option<String>,
}

/// A protocol of /5/0/8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Coap,
    Coaps,
    Http,
    Https,
}

impl Protocol {
    fn of_number(number: i64) -> Option<Self> {
        Some(match number {
            0 => Self::Coap,
            1 => Self::Coaps,
            2 => Self::Http,
            3 => Self::Https,
            _ => return None,
        })
    }
}

impl Gateway {
    /// Finds the protocol by which a device is to fetch, among those that it says it has.
    pub(super) fn take_protocols(&mut self, endpoint: &Arc<str>, answer: &Answer) {
        let protocols = Path::resource(5, 0, 8);
        let named = answer
            .records
            .iter()
            .filter(|record| protocols.contains(&record.path))
            .filter_map(|record| match record.value {
                Value::Integer(number) => Some(number),
                Value::UnsignedInteger(number) => i64::try_from(number).ok(),
                _ => None,
            });
        let mask = named
            .filter(|number| (0..8).contains(number))
            .fold(0u8, |mask, number| mask | 1 << number);
        if let Some(entry) = self.firmware.jobs.get_mut(endpoint)
            && mask != 0
        {
            entry.job.protocols = mask;
        }
    }

    /// Where the device is to fetch its image, served from now on. `None` while its content is
    /// being loaded, or when the job had to end.
    pub(super) fn place_of(&mut self, id: DeviceId, endpoint: &Arc<str>) -> Option<String> {
        let entry = self.firmware.jobs.get_mut(endpoint)?;
        if let Some(uri) = &entry.job.uri {
            let uri = uri.clone();
            entry.serving = true;
            return Some(uri);
        }
        let (digest, named) = (entry.job.image.sha256, entry.job.protocols);
        let is_secure = self
            .server
            .registration(id)
            .is_some_and(|registration| registration.identity.is_some());
        // Without a word from the device it is taken to have what it speaks anyway.
        let speaks = if named != 0 {
            named
        } else if is_secure {
            0b10
        } else {
            0b01
        };
        let order: &[Protocol] = if is_secure {
            &[
                Protocol::Https,
                Protocol::Coaps,
                Protocol::Http,
                Protocol::Coap,
            ]
        } else {
            &[Protocol::Https, Protocol::Http, Protocol::Coap]
        };
        let places = &self.settings.firmware.places;
        let found = order.iter().find_map(|protocol| {
            let place = match protocol {
                Protocol::Coap => &places.coap,
                Protocol::Coaps => &places.coaps,
                Protocol::Http => &places.http,
                Protocol::Https => &places.https,
            };
            let has = (0..4)
                .filter(|number| speaks & 1 << number != 0)
                .any(|number| Protocol::of_number(number) == Some(*protocol));
            place
                .clone()
                .filter(|_| has)
                .map(|place| (*protocol, place))
        });
        let Some((protocol, place)) = found else {
            entry.job.fail(
                "the device can fetch by no protocol that this gateway serves; see [firmware] host and http",
            );
            return None;
        };
        let rng = &mut self.firmware.rng;
        let token: Arc<str> = entry
            .job
            .token
            .get_or_insert_with(|| format!("{:032x}", rng.random::<u128>()))
            .as_str()
            .into();
        match protocol {
            Protocol::Coap | Protocol::Coaps => {
                let body = self.content(endpoint, digest)?;
                let offer = Offer {
                    device: id,
                    secure: protocol == Protocol::Coaps,
                    body,
                    etag: digest.etag(),
                };
                self.server.offer(token.clone(), offer);
            }
            Protocol::Http | Protocol::Https => {
                self.outputs.push_back(Output::Serve {
                    token: token.clone(),
                    digest,
                    device: id,
                });
            }
        }
        if let Some(entry) = self.firmware.jobs.get_mut(endpoint) {
            entry.serving = true;
        }
        Some(format!("{place}/fw/{token}"))
    }

    /// Ends what is served for a job.
    pub(super) fn stop_serving(&mut self, endpoint: &Arc<str>) {
        let Some(entry) = self.firmware.jobs.get_mut(endpoint) else {
            return;
        };
        entry.serving = false;
        if let Some(token) = entry.job.token.take().map(Arc::<str>::from) {
            self.server.withdraw_offer(&token);
            self.outputs.push_back(Output::Unserve(token));
        }
    }
}
