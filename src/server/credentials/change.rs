//! Changing the [`Book`]: what the operator adds and removes, what files hold, what the join window
//! and the bootstrap server do.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::record::{Conflict, Grant, Lost, Mistake, Origin, Psk, Record, Taken, check_endpoint};
use super::{Admitted, Authority, Book, Denied, Event};
use crate::coap::Code;
use crate::diagnostic::Diagnostic;
use crate::name::suffixed;
use crate::time::{Instant, Now, UnixTime};

/// Something that has to be stored before what depends on it is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The record of this name is this one.
    Put(Arc<Record>),
    /// There is no record of this name.
    Remove(Arc<str>),
    /// The endpoint was granted this key, in the place of another one.
    Grant(Arc<Grant>),
    /// The endpoint is granted no key.
    Revoke(Arc<str>),
}

/// What a store holds when it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Records of [`Origin::Store`].
    pub records: Vec<Record>,
    /// Keys given by the bootstrap server.
    pub grants: Vec<Grant>,
}

/// All files of devices.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Those that were found, in the order in which they count.
    pub found: Vec<File>,
    /// Whether it was not possible to look everywhere, so that one which was not found may still be
    /// there.
    pub partial: bool,
}

/// What one file of devices holds.
#[derive(Clone, Debug)]
pub struct File {
    /// Its name, for messages.
    pub name: Arc<str>,
    /// Its content; `None` when it could not be read, so that what it held before stays.
    pub content: Option<Content>,
}

/// The content of a file without a mistake of its own.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// Records, with where they stand.
    pub records: Vec<Placed>,
    /// Authorities.
    pub authorities: Vec<Authority>,
}

/// A record and where it stands.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The record.
    pub record: Record,
    /// A diagnostic of that place, its words still to be filled in.
    pub place: Diagnostic,
}

