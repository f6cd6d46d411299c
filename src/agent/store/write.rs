//! A change becomes rows.

use rusqlite::params;

use super::Sqlite;
use crate::gateway::publish::Class;
use crate::kept::{Change, Kind, path_to_bytes};
use crate::server::credentials::{self, Psk};
use crate::time::UnixTime;

impl Sqlite {
    pub(super) fn write(&self, change: &Change) -> rusqlite::Result<()> {
        match change {
            Change::Credential(change) => self.write_credential(change),
            Change::Registered(endpoint, registration, _) => self.execute(
                "INSERT INTO endpoint (name, registration, standing) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE SET registration = excluded.registration, standing = excluded.standing",
                params![&**endpoint, encode(&**registration), registration.standing],
            ),
            Change::Ended(endpoint) => {
                self.execute(
                    "UPDATE endpoint SET standing = 0 WHERE name = ?1",
                    params![&**endpoint],
                )?;
                self.execute(
                    "DELETE FROM observation WHERE endpoint = (SELECT id FROM endpoint WHERE name = ?1)",
                    params![&**endpoint],
                )
            }
            Change::Observed(endpoint, observation) => self.execute(
                "INSERT OR REPLACE INTO observation (endpoint, target, body) SELECT id, ?2, ?3 FROM endpoint WHERE name = ?1",
                params![
                    &**endpoint,
                    encode(&observation.target),
                    encode(&**observation)
                ],
            ),
            Change::Unobserved(endpoint, target) => self.execute(
                "DELETE FROM observation WHERE endpoint = (SELECT id FROM endpoint WHERE name = ?1) AND target = ?2",
                params![&**endpoint, encode(target)],
            ),
            Change::Described(endpoint, descriptor, _) => self.execute(
                "UPDATE endpoint SET descriptor = ?2 WHERE name = ?1",
                params![&**endpoint, encode(&**descriptor)],
            ),
            Change::Heard(endpoint, contact, _) => self.execute(
                "INSERT OR REPLACE INTO contact (endpoint, body) SELECT id, ?2 FROM endpoint WHERE name = ?1",
                params![&**endpoint, encode(&**contact)],
            ),
            Change::Stands(endpoint, signal, _) => self.execute(
                "INSERT OR REPLACE INTO signal (endpoint, path, body) SELECT id, ?2, ?3 FROM endpoint WHERE name = ?1",
                params![&**endpoint, path_to_bytes(&signal.path), encode(&**signal)],
            ),
            Change::Cleared(endpoint, path) => self.execute(
                "DELETE FROM signal WHERE endpoint = (SELECT id FROM endpoint WHERE name = ?1) AND path = ?2",
                params![&**endpoint, path_to_bytes(path)],
            ),
            Change::Forgotten(endpoint) => {
                self.execute("DELETE FROM endpoint WHERE name = ?1", params![&**endpoint])?;
                self.execute(
                    "DELETE FROM document WHERE endpoint = ?1",
                    params![&**endpoint],
                )
            }
            Change::Put(document, _) => self.execute(
                "INSERT OR REPLACE INTO document (endpoint, kind, id, body) VALUES (?1, ?2, ?3, ?4)",
                params![
                    &*document.key.endpoint,
                    code(document.key.kind),
                    &*document.key.id,
                    document.body
                ],
            ),
            Change::Drop(key, _) => self.execute(
                "DELETE FROM document WHERE endpoint = ?1 AND kind = ?2 AND id = ?3",
                params![&*key.endpoint, code(key.kind), &*key.id],
            ),
            Change::Gateway(gateway, _) => self.execute(
                "INSERT OR REPLACE INTO gateway (id, body) VALUES (1, ?1)",
                params![encode(gateway)],
            ),
            Change::Spooled(spooled) => self.execute(
                "INSERT OR REPLACE INTO spool (number, class, body) VALUES (?1, ?2, ?3)",
                params![spooled.number, class_code(spooled.class), spooled.body],
            ),
            Change::Unspooled(class, below) => self.execute(
                "DELETE FROM spool WHERE number < ?2 AND class = ?1",
                params![class_code(*class), below],
            ),
        }
    }

    fn write_credential(&self, change: &credentials::Change) -> rusqlite::Result<()> {
        let identity = |psk: &Option<Psk>| psk.as_ref().map(|psk| psk.identity.to_vec());
        match change {
            credentials::Change::Put(record) => self.execute(
                "INSERT OR REPLACE INTO device (name, endpoint, psk_identity, psk_key, bootstrap_identity, bootstrap_key, certificate, added) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    &*record.name,
                    &*record.endpoint,
                    identity(&record.psk),
                    record.psk.as_ref().map(|psk| psk.key.expose()),
                    identity(&record.bootstrap_psk),
                    record.bootstrap_psk.as_ref().map(|psk| psk.key.expose()),
                    record.certificate,
                    record.added.as_millis(),
                ],
            ),
            credentials::Change::Remove(name) => {
                self.execute("DELETE FROM device WHERE name = ?1", params![&**name])
            }
            credentials::Change::Grant(grant) => self.execute(
                "INSERT OR REPLACE INTO granted_key (endpoint, identity, key, expires, added) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    &*grant.endpoint,
                    &*grant.psk.identity,
                    grant.psk.key.expose(),
                    grant.expires.map(UnixTime::as_millis),
                    grant.added.as_millis(),
                ],
            ),
            credentials::Change::Revoke(endpoint) => self.execute(
                "DELETE FROM granted_key WHERE endpoint = ?1",
                params![&**endpoint],
            ),
        }
    }

    fn execute(&self, sql: &str, values: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute(values)?;
        Ok(())
    }
}

/// The bytes of a row. Writing to a vector does not fail.
fn encode<T: minicbor::Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).unwrap_or_default()
}

/// The number of a kind in the database; never another one.
pub(super) const fn code(kind: Kind) -> i64 {
    match kind {
        Kind::Command => 1,
        Kind::Reply => 2,
        Kind::Update => 3,
        Kind::Cleared => 4,
    }
}

/// The number of a class in the database; never another one.
const fn class_code(class: Class) -> i64 {
    match class {
        Class::State => 0,
        Class::Event => 1,
        Class::Sample => 2,
    }
}

/// The class of a number.
pub(super) const fn class(code: i64) -> Option<Class> {
    Some(match code {
        1 => Class::Event,
        2 => Class::Sample,
        _ => return None,
    })
}

/// The kind of a number.
pub(super) const fn kind(code: i64) -> Option<Kind> {
    Some(match code {
        1 => Kind::Command,
        2 => Kind::Reply,
        3 => Kind::Update,
        4 => Kind::Cleared,
        _ => return None,
    })
}
