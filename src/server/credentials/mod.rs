//! Who may come in: credentials of devices, approvals, the join window.
//!
//! The [`Book`] is asked twice. While a handshake runs, the DTLS engine asks for keys through
//! [`Book::keys`]; when a device registers or wants to be bootstrapped, [`Book::admit`] says whether
//! the one that the handshake found at the other end may be the endpoint that it says it is.
//! What is *absent* here: files, the database, cryptography.

mod authority;
mod change;
mod file;
mod network;
mod record;
mod table;

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use crate::coap::Code;
use crate::dtls::{self, PeerIdentity, Printable};
use crate::time::{Instant, Now, UnixTime};
use table::{Shared, Table, View};

pub use authority::{Authority, Rule, certificates, fingerprint};
pub use change::{Change, Content, File, Files, Placed, Refused, Stored};
pub use file::{CERTIFICATE_HINT, Fetch, Read, key_of_hex, read};
pub use network::{Network, NetworkError};
pub use record::{
    Conflict, ENDPOINT_MAX, Grant, IDENTITY_MAX, KEY_ADVISED, KEY_MAX, Lost, Mistake, Origin, Psk,
    Record, Taken,
};

/// Which of our servers a peer speaks to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// The LwM2M server.
    #[default]
    Management,
    /// The bootstrap server.
    Bootstrap,
}

/// Who may join without a credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Join {
    /// Whoever was approved by name.
    #[default]
    Known,
    /// Those, and while the join window is open, whoever comes; that approves them.
    Window,
    /// Whoever the transport lets in.
    Open,
}

/// What the operator decides about joining.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Who may join without a credential.
    pub join: Join,
    /// Where devices without security may come from; empty is anywhere.
    pub coap_from: Vec<Network>,
}

/// Caps on what joining devices can make grow.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Records in all; beyond it the join window lets nobody in.
    pub records: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { records: 200_000 }
    }
}

/// Why a peer may not be the endpoint that it says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// 4.00 when identity and endpoint do not belong together (LwM2M Core 1.1 §6.2.1), 4.03 when
    /// nobody let it in, 5.03 when there is no room.
    pub code: Code,
    /// A sentence for the operator, with the remedy. It shows no key.
    pub reason: String,
}

impl Denied {
    fn mismatch(reason: String) -> Self {
        Self {
            code: Code::BAD_REQUEST,
            reason,
        }
    }

    fn unknown(reason: String) -> Self {
        Self {
            code: Code::FORBIDDEN,
            reason,
        }
    }
}

/// How a peer was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It proved who it is.
    Proven,
    /// It was approved before.
    Approved,
    /// The open join window approved it, for good.
    Joined,
    /// Anyone may come in, as long as that is so.
    Anyone,
}

/// What the layer above has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The endpoint lost what let it in, or has other credentials now: its registration and its
    /// sessions are to be ended.
    Ended {
        /// Which.
        endpoint: Arc<str>,
        /// Whether the operator removed the device, so that nothing is to be kept of it.
        removed: bool,
        /// What it could prove itself with until now: sessions that did are to be closed, whether
        /// the endpoint is registered or not.
        lost: Vec<Lost>,
    },
    /// Files or authorities changed: whoever is here by what is not valid any more, as
    /// [`Book::upholds`] and [`Book::recognises`] tell, is to go.
    Changed,
    /// The join window approved an endpoint.
    Joined(Arc<str>),
    /// The join window closed.
    WindowClosed,
}

/// All credentials, approvals and the join window.
pub struct Book {
    policy: Policy,
    limits: Limits,
    shared: Shared,
    authorities: Vec<Authority>,
    generation: u64,
    window: Option<Instant>,
    /// Granted keys that end, by when.
    expiries: BTreeSet<(UnixTime, Arc<str>)>,
    /// When the first of them is looked at.
    expiry_due: Option<Instant>,
    changes: VecDeque<Change>,
    events: VecDeque<Event>,
}

