//! Bootstrap profiles: what a device is told when it asks where it belongs.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::dtls::PeerIdentity;
use crate::lwm2m::model::{Models, Version};
use crate::lwm2m::path::{Id, Path};
use crate::lwm2m::value::{Record, Value};
use crate::name_pattern::NamePattern;
use crate::secret::Secret;

/// The LwM2M Security object.
pub(super) const SECURITY: Id = 0;
/// The LwM2M Server object.
pub(super) const SERVER: Id = 1;
/// The LwM2M Access Control object.
pub(super) const ACCESS: Id = 2;

/// In /2: the object itself instead of an instance, and an owner that is no server
/// (LwM2M Core 1.1 §8.1.2).
pub(super) const NOBODY: Id = Id::MAX;

/// All profiles, the one that wins first. Immutable.
#[derive(Debug, Default)]
pub struct Profiles {
    pub(super) profiles: Vec<std::sync::Arc<Profile>>,
}

/// What becomes of the devices that it is for.
#[derive(Debug)]
pub struct Profile {
    /// Its name.
    pub id: String,
    /// Of several that are for a device the one with the highest counts.
    pub priority: i64,
    pub(super) selector: Selector,
    /// Deleted first, in this order.
    pub delete: Vec<Path>,
    /// The account of the bootstrap server itself.
    pub own: OwnAccount,
    /// The servers that the device is to register with; at least one.
    pub accounts: Vec<Account>,
    /// What each of them may do.
    pub access: Vec<AccessRule>,
    /// Further object instances.
    pub objects: Vec<Instance>,
}

/// For which devices a profile is: every condition given holds.
#[derive(Debug, Default)]
pub(super) struct Selector {
    pub(super) endpoint: Option<NamePattern>,
    pub(super) identity: Option<NamePattern>,
    /// There is no `[match]`, or nothing in it.
    pub(super) never: bool,
}

/// What is changed of the account that the device came with (LwM2M Core 1.1, /0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnAccount {
    /// Client Hold Off Time, /0/x/11, seconds.
    pub hold_off: Option<u32>,
    /// Bootstrap-Server Account Timeout, /0/x/12, seconds; 0 keeps the account for ever.
    pub timeout: Option<u32>,
}

/// A server account: one instance of object 0 and one of object 1.
#[derive(Debug)]
pub struct Account {
    /// LwM2M Server URI, /0/x/0.
    pub uri: String,
    /// 1 to 65534.
    pub short_server_id: Id,
    /// How the device proves who it is there.
    pub security: Security,
    /// Further resources of object 0, ascending.
    pub(super) security_extra: Vec<(Id, Value)>,
    /// The resources of object 1 but the Short Server ID, ascending.
    pub(super) server: Vec<(Id, Value)>,
}

/// Security of an account (LwM2M Core 1.1 §E.1).
#[derive(Debug)]
pub enum Security {
    /// Mode 3.
    None,
    /// Mode 0.
    Psk {
        /// The endpoint name if absent.
        identity: Option<String>,
        /// The key.
        key: Key,
    },
    /// Mode 2.
    X509 {
        /// What the server's certificate is compared with, /0/x/4, DER.
        server: Vec<u8>,
        /// The device's certificate and private key, /0/x/3 and /0/x/5, DER; without them the
        /// device is to use what it was made with.
        own: Option<(Vec<u8>, Secret)>,
    },
}

/// A pre-shared key.
#[derive(Debug)]
pub enum Key {
    /// Made for each device, each time it is bootstrapped, and kept for our own LwM2M server.
    Generate,
    /// One that another server knows.
    Given(Secret),
}

/// An instance of the Access Control object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// The object it is about.
    pub object: Id,
    /// The instance; `None` is the right to create instances.
    pub instance: Option<Id>,
    /// The server that owns it; `None` is nobody, so that only bootstrap changes it.
    pub owner: Option<Id>,
    /// Rights by Short Server ID, 0 for all others; bits R 1, W 2, E 4, D 8, C 16.
    pub rights: Vec<(Id, u8)>,
}

/// An instance of any other object.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// `/o/i`
    pub path: Path,
    /// What stands in it.
    pub records: Vec<Record>,
}

impl Profiles {
    /// The profile of a device.
    pub fn choose(
        &self,
        endpoint: &str,
        identity: Option<&PeerIdentity>,
    ) -> Option<std::sync::Arc<Profile>> {
        self.profiles
            .iter()
            .find(|profile| profile.selector.selects(endpoint, identity))
            .cloned()
    }

    /// Every profile, in the order in which they are tried.
    pub fn iter(&self) -> impl Iterator<Item = &Profile> {
        self.profiles.iter().map(|profile| &**profile)
    }
}

impl Selector {
    fn selects(&self, endpoint: &str, identity: Option<&PeerIdentity>) -> bool {
        !self.never
            && self
                .endpoint
                .as_ref()
                .is_none_or(|pattern| pattern.matches(endpoint))
            && self.identity.as_ref().is_none_or(|pattern| {
                identity.is_some_and(|identity| names(identity).any(|name| pattern.matches(name)))
            })
    }

    /// Whether it is for one device alone.
    pub(super) fn is_exact(&self) -> bool {
        [&self.endpoint, &self.identity]
            .into_iter()
            .flatten()
            .any(NamePattern::is_exact)
    }

    /// Orders the more specific first: one endpoint or identity, then more literal characters,
    /// then more conditions.
    fn specificity(&self) -> impl Ord + use<> {
        let patterns = || [&self.endpoint, &self.identity].into_iter().flatten();
        Reverse((
            self.is_exact(),
            patterns()
                .map(NamePattern::literal_characters)
                .sum::<usize>(),
            patterns().count(),
        ))
    }
}

