//! Changes that wait for one another.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Change, Device, Kept, Key};
use crate::server::credentials;

/// The newest change of each key.
#[derive(Clone, Debug, Default)]
pub struct Changes(BTreeMap<Key, Change>);

impl Changes {
    /// Adds a change, in the place of those that it makes void.
    pub fn add(&mut self, change: Change) {
        let key = change.key();
        let ended = match (&change, self.0.get_mut(&key)) {
            (Change::Ended(_), Some(Change::Registered(_, registration, _))) => {
                registration.standing = false;
                true
            }
            _ => false,
        };
        if !ended {
            self.supersede(&change);
        }
        match change {
            Change::Ended(endpoint) => {
                self.0
                    .retain(|key, _| !matches!(key, Key::Observation(of, _) if *of == endpoint));
                self.0.entry(key).or_insert_with(|| Change::Ended(endpoint));
            }
            Change::Forgotten(_) => {}
            change => {
                self.0.insert(key, change);
            }
        }
    }

    /// Takes out what this change makes void.
    pub fn supersede(&mut self, change: &Change) {
        match change {
            Change::Forgotten(endpoint) => {
                self.0.retain(|key, _| key.endpoint() != Some(&**endpoint));
            }
            Change::Unspooled(class, below) => self.0.retain(|_, waiting| match waiting {
                Change::Spooled(spooled) => spooled.class != *class || spooled.number >= *below,
                _ => true,
            }),
            change => {
                self.0.remove(&change.key());
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes out all of them, in the order of their keys: what an endpoint is comes before what it
    /// has.
    pub fn take(&mut self) -> impl Iterator<Item = Change> + use<> {
        std::mem::take(&mut self.0).into_values()
    }

    /// What a store holds to which all of them, and nothing else, were given. Devices come in the
    /// order of their endpoint names.
    pub fn kept(&self) -> Kept {
        let mut kept = Kept::default();
        let mut devices: BTreeMap<Arc<str>, Device> = BTreeMap::new();
        let mut device = |endpoint: &Arc<str>, put: &dyn Fn(&mut Device)| {
            let device = devices
                .entry(endpoint.clone())
                .or_insert_with(|| Device::new(endpoint.clone()));
            put(device);
        };
        for change in self.0.values() {
            match change {
                Change::Credential(credentials::Change::Put(record)) => {
                    kept.credentials.records.push((**record).clone());
                }
                Change::Credential(credentials::Change::Grant(grant)) => {
                    kept.credentials.grants.push((**grant).clone());
                }
                Change::Registered(endpoint, registration, _) => device(endpoint, &|device| {
                    device.registration = Some((**registration).clone());
                }),
                Change::Observed(endpoint, observation) => device(endpoint, &|device| {
                    device.observations.push((**observation).clone());
                }),
                Change::Described(endpoint, descriptor, _) => device(endpoint, &|device| {
                    device.descriptor = Some((**descriptor).clone());
                }),
                Change::Heard(endpoint, contact, _) => device(endpoint, &|device| {
                    device.contact = Some((**contact).clone());
                }),
                Change::Stands(endpoint, signal, _) => device(endpoint, &|device| {
                    device.signals.push((**signal).clone());
                }),
                Change::Put(document, _) => kept.documents.push(document.clone()),
                Change::Gateway(gateway, _) => kept.gateway = Some(gateway.clone()),
                Change::Spooled(spooled) => kept.spool.push(spooled.clone()),
                Change::Credential(
                    credentials::Change::Remove(_) | credentials::Change::Revoke(_),
                )
                | Change::Ended(_)
                | Change::Unobserved(..)
                | Change::Cleared(..)
                | Change::Forgotten(_)
                | Change::Drop(..)
                | Change::Unspooled(..) => {}
            }
        }
        kept.devices = devices.into_values().collect();
        kept
    }
}