impl Book {
    /// A book without records and with a closed window.
    pub fn new(policy: Policy, limits: Limits, rng: &mut impl Rng) -> Self {
        Self {
            policy,
            limits,
            shared: Shared::new(Table::new(rng)),
            authorities: Vec::new(),
            generation: 0,
            window: None,
            expiries: BTreeSet::new(),
            expiry_due: None,
            changes: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Who may join without a credential.
    pub const fn join(&self) -> Join {
        self.policy.join
    }

    /// The keys of those who may speak to one of our servers, always as they are now.
    pub fn keys(&self, purpose: Purpose) -> Arc<dyn dtls::Keys> {
        Arc::new(View {
            shared: self.shared.clone(),
            purpose,
        })
    }

    /// The authorities that the DTLS engine has to trust.
    pub fn authorities(&self) -> &[Authority] {
        &self.authorities
    }

    /// Raised whenever [`Book::authorities`] change: the engine has to be made anew.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// May this peer be this endpoint? `identity` is what the handshake proved; `None` for one that
    /// came without security, from `source`.
    ///
    /// An open join window approves an unknown endpoint of the LwM2M server here, for good.
    ///
    /// # Errors
    ///
    /// Code and sentence, when it may not.
    pub fn admit(
        &mut self,
        now: Now,
        purpose: Purpose,
        identity: Option<&PeerIdentity>,
        source: IpAddr,
        endpoint: &str,
    ) -> Result<Admitted, Denied> {
        match identity {
            Some(identity) => self.admit_proven(purpose, identity, endpoint),
            None => self.admit_unsecured(now, purpose, source, endpoint),
        }
    }

    fn admit_proven(
        &self,
        purpose: Purpose,
        identity: &PeerIdentity,
        endpoint: &str,
    ) -> Result<Admitted, Denied> {
        match identity {
            PeerIdentity::Psk(identity) => self.admit_psk(purpose, identity, endpoint),
            PeerIdentity::X509 {
                leaf,
                names,
                authority,
                ..
            } => self.admit_certificate(purpose, leaf, names, authority.as_ref(), endpoint),
            PeerIdentity::RawPublicKey(_) => Err(Denied::unknown(
                "raw public keys are not served; give the device a PSK or a certificate".to_owned(),
            )),
        }
    }

    /// Whether an endpoint that was let in by the LwM2M server may stay: with what it has proven,
    /// or without security as long as it has no credential.
    pub fn upholds(&self, identity: Option<&PeerIdentity>, endpoint: &str) -> bool {
        match identity {
            Some(identity) => self
                .admit_proven(Purpose::Management, identity, endpoint)
                .is_ok(),
            None => !self.shared.read().has_credential(endpoint),
        }
    }

    /// Whether a peer could still shake hands with what it has proven. PSKs that are lost, each
    /// [`Event::Ended`] tells by itself.
    pub fn recognises(&self, identity: &PeerIdentity) -> bool {
        match identity {
            PeerIdentity::X509 {
                leaf, authority, ..
            } => {
                let vouches = |known: &Authority| Some(&known.sha256) == authority.as_ref();
                self.authorities.iter().any(vouches)
                    || self.shared.read().pinned(&fingerprint(leaf)).is_some()
            }
            PeerIdentity::Psk(_) | PeerIdentity::RawPublicKey(_) => true,
        }
    }

    fn admit_psk(
        &self,
        purpose: Purpose,
        identity: &[u8],
        endpoint: &str,
    ) -> Result<Admitted, Denied> {
        let table = self.shared.read();
        let Some(holder) = table.holder(purpose, identity) else {
            return Err(Denied::unknown(format!(
                "PSK identity {} was valid when the session began and is not any more; add the device again with `lwm2mqtt device add`",
                Printable(identity)
            )));
        };
        if *holder.endpoint == *endpoint {
            return Ok(Admitted::Proven);
        }
        Err(Denied::mismatch(format!(
            "PSK identity {} belongs to endpoint {}, and the device says that it is {}; set its endpoint name, or give it a key of its own",
            Printable(identity),
            Printable(holder.endpoint.as_bytes()),
            Printable(endpoint.as_bytes()),
        )))
    }

    fn admit_certificate(
        &self,
        purpose: Purpose,
        leaf: &[u8],
        names: &[String],
        authority: Option<&[u8; 32]>,
        endpoint: &str,
    ) -> Result<Admitted, Denied> {
        let shown = || Printable(names.first().map_or(&[], |name| name.as_bytes()));
        let table = self.shared.read();
        if let Some(record) = table.pinned(&fingerprint(leaf)) {
            if *record.endpoint == *endpoint {
                return Ok(Admitted::Proven);
            }
            return Err(Denied::mismatch(format!(
                "certificate {} belongs to endpoint {}, and the device says that it is {}",
                shown(),
                Printable(record.endpoint.as_bytes()),
                Printable(endpoint.as_bytes()),
            )));
        }
        let of_purpose = |record: &&Arc<Record>| {
            let psk = match purpose {
                Purpose::Management => &record.psk,
                Purpose::Bootstrap => &record.bootstrap_psk,
            };
            psk.is_some() || record.certificate.is_some()
        };
        if let Some(record) = table.by_endpoint(endpoint).filter(of_purpose) {
            return Err(Denied::mismatch(format!(
                "endpoint {} has credentials of its own ({}), and came with certificate {} instead",
                Printable(endpoint.as_bytes()),
                record.credentials(),
                shown(),
            )));
        }
        let vouching: Vec<&Authority> = self
            .authorities
            .iter()
            .filter(|known| Some(&known.sha256) == authority)
            .collect();
        if vouching.iter().any(|known| known.vouches(names, endpoint)) {
            return Ok(Admitted::Proven);
        }
        let covering: Vec<&&Authority> = vouching
            .iter()
            .filter(|known| known.covers(names))
            .collect();
        if covering.is_empty() {
            return Err(Denied::unknown(format!(
                "certificate {} is not known, and no authority may vouch for it; add it with `lwm2mqtt device add NAME --endpoint {} --cert FILE`",
                shown(),
                Printable(endpoint.as_bytes()),
            )));
        }
        let allowed: Vec<String> = covering
            .iter()
            .flat_map(|known| known.rule.endpoints(names))
            .map(|name| Printable(name.as_bytes()).to_string())
            .collect();
        Err(Denied::mismatch(format!(
            "certificate {} is for endpoint {}, and the device says that it is {}",
            shown(),
            allowed.join(" or "),
            Printable(endpoint.as_bytes()),
        )))
    }

    fn admit_unsecured(
        &mut self,
        now: Now,
        purpose: Purpose,
        source: IpAddr,
        endpoint: &str,
    ) -> Result<Admitted, Denied> {
        let from = &self.policy.coap_from;
        if !from.is_empty() && !from.iter().any(|network| network.contains(source)) {
            return Err(Denied::unknown(format!(
                "{} is in none of the networks of [devices] coap_from, so nobody is let in from there without security",
                source.to_canonical()
            )));
        }
        let shown = Printable(endpoint.as_bytes());
        {
            let table = self.shared.read();
            let record = table.by_endpoint(endpoint);
            // A key given without security is no reason to refuse to give the next one.
            let granted = table
                .grant(endpoint)
                .is_some_and(|grant| purpose == Purpose::Management || grant.expires.is_none());
            if granted || record.is_some_and(|record| record.has_credential()) {
                return Err(Denied::unknown(format!(
                    "endpoint {shown} has a credential and came without it; let it speak to the coaps address, or remove the credential with `lwm2mqtt device remove`",
                )));
            }
            if record.is_some() {
                return Ok(Admitted::Approved);
            }
        }
        match self.policy.join {
            Join::Open => Ok(Admitted::Anyone),
            Join::Window if self.window(now).is_some() => match purpose {
                // The bootstrap server gives a key that ends with the window; nobody is approved.
                Purpose::Bootstrap => Ok(Admitted::Anyone),
                Purpose::Management => self.join_through_window(now, endpoint),
            },
            Join::Window => Err(Denied::unknown(format!(
                "endpoint {shown} is not known and the join window is closed; open it with `lwm2mqtt device join --for 2m`, or approve the device with `lwm2mqtt device approve {endpoint}`",
                endpoint = argument(endpoint),
            ))),
            Join::Known => Err(Denied::unknown(format!(
                "endpoint {shown} is not known; give it a credential with `lwm2mqtt device add {endpoint} --psk-generate`, or let it in without security with `lwm2mqtt device approve {endpoint}`",
                endpoint = argument(endpoint),
            ))),
        }
    }

    /// The endpoint of a PSK identity: that of a device which names none (LwM2M Core 1.1 §6.2.1).
    pub fn endpoint_of(&self, purpose: Purpose, identity: &PeerIdentity) -> Option<Arc<str>> {
        let table = self.shared.read();
        match identity {
            PeerIdentity::Psk(identity) => Some(table.holder(purpose, identity)?.endpoint.clone()),
            PeerIdentity::X509 { leaf, .. } => {
                Some(table.pinned(&fingerprint(leaf))?.endpoint.clone())
            }
            PeerIdentity::RawPublicKey(_) => None,
        }
    }

    /// Whether this identity can be several endpoints, so that it does not say by itself which one
    /// of them is there: a certificate with several names, of an authority that lets it choose.
    pub fn may_be_several(&self, identity: &PeerIdentity) -> bool {
        let PeerIdentity::X509 {
            leaf,
            names,
            authority: Some(authority),
            ..
        } = identity
        else {
            return false;
        };
        if self.shared.read().pinned(&fingerprint(leaf)).is_some() {
            return false;
        }
        let vouching = self
            .authorities
            .iter()
            .filter(|known| known.sha256 == *authority && known.covers(names));
        let allowed: BTreeSet<String> = vouching
            .flat_map(|known| known.rule.endpoints(names))
            .collect();
        allowed.len() > 1
    }

    /// The operator's name of an endpoint, where it is another than the endpoint itself.
    pub fn name_of(&self, endpoint: &str) -> Option<Arc<str>> {
        let table = self.shared.read();
        let name = &table.by_endpoint(endpoint)?.name;
        (**name != *endpoint).then(|| name.clone())
    }

    /// The record of an endpoint.
    pub fn record_of(&self, endpoint: &str) -> Option<Arc<Record>> {
        self.shared.read().by_endpoint(endpoint).cloned()
    }

    /// The record of this name, or else of this endpoint.
    pub fn find(&self, name: &str) -> Option<Arc<Record>> {
        let table = self.shared.read();
        table
            .by_name(name)
            .or_else(|| table.by_endpoint(name))
            .cloned()
    }

    /// The key that the bootstrap server gave an endpoint.
    pub fn grant_of(&self, endpoint: &str) -> Option<Arc<Grant>> {
        self.shared.read().grant(endpoint).cloned()
    }

    /// Every record, by name.
    pub fn records(&self) -> Vec<Arc<Record>> {
        self.shared.read().records().cloned().collect()
    }

    /// Every key that the bootstrap server gave, by endpoint.
    pub fn grants(&self) -> Vec<Arc<Grant>> {
        self.shared.read().grants().cloned().collect()
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.shared.read().len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Opens the join window until `duration` has passed, however long it was open before.
    pub fn open_window(&mut self, now: Now, duration: Duration) {
        self.window = Some(now.instant + duration);
    }

    /// Closes the join window. Whether it was open.
    pub fn close_window(&mut self, now: Now) -> bool {
        let was_open = self.window(now).is_some();
        self.window = None;
        was_open
    }

    /// How long the join window stays open; `None` when it is closed.
    pub fn window(&self, now: Now) -> Option<Duration> {
        let left = self.window?.since(now.instant);
        (!left.is_zero()).then_some(left)
    }

    /// When [`Book::timeout`] is due.
    pub fn next_timeout(&self) -> Option<Instant> {
        [self.window, self.expiry_due].into_iter().flatten().min()
    }

    /// The instant of [`Book::next_timeout`] has come.
    pub fn timeout(&mut self, now: Now) {
        if self.window.is_some_and(|until| until <= now.instant) {
            self.window = None;
            self.events.push_back(Event::WindowClosed);
        }
        if self.expiry_due.is_some_and(|due| due <= now.instant) {
            self.expire_grants(now);
        }
    }

    /// What has to be stored, in order, until `None`.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// What happened, until `None`.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

/// A name as it is written in a shell: quoted where that needs it.
fn argument(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/');
    if !name.is_empty() && !name.starts_with('-') && name.chars().all(plain) {
        name.to_owned()
    } else {
        format!(
            "'{}'",
            name.escape_debug().to_string().replace('\'', "'\\''")
        )
    }
}

#[cfg(test)]
mod tests;
