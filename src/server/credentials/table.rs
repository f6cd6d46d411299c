//! The records and what finds them, shared between the server and the handshakes under way.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rand::Rng;

use super::Purpose;
use super::record::{Conflict, Grant, Psk, Record, Taken};
use crate::dtls::Keys;
use crate::keyed::{self, KeyedMap};
use crate::secret::Secret;

/// All that may come in.
pub(super) struct Table {
    /// In the order that a list shows.
    by_name: BTreeMap<Arc<str>, Arc<Record>>,
    by_endpoint: KeyedMap<Arc<str>, Arc<Record>>,
    /// By endpoint.
    grants: BTreeMap<Arc<str>, Arc<Grant>>,
    /// By PSK identity: for the LwM2M server, and for the bootstrap server.
    management: KeyedMap<Arc<[u8]>, Holder>,
    bootstrap: KeyedMap<Arc<[u8]>, Holder>,
    /// By the SHA-256 of a certificate.
    pins: KeyedMap<[u8; 32], Arc<Record>>,
}

/// Whose a PSK identity is.
#[derive(Clone)]
pub(super) struct Holder {
    pub(super) endpoint: Arc<str>,
    key: Secret,
}

impl Table {
    pub(super) fn new(rng: &mut impl Rng) -> Self {
        Self {
            by_name: BTreeMap::new(),
            by_endpoint: keyed::map(rng),
            grants: BTreeMap::new(),
            management: keyed::map(rng),
            bootstrap: keyed::map(rng),
            pins: keyed::map(rng),
        }
    }