/// What a peer calls itself where that is proven.
pub(super) fn names(identity: &PeerIdentity) -> impl Iterator<Item = &str> {
    let (psk, certificate): (_, &[String]) = match identity {
        PeerIdentity::Psk(identity) => (std::str::from_utf8(identity).ok(), &[]),
        PeerIdentity::X509 { names, .. } => (None, names),
        PeerIdentity::RawPublicKey(_) => (None, &[]),
    };
    psk.into_iter()
        .chain(certificate.iter().map(String::as_str))
}

impl Profile {
    /// Orders the one that counts first.
    pub(super) fn precedence(&self) -> impl Ord + use<> {
        (
            Reverse(self.priority),
            self.selector.specificity(),
            self.id.clone(),
        )
    }

    /// Whether every instance of `object` goes, so that none of the device's own is in the way.
    pub(super) fn clears(&self, object: Id) -> bool {
        self.delete
            .iter()
            .any(|path| path.contains(&Path::object(object)))
    }

    /// The objects that are written.
    pub(super) fn written_objects(&self) -> BTreeSet<Id> {
        let mut objects: BTreeSet<Id> = [SECURITY, SERVER].into();
        objects.extend((!self.access.is_empty()).then_some(ACCESS));
        objects.extend(self.objects.iter().filter_map(|o| o.path.object_id()));
        objects
    }

    /// The account that a key is made for, if there is one.
    pub(super) fn generated(&self) -> Option<&Account> {
        self.accounts.iter().find(|account| {
            let Security::Psk { key, .. } = &account.security else {
                return false;
            };
            matches!(key, Key::Generate)
        })
    }

    /// Whether a secret is handed out that was there before.
    pub(super) fn has_given_key(&self) -> bool {
        self.accounts.iter().any(|account| match &account.security {
            Security::Psk { key, .. } => matches!(key, Key::Given(_)),
            Security::X509 { own, .. } => own.is_some(),
            Security::None => false,
        })
    }
}

impl Account {
    /// The records of its instance of object 0. `generated` is identity and key where
    /// [`Key::Generate`] asks for them; `endpoint` the identity of a given key without one.
    pub(super) fn security_records(
        &self,
        instance: Id,
        endpoint: &str,
        generated: Option<(&[u8], &Secret)>,
    ) -> Vec<Record> {
        let (mode, identity, server, key): (i64, &[u8], &[u8], &[u8]) = match &self.security {
            Security::None => (3, &[], &[], &[]),
            Security::Psk {
                key: Key::Generate, ..
            } => {
                let (identity, key) = generated.map_or((&[][..], &[][..]), |(identity, key)| {
                    (identity, key.expose())
                });
                (0, identity, &[], key)
            }
            Security::Psk {
                identity,
                key: Key::Given(key),
            } => {
                let identity = identity.as_deref().unwrap_or(endpoint);
                (0, identity.as_bytes(), &[], key.expose())
            }
            Security::X509 { server, own } => {
                let (certificate, key) = own
                    .as_ref()
                    .map_or((&[][..], &[][..]), |(certificate, key)| {
                        (&certificate[..], key.expose())
                    });
                (2, certificate, server, key)
            }
        };
        // Those of no use in a mode are mandatory all the same, and empty.
        let mut resources = vec![
            (0, Value::String(self.uri.clone())),
            (1, Value::Boolean(false)),
            (2, Value::Integer(mode)),
            (3, Value::Opaque(identity.to_vec())),
            (4, Value::Opaque(server.to_vec())),
            (5, Value::Opaque(key.to_vec())),
            (10, Value::Integer(self.short_server_id.into())),
        ];
        resources.extend(self.security_extra.iter().cloned());
        records(SECURITY, instance, resources)
    }

    /// The records of its instance of object 1.
    pub(super) fn server_records(&self, instance: Id) -> Vec<Record> {
        let ssid = (0, Value::Integer(self.short_server_id.into()));
        records(
            SERVER,
            instance,
            std::iter::once(ssid).chain(self.server.iter().cloned()),
        )
    }
}

impl AccessRule {
    /// The records of its instance of object 2.
    pub(super) fn records(&self, instance: Id) -> Vec<Record> {
        let target = self.instance.unwrap_or(NOBODY);
        let mut all = records(
            ACCESS,
            instance,
            [
                (0, Value::Integer(self.object.into())),
                (1, Value::Integer(target.into())),
                (3, Value::Integer(self.owner.unwrap_or(NOBODY).into())),
            ],
        );
        all.extend(self.rights.iter().map(|(server, bits)| Record {
            path: Path::resource_instance(ACCESS, instance, 2, *server),
            value: Value::Integer((*bits).into()),
            time: None,
        }));
        all.sort_by_key(|record| record.path);
        all
    }
}

fn records(
    object: Id,
    instance: Id,
    resources: impl IntoIterator<Item = (Id, Value)>,
) -> Vec<Record> {
    resources
        .into_iter()
        .map(|(resource, value)| Record {
            path: Path::resource(object, instance, resource),
            value,
            time: None,
        })
        .collect()
}

/// Leaves out of an account what the object has not in this version of LwM2M, so that a strict
/// device of 1.0 does not refuse what came with 1.1.
pub(super) fn retain_known(records: &mut Vec<Record>, models: &Models, lwm2m: Version) {
    records.retain(|record| {
        let (Some(object), Some(resource)) = (record.path.object_id(), record.path.resource_id())
        else {
            return true;
        };
        models
            .object(object, Some(Version::implied(object, lwm2m)))
            .is_none_or(|model| model.resource(resource).is_some())
    });
}
