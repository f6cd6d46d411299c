//! From a profile and what a device has to what is written where.

use std::collections::{BTreeMap, BTreeSet};

use super::profile::{ACCESS, NOBODY, Profile, SECURITY, SERVER, retain_known};
use crate::lwm2m::link::Link;
use crate::lwm2m::model::{Models, Version};
use crate::lwm2m::path::{Id, Level, Path};
use crate::lwm2m::value::{Record, Value};
use crate::secret::Secret;

/// What a device has before it is changed, as far as it told.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Whether it answered a Discover: only then is an absence a fact.
    discovered: bool,
    /// The version of LwM2M that it says it speaks.
    pub(super) version: Option<Version>,
    /// Instances of objects 0 and 1 with their Short Server IDs; those of object 0 without one are
    /// accounts of bootstrap servers.
    accounts: BTreeMap<(Id, Id), Option<Id>>,
    /// Instances of object 2 with the object and instance that each is about.
    access: BTreeMap<Id, Option<(i64, i64)>>,
}

/// One Bootstrap-Write.
pub(super) struct Write {
    /// The target of the request.
    pub(super) path: Path,
    /// What is written.
    pub(super) records: Vec<Record>,
}

impl Found {
    /// Takes in the answer to a Bootstrap-Discover (LwM2M Core 1.1 §6.1.7.2).
    pub(super) fn add_links(&mut self, links: &[Link]) {
        self.discovered = true;
        for link in links {
            if let Some(version) = link.value("lwm2m") {
                self.version = version.parse().ok().or(self.version);
            }
            let Ok(path) = link.target.parse::<Path>() else {
                continue;
            };
            let (Level::Instance, Some(object), Some(instance)) =
                (path.level(), path.object_id(), path.instance_id())
            else {
                continue;
            };
            let ssid = link.value("ssid").and_then(|ssid| ssid.parse().ok());
            match object {
                SECURITY | SERVER => {
                    self.accounts.insert((object, instance), ssid);
                }
                ACCESS => {
                    self.access.entry(instance).or_default();
                }
                _ => {}
            }
        }
    }

    /// Takes in the answer to a Bootstrap-Read of object 1 or 2.
    pub(super) fn add_records(&mut self, records: &[Record]) {
        for record in records {
            let number = match record.value {
                Value::Integer(number) => number,
                _ => continue,
            };
            let (Some(object), Some(instance), Some(resource)) = (
                record.path.object_id(),
                record.path.instance_id(),
                record.path.resource_id(),
            ) else {
                continue;
            };
            match (object, resource) {
                (SERVER, 0) => {
                    self.accounts
                        .insert((SERVER, instance), Id::try_from(number).ok());
                }
                (ACCESS, 0 | 1) => {
                    let target = self.access.entry(instance).or_default();
                    let (object, inside) = target.unwrap_or((-1, -1));
                    *target = Some(match resource {
                        0 => (number, inside),
                        _ => (object, number),
                    });
                }
                _ => {}
            }
        }
    }

    /// The account that the device came with is this instance of object 0 (`acc` of a
    /// Bootstrap-Pack-Request).
    pub(super) fn add_bootstrap_account(&mut self, instance: Id) {
        self.discovered = true;
        self.accounts.insert((SECURITY, instance), None);
    }

    /// Instances of object 0 that are accounts of bootstrap servers.
    ///
    /// Of a device that does not tell, the first instance is taken for one: there its maker puts
    /// it.
    fn bootstrap_accounts(&self) -> BTreeSet<Id> {
        if !self.discovered {
            return [0].into();
        }
        self.accounts
            .iter()
            .filter(|((object, _), ssid)| *object == SECURITY && ssid.is_none())
            .map(|((_, instance), _)| *instance)
            .collect()
    }

    /// The account that the device came with, where there is no doubt.
    fn own_account(&self) -> Option<Id> {
        let accounts = self.bootstrap_accounts();
        let first = accounts.first().copied();
        first.filter(|_| self.discovered && accounts.len() == 1)
    }