    /// An empty one whose maps are keyed as those of `self`.
    pub(super) fn emptied(&self) -> Self {
        Self {
            by_name: BTreeMap::new(),
            by_endpoint: KeyedMap::with_hasher(*self.by_endpoint.hasher()),
            grants: BTreeMap::new(),
            management: KeyedMap::with_hasher(*self.management.hasher()),
            bootstrap: KeyedMap::with_hasher(*self.bootstrap.hasher()),
            pins: KeyedMap::with_hasher(*self.pins.hasher()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The records by name.
    pub(super) fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.by_name.values()
    }

    pub(super) fn grants(&self) -> impl ExactSizeIterator<Item = &Arc<Grant>> {
        self.grants.values()
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Arc<Record>> {
        self.by_name.get(name)
    }

    pub(super) fn by_endpoint(&self, endpoint: &str) -> Option<&Arc<Record>> {
        self.by_endpoint.get(endpoint)
    }

    pub(super) fn grant(&self, endpoint: &str) -> Option<&Arc<Grant>> {
        self.grants.get(endpoint)
    }

    /// Whether an endpoint has a credential of its own, for whichever server.
    pub(super) fn has_credential(&self, endpoint: &str) -> bool {
        let record = self.by_endpoint.get(endpoint);
        self.grants.contains_key(endpoint) || record.is_some_and(|record| record.has_credential())
    }

    pub(super) fn pinned(&self, sha256: &[u8; 32]) -> Option<&Arc<Record>> {
        self.pins.get(sha256)
    }

    pub(super) fn holder(&self, purpose: Purpose, identity: &[u8]) -> Option<&Holder> {
        self.identities(purpose).get(identity)
    }

    const fn identities(&self, purpose: Purpose) -> &KeyedMap<Arc<[u8]>, Holder> {
        match purpose {
            Purpose::Management => &self.management,
            Purpose::Bootstrap => &self.bootstrap,
        }
    }

    /// Why `record` cannot be added.
    pub(super) fn conflict(&self, record: &Record) -> Option<Conflict> {
        if let Some(other) = self.by_endpoint.get(&record.endpoint) {
            return Some(Conflict::Endpoint(Taken::by(other)));
        }
        if let Some(other) = self.by_name.get(&record.name) {
            return Some(Conflict::Name(Taken::by(other)));
        }
        let psks = [&record.psk, &record.bootstrap_psk];
        if let Some(conflict) = psks
            .into_iter()
            .flatten()
            .find_map(|psk| self.identity_conflict(&psk.identity, &record.endpoint))
        {
            return Some(conflict);
        }
        let other = self.pins.get(record.certificate.as_ref()?)?;
        Some(Conflict::Certificate(Taken::by(other)))
    }

    /// Whether a PSK identity belongs to another endpoint, be it for the one server or the other.
    pub(super) fn identity_conflict(&self, identity: &[u8], endpoint: &str) -> Option<Conflict> {
        let holder = [&self.management, &self.bootstrap]
            .into_iter()
            .filter_map(|identities| identities.get(identity))
            .find(|holder| *holder.endpoint != *endpoint)?;
        let taken = self
            .by_endpoint
            .get(&holder.endpoint)
            .map_or_else(|| Taken::endpoint(&holder.endpoint), |by| Taken::by(by));
        Some(Conflict::Identity {
            identity: identity.to_owned(),
            taken,
        })
    }

    /// Adds a record that does not conflict.
    pub(super) fn insert(&mut self, record: Arc<Record>) {
        self.index(&record);
        self.by_endpoint
            .insert(record.endpoint.clone(), record.clone());
        self.by_name.insert(record.name.clone(), record);
    }

    fn index(&mut self, record: &Arc<Record>) {
        let holder = |psk: &Psk| Holder {
            endpoint: record.endpoint.clone(),
            key: psk.key.clone(),
        };
        if let Some(psk) = &record.psk {
            self.management.insert(psk.identity.clone(), holder(psk));
        }
        if let Some(psk) = &record.bootstrap_psk {
            self.bootstrap.insert(psk.identity.clone(), holder(psk));
        }
        if let Some(certificate) = record.certificate {
            self.pins.insert(certificate, record.clone());
        }
    }

    /// Takes a record out. What was granted to its endpoint stays.
    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<Record>> {
        let record = self.by_name.remove(name)?;
        self.by_endpoint.remove(&record.endpoint);
        if let Some(psk) = &record.psk {
            self.management.remove(&psk.identity);
        }
        if let Some(psk) = &record.bootstrap_psk {
            self.bootstrap.remove(&psk.identity);
        }
        if let Some(certificate) = &record.certificate {
            self.pins.remove(certificate);
        }
        if let Some(grant) = self.grants.get(&record.endpoint).cloned() {
            self.index_grant(&grant);
        }
        Some(record)
    }

    /// Adds a granted key in the place of the one that the endpoint had.
    pub(super) fn insert_grant(&mut self, grant: Arc<Grant>) {
        self.remove_grant(&grant.endpoint);
        self.index_grant(&grant);
        self.grants.insert(grant.endpoint.clone(), grant);
    }

    fn index_grant(&mut self, grant: &Grant) {
        let holder = Holder {
            endpoint: grant.endpoint.clone(),
            key: grant.psk.key.clone(),
        };
        self.management.insert(grant.psk.identity.clone(), holder);
    }

    pub(super) fn remove_grant(&mut self, endpoint: &str) -> Option<Arc<Grant>> {
        let grant = self.grants.remove(endpoint)?;
        self.management.remove(&grant.psk.identity);
        if let Some(record) = self.by_endpoint.get(endpoint).cloned() {
            self.index(&record);
        }
        Some(grant)
    }
}

/// A [`Table`] that handshakes read while the server changes it.
#[derive(Clone)]
pub(super) struct Shared(Arc<RwLock<Table>>);

impl Shared {
    pub(super) fn new(table: Table) -> Self {
        Self(Arc::new(RwLock::new(table)))
    }

    /// A thread that panicked while it read has left nothing half done.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The table as the handshakes of one kind of listener see it.
pub(super) struct View {
    pub(super) shared: Shared,
    pub(super) purpose: Purpose,
}

impl Keys for View {
    fn psk(&self, identity: &[u8]) -> Option<Secret> {
        let table = self.shared.read();
        Some(table.holder(self.purpose, identity)?.key.clone())
    }

    fn pins(&self, sha256: &[u8; 32]) -> bool {
        self.shared.read().pinned(sha256).is_some()
    }
}