/// Why the book is not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The record is wrong in itself.
    #[error(transparent)]
    Mistake(#[from] Mistake),
    /// It cannot stand beside another one.
    #[error("{0}; remove that device first, or choose something else")]
    Conflict(#[from] Conflict),
    /// There are too many.
    #[error("no more than {0} devices can be stored")]
    Full(usize),
    /// Nobody has this name.
    #[error("no device is called \"{}\"; `lwm2mqtt device list` shows them all", .0.escape_debug())]
    Unknown(String),
    /// The record is not ours to change.
    #[error("device \"{}\" stands in {}; change that file", .0.escape_debug(), .1)]
    InFile(Arc<str>, Arc<str>),
    /// An approval of a device that has a credential.
    #[error("device \"{}\" has a credential ({}) and needs no approval", .0.escape_debug(), .1)]
    HasCredential(Arc<str>, String),
}

impl Book {
    /// Takes what the store held. Nothing of it is a [`Change`]. What cannot stand is given back
    /// with the reason: a store that something else wrote to.
    pub fn restore(&mut self, now: Now, stored: Stored) -> Vec<(Arc<str>, Refused)> {
        let mut refused = Vec::new();
        for record in stored.records {
            let name = record.name.clone();
            if let Err(why) = self.insert(record) {
                refused.push((name, why));
            }
        }
        for grant in stored.grants {
            let conflict = {
                let table = self.shared.read();
                table.identity_conflict(&grant.psk.identity, &grant.endpoint)
            };
            match conflict {
                Some(conflict) => refused.push((grant.endpoint, conflict.into())),
                None => self.insert_grant(Arc::new(grant)),
            }
        }
        // What ended while nobody looked ends now.
        self.expire_grants(now);
        refused
    }

    /// Adds a device.
    ///
    /// # Errors
    ///
    /// When it is wrong in itself, conflicts with another one, or there are too many.
    pub fn add(&mut self, record: Record) -> Result<Arc<Record>, Refused> {
        let record = self.insert(record)?;
        self.changes.push_back(Change::Put(record.clone()));
        // Whoever is registered under this name now did not prove anything, and may not go on.
        if record.has_credential() {
            self.end(record.endpoint.clone(), false, Vec::new());
        }
        Ok(record)
    }

    fn insert(&mut self, record: Record) -> Result<Arc<Record>, Refused> {
        record.check()?;
        let mut table = self.shared.write();
        if let Some(conflict) = table.conflict(&record) {
            return Err(conflict.into());
        }
        if table.len() >= self.limits.records {
            return Err(Refused::Full(self.limits.records));
        }
        let record = Arc::new(record);
        table.insert(record.clone());
        Ok(record)
    }

    /// Removes the device of this name, or else of this endpoint, with the key that it was granted.
    /// Its endpoint, of which [`Event::Ended`] tells too.
    ///
    /// # Errors
    ///
    /// When there is none, or it stands in a file.
    pub fn remove(&mut self, name: &str) -> Result<Arc<str>, Refused> {
        let record = self.find(name);
        let endpoint = match &record {
            Some(record) => {
                if let Origin::File(file) = &record.origin {
                    return Err(Refused::InFile(record.name.clone(), file.clone()));
                }
                self.shared.write().remove(&record.name);
                self.changes.push_back(Change::Remove(record.name.clone()));
                record.endpoint.clone()
            }
            None => match self.grant_of(name) {
                Some(grant) => grant.endpoint.clone(),
                None => return Err(Refused::Unknown(name.to_owned())),
            },
        };
        let mut lost: Vec<Lost> = record.iter().flat_map(|record| record.lost()).collect();
        lost.extend(self.revoke(&endpoint));
        self.end(endpoint.clone(), true, lost);
        Ok(endpoint)
    }

    /// Calls the device of this name, or else of this endpoint, `to` from now on.
    ///
    /// # Errors
    ///
    /// When there is none, it stands in a file, or another one is called that.
    pub fn rename(&mut self, name: &str, to: &str) -> Result<Arc<Record>, Refused> {
        let record = self
            .find(name)
            .ok_or_else(|| Refused::Unknown(name.to_owned()))?;
        if let Origin::File(file) = &record.origin {
            return Err(Refused::InFile(record.name.clone(), file.clone()));
        }
        if *record.name == *to {
            return Ok(record);
        }
        let renamed = Arc::new(Record {
            name: to.into(),
            ..(*record).clone()
        });
        renamed.check()?;
        let mut table = self.shared.write();
        if let Some(other) = table.by_name(to) {
            return Err(Conflict::Name(Taken::by(other)).into());
        }
        table.remove(&record.name);
        table.insert(renamed.clone());
        // There is one record an endpoint, so the first replaces the old one in one step.
        self.changes.push_back(Change::Put(renamed.clone()));
        self.changes.push_back(Change::Remove(record.name.clone()));
        Ok(renamed)
    }

    fn end(&mut self, endpoint: Arc<str>, removed: bool, lost: Vec<Lost>) {
        self.events.push_back(Event::Ended {
            endpoint,
            removed,
            lost,
        });
    }

    /// Lets an endpoint in: without security, or for good with the key that it was granted until
    /// the end of the join window.
    ///
    /// # Errors
    ///
    /// When it has a credential of its own, or its record cannot stand.
    pub fn approve(
        &mut self,
        now: Now,
        endpoint: &str,
        name: Option<&str>,
    ) -> Result<Arc<Record>, Refused> {
        if let Some(record) = self.record_of(endpoint) {
            if record.has_credential() {
                let credentials = record.credentials();
                return Err(Refused::HasCredential(record.name.clone(), credentials));
            }
            if name.is_none_or(|name| *name == *record.name) {
                return Ok(record);
            }
        }
        let mut record = Record::new(endpoint, now.unix);
        if let Some(name) = name {
            record.name = name.into();
        }
        let record = self.insert(record)?;
        self.changes.push_back(Change::Put(record.clone()));
        if let Some(grant) = self.grant_of(endpoint)
            && grant.expires.is_some()
        {
            let grant = Arc::new(Grant {
                expires: None,
                ..(*grant).clone()
            });
            self.insert_grant(grant.clone());
            self.changes.push_back(Change::Grant(grant));
        }
        Ok(record)
    }

    /// Approves whoever comes while the window is open.
    pub(super) fn join_through_window(
        &mut self,
        now: Now,
        endpoint: &str,
    ) -> Result<Admitted, Denied> {
        let mut record = Record::new(endpoint, now.unix);
        if self.shared.read().by_name(endpoint).is_some() {
            // The operator calls another device by this endpoint's name.
            record.name = suffixed(&crate::name::clean_name(endpoint), endpoint).into();
        }
        match self.insert(record) {
            Ok(record) => {
                self.changes.push_back(Change::Put(record.clone()));
                self.events
                    .push_back(Event::Joined(record.endpoint.clone()));
                Ok(Admitted::Joined)
            }
            Err(refused) => Err(Denied {
                code: match refused {
                    Refused::Full(_) => Code::SERVICE_UNAVAILABLE,
                    _ => Code::FORBIDDEN,
                },
                reason: format!("the join window cannot let it in: {refused}"),
            }),
        }
    }

    /// Grants an endpoint a key for the LwM2M server, in the place of the one that it was granted
    /// before. `expires` is required of a key that was given without security.
    ///
    /// # Errors
    ///
    /// When the key is wrong in itself or its identity is another endpoint's.
    pub fn grant(
        &mut self,
        now: Now,
        endpoint: &str,
        psk: Psk,
        expires: Option<UnixTime>,
    ) -> Result<(), Refused> {
        check_endpoint(endpoint)?;
        psk.check()?;
        {
            let table = self.shared.read();
            if let Some(conflict) = table.identity_conflict(&psk.identity, endpoint) {
                return Err(conflict.into());
            }
            let granted = table.grants().len();
            if granted >= self.limits.records && table.grant(endpoint).is_none() {
                return Err(Refused::Full(self.limits.records));
            }
        }
        let grant = Arc::new(Grant {
            endpoint: endpoint.into(),
            psk,
            expires,
            added: now.unix,
        });
        self.insert_grant(grant.clone());
        self.changes.push_back(Change::Grant(grant));
        self.plan_expiry(now);
        Ok(())
    }

    /// When a key that is given without security now has to end: with the join window. `None` while
    /// the window is closed, so that none is to be given, whatever the policy.
    pub fn grant_until(&self, now: Now) -> Option<UnixTime> {
        self.window(now).map(|left| now.unix + left)
    }

    fn insert_grant(&mut self, grant: Arc<Grant>) {
        self.forget_expiry(&grant.endpoint);
        if let Some(expires) = grant.expires {
            self.expiries.insert((expires, grant.endpoint.clone()));
        }
        self.shared.write().insert_grant(grant);
    }

    fn forget_expiry(&mut self, endpoint: &str) {
        if let Some(old) = self.grant_of(endpoint)
            && let Some(expires) = old.expires
        {
            self.expiries.remove(&(expires, old.endpoint.clone()));
        }
    }

    /// Takes back a granted key; what was lost, if there was one.
    pub(in crate::server) fn revoke(&mut self, endpoint: &Arc<str>) -> Option<Lost> {
        self.forget_expiry(endpoint);
        let removed = self.shared.write().remove_grant(endpoint)?;
        self.changes.push_back(Change::Revoke(endpoint.clone()));
        Some(Lost::Psk(removed.psk.identity.clone()))
    }

    /// Ends the granted keys whose time is over.
    pub(super) fn expire_grants(&mut self, now: Now) {
        while let Some((_, endpoint)) = self
            .expiries
            .first()
            .filter(|(at, _)| *at <= now.unix)
            .cloned()
        {
            let lost = self.revoke(&endpoint).into_iter().collect();
            self.end(endpoint, false, lost);
        }
        self.plan_expiry(now);
    }

    /// The wall clock may be set in between, so it is looked at once an hour at least.
    fn plan_expiry(&mut self, now: Now) {
        const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);
        self.expiry_due = self.expiries.first().map(|(at, _)| {
            let left = at.as_millis().saturating_sub(now.unix.as_millis());
            let left = std::time::Duration::from_millis(u64::try_from(left).unwrap_or(0));
            let due: Instant = now.instant + left.min(HOUR);
            due
        });
    }

    /// Takes all files of devices as they are now, in the place of what files held before.
    ///
    /// A file with a record that conflicts with the store or a file before it changes nothing: what
    /// it held stays, and the mistakes are given back.
    pub fn replace_files(&mut self, files: Files) -> Vec<Diagnostic> {
        let before = self.records();
        let Files {
            found: mut files,
            partial,
        } = files;
        if partial {
            files.extend(self.files_beside(&before, &files));
        }
        let mut diagnostics = Vec::new();
        let mut authorities = Vec::new();
        let mut ended = Vec::new();
        {
            let mut table = self.shared.write();
            let mut fresh = table.emptied();
            for record in before
                .iter()
                .filter(|record| record.origin == Origin::Store)
            {
                fresh.insert(record.clone());
            }
            for grant in table.grants() {
                fresh.insert_grant(grant.clone());
            }
            for File { name, content } in files {
                let mut conflicts = Vec::new();
                let mut inserted = Vec::new();
                for Placed { record, place } in content.iter().flat_map(|it| &it.records) {
                    let refused = match fresh.conflict(record) {
                        Some(conflict) => Some(Refused::from(conflict)),
                        None if fresh.len() >= self.limits.records => {
                            Some(Refused::Full(self.limits.records))
                        }
                        None => None,
                    };
                    match refused {
                        Some(refused) => conflicts.push(Diagnostic {
                            code: "conflict",
                            message: match &refused {
                                Refused::Conflict(conflict) => conflict.to_string(),
                                other => other.to_string(),
                            },
                            hint: "remove one of the two".to_owned(),
                            ..place.clone()
                        }),
                        None => {
                            inserted.push(record.name.clone());
                            fresh.insert(Arc::new(record.clone()));
                        }
                    }
                }
                let sound = content.filter(|_| conflicts.is_empty());
                diagnostics.extend(conflicts);
                let origin = Origin::File(name);
                match sound {
                    Some(content) => authorities.extend(content.authorities),
                    None => {
                        for name in inserted {
                            fresh.remove(&name);
                        }
                        let held = before.iter().filter(|record| record.origin == origin);
                        for record in held {
                            if fresh.conflict(record).is_none() {
                                fresh.insert(record.clone());
                            }
                        }
                        let kept = self.authorities.iter().filter(|it| it.origin == origin);
                        authorities.extend(kept.cloned());
                    }
                }
            }
            for record in &before {
                let stays = fresh
                    .by_endpoint(&record.endpoint)
                    .is_some_and(|now| !now.differs(record));
                if !stays {
                    ended.push((record.endpoint.clone(), record.lost()));
                }
            }
            *table = fresh;
        }
        for (endpoint, mut lost) in ended {
            // Who loses the record loses the key that was granted because of it.
            let removed = self.record_of(&endpoint).is_none();
            if removed {
                lost.extend(self.revoke(&endpoint));
            }
            self.end(endpoint, removed, lost);
        }
        self.events.push_back(Event::Changed);
        self.trust(authorities, |origin| matches!(origin, Origin::File(_)));
        diagnostics
    }

    /// The files that hold something now and are not among these, to be left as they are.
    fn files_beside(&self, records: &[Arc<Record>], files: &[File]) -> Vec<File> {
        let of_records = records.iter().map(|record| &record.origin);
        let of_authorities = self.authorities.iter().map(|authority| &authority.origin);
        let names: BTreeSet<&Arc<str>> = of_records
            .chain(of_authorities)
            .filter_map(|origin| match origin {
                Origin::File(name) => Some(name),
                Origin::Store => None,
            })
            .filter(|name| files.iter().all(|file| file.name != **name))
            .collect();
        let kept = |name: &Arc<str>| File {
            name: name.clone(),
            content: None,
        };
        names.into_iter().map(kept).collect()
    }

    /// The authorities of the configuration itself, in the place of those that it named before.
    pub fn trust_always(&mut self, authorities: Vec<Authority>) {
        self.trust(authorities, |origin| *origin == Origin::Store);
    }

    fn trust(&mut self, authorities: Vec<Authority>, replaces: impl Fn(&Origin) -> bool) {
        let kept = self.authorities.iter().filter(|it| !replaces(&it.origin));
        let all: Vec<Authority> = kept.cloned().chain(authorities).collect();
        if all != self.authorities {
            self.authorities = all;
            self.generation += 1;
            self.events.push_back(Event::Changed);
        }
    }
}