    /// Whether the instance is there when the deleting is done.
    fn remains(&self, profile: &Profile, object: Id, instance: Id) -> bool {
        let path = Path::instance(object, instance);
        !profile.delete.iter().any(|deleted| deleted.contains(&path))
    }
}

/// Which instances are taken, and which server they are of.
struct Places {
    taken: BTreeSet<Id>,
    of: BTreeMap<Id, Id>,
}

impl Places {
    /// Of object 0 or 1 when the deleting is done.
    fn of_accounts(found: &Found, profile: &Profile, object: Id) -> Self {
        let remaining = || {
            found
                .accounts
                .iter()
                .filter(|((of, instance), _)| {
                    *of == object && found.remains(profile, object, *instance)
                })
                .map(|((_, instance), ssid)| (*instance, *ssid))
        };
        let mut taken: BTreeSet<Id> = remaining().map(|(instance, _)| instance).collect();
        if object == SECURITY {
            taken.extend(found.bootstrap_accounts());
        }
        Self {
            of: remaining()
                .filter_map(|(instance, ssid)| Some((ssid?, instance)))
                .collect(),
            taken,
        }
    }

    /// The instance that the server has already, else the first free one.
    fn claim(&mut self, ssid: Id) -> Id {
        let instance = match self.of.get(&ssid) {
            Some(instance) => *instance,
            None => first_free(&self.taken),
        };
        self.taken.insert(instance);
        instance
    }
}

fn first_free(taken: &BTreeSet<Id>) -> Id {
    (0..Id::MAX)
        .find(|instance| !taken.contains(instance))
        .unwrap_or_default()
}

/// Everything that is written, in its order: accounts, access control, further objects, and last
/// what changes at the account that the device came with.
///
/// The second value says in words what could not be planned.
pub(super) fn writes(
    profile: &Profile,
    found: &Found,
    endpoint: &str,
    generated: Option<(&[u8], &Secret)>,
    models: &Models,
    version: Version,
) -> (Vec<Write>, Option<String>) {
    let mut security = Places::of_accounts(found, profile, SECURITY);
    let mut server = Places::of_accounts(found, profile, SERVER);
    let mut writes = Vec::new();
    let mut write = |path: Path, records: Vec<Record>| writes.push(Write { path, records });
    for account in &profile.accounts {
        let instance = security.claim(account.short_server_id);
        let mut records = account.security_records(instance, endpoint, generated);
        retain_known(&mut records, models, version);
        write(Path::instance(SECURITY, instance), records);
    }
    for account in &profile.accounts {
        let instance = server.claim(account.short_server_id);
        let mut records = account.server_records(instance);
        retain_known(&mut records, models, version);
        write(Path::instance(SERVER, instance), records);
    }
    let mut taken: BTreeSet<Id> = found
        .access
        .keys()
        .copied()
        .filter(|instance| found.remains(profile, ACCESS, *instance))
        .collect();
    for rule in &profile.access {
        let target = (
            i64::from(rule.object),
            i64::from(rule.instance.unwrap_or(NOBODY)),
        );
        let same = found.access.iter().find(|(instance, about)| {
            **about == Some(target) && found.remains(profile, ACCESS, **instance)
        });
        let instance = same.map_or_else(|| first_free(&taken), |(instance, _)| *instance);
        taken.insert(instance);
        write(Path::instance(ACCESS, instance), rule.records(instance));
    }
    for object in &profile.objects {
        write(object.path, object.records.clone());
    }
    let own = [(11, profile.own.hold_off), (12, profile.own.timeout)];
    let wanted = own.iter().any(|(_, value)| value.is_some());
    let Some(account) = found.own_account() else {
        let doubt = wanted.then(|| {
            "hold_off and account_timeout were not written: the device does not tell which \
             account of object 0 is the bootstrap server's"
                .to_owned()
        });
        return (writes, doubt);
    };
    for (resource, seconds) in own {
        if let Some(seconds) = seconds {
            let path = Path::resource(SECURITY, account, resource);
            let value = Value::Integer(seconds.into());
            let time = None;
            let record = Record { path, value, time };
            writes.push(Write {
                path,
                records: vec![record],
            });
        }
    }
    (writes, None)
}
