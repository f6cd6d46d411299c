//! What is kept over restarts, in one folder: a database that only we may read.
//!
//! The core says what to keep ([`Change`]) and is given it back at the next start ([`Stored`]).
//! What is *absent* here: what a record means.

mod schema;

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, Row, params};

use crate::secret::Secret;
use crate::server::credentials::{Change, Grant, Origin, Psk, Record, Stored};
use crate::time::UnixTime;

/// The database in the folder.
const DATABASE: &str = "lwm2mqtt.db";
/// Whoever holds it locked may write to the database.
const LOCK: &str = "lwm2mqtt.lock";

/// Keeps what the core wants kept.
pub trait Store: Send {
    /// Everything that is kept.
    ///
    /// # Errors
    ///
    /// When it cannot be read or makes no sense.
    fn load(&self) -> Result<Stored, StoreError>;

    /// Keeps all of these changes or none. When this returns, they are on the disk.
    ///
    /// # Errors
    ///
    /// When they cannot be written.
    fn apply_all(&mut self, changes: &[Change]) -> Result<(), StoreError>;

    /// Keeps one change.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    fn apply(&mut self, change: &Change) -> Result<(), StoreError> {
        self.apply_all(std::slice::from_ref(change))
    }
}

/// Why a store cannot be used. Each is a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder or a file in it.
    #[error("the store {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What.
        source: std::io::Error,
    },
    /// Others may read or change what holds keys.
    #[error("the store {} is open to others (mode {mode:03o}), and it holds keys: chmod {wanted} {}", path.display(), path.display())]
    Open {
        /// The folder or file.
        path: PathBuf,
        /// What it has.
        mode: u32,
        /// What it should have.
        wanted: &'static str,
    },
    /// Another process uses it.
    #[error("the store {} is in use by another lwm2mqtt; only one can use it at a time, see [store] path", .0.display())]
    Locked(PathBuf),
    /// It is a database of something else.
    #[error("{} is not a store of lwm2mqtt (application id {found:#010x}); it is left as it is: give another folder as [store] path", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: i32,
    },
    /// It is newer than the program.
    #[error("{} was written by a newer version of lwm2mqtt (schema {found}, this one knows {}); run that version", path.display(), schema::VERSION)]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i32,
    },
    /// It is damaged.
    #[error("{} is damaged ({what}); it is left as it is: restore it from a backup, or move it away and add the devices again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In the words of SQLite.
        what: String,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What.
        source: rusqlite::Error,
    },
}

impl StoreError {
    /// Whether the folder may not be made or written to by this user.
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem))
    }
}

/// A store in SQLite.
pub struct Sqlite {
    path: PathBuf,
    connection: Connection,
    /// Locked as long as it is open.
    _lock: File,
}

impl Sqlite {
    /// Opens the store in a folder, and makes both where they are not there.
    ///
    /// # Errors
    ///
    /// When others can read it, another process has it, or it is damaged, newer, or something
    /// else's. Nothing that is there is replaced.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        make_folder(folder)?;
        let lock = private_file(&folder.join(LOCK))?;
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StoreError::Locked(folder.to_owned()));
        }
        let path = folder.join(DATABASE);
        // SQLite gives its other files the rights of this one.
        drop(private_file(&path)?);
        let connection =
            Connection::open(&path).map_err(|source| StoreError::from_sqlite(&path, source))?;
        let mut store = Self {
            path,
            connection,
            _lock: lock,
        };
        store.prepare()?;
        Ok(store)
    }

    fn prepare(&mut self) -> Result<(), StoreError> {
        let path = self.path.clone();
        let failed = |source| StoreError::from_sqlite(&path, source);
        self.connection
            .busy_timeout(Duration::from_secs(5))
            .map_err(failed)?;
        schema::recognise(&self.connection, &path)?;
        let pragmas = [
            ("journal_mode", "WAL"),
            ("synchronous", "FULL"),
            // A key that was removed is gone from the file.
            ("secure_delete", "ON"),
            ("foreign_keys", "ON"),
        ];
        for (name, value) in pragmas {
            self.connection
                .pragma_update_and_check(None, name, value, |_| Ok(()))
                .or_else(|error| match error {
                    rusqlite::Error::QueryReturnedNoRows => Ok(()),
                    other => Err(other),
                })
                .map_err(failed)?;
        }
        schema::migrate(&mut self.connection).map_err(failed)
    }

    fn failed(&self, source: rusqlite::Error) -> StoreError {
        StoreError::from_sqlite(&self.path, source)
    }

    fn rows<T>(
        &self,
        query: &str,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = || -> rusqlite::Result<Vec<T>> {
            let mut statement = self.connection.prepare(query)?;
            statement.query_map([], read)?.collect()
        };
        rows().map_err(|source| self.failed(source))
    }
}

impl Store for Sqlite {
    fn load(&self) -> Result<Stored, StoreError> {
        let records = self.rows(
            "SELECT name, endpoint, psk_identity, psk_key, bootstrap_identity, bootstrap_key, certificate, added FROM device ORDER BY name",
            |row| {
                Ok(Record {
                    name: row.get::<_, String>(0)?.into(),
                    endpoint: row.get::<_, String>(1)?.into(),
                    psk: psk(row.get(2)?, row.get(3)?),
                    bootstrap_psk: psk(row.get(4)?, row.get(5)?),
                    certificate: row.get(6)?,
                    added: UnixTime::from_millis(row.get(7)?),
                    origin: Origin::Store,
                })
            },
        )?;
        let grants = self.rows(
            "SELECT endpoint, identity, key, expires, added FROM granted_key ORDER BY endpoint",
            |row| {
                Ok(Grant {
                    endpoint: row.get::<_, String>(0)?.into(),
                    psk: Psk::new(
                        row.get::<_, Vec<u8>>(1)?,
                        Secret::new(row.get::<_, Vec<u8>>(2)?),
                    ),
                    expires: row.get::<_, Option<i64>>(3)?.map(UnixTime::from_millis),
                    added: UnixTime::from_millis(row.get(4)?),
                })
            },
        )?;
        Ok(Stored { records, grants })
    }

    fn apply_all(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        // One wait for the disk: at the end of a join window many keys end at once.
        let all = || -> rusqlite::Result<()> {
            let transaction = self.connection.unchecked_transaction()?;
            changes.iter().try_for_each(|change| self.write(change))?;
            transaction.commit()
        };
        all().map_err(|source| self.failed(source))
    }
}

impl Sqlite {
    fn write(&self, change: &Change) -> rusqlite::Result<()> {
        let identity = |psk: &Option<Psk>| psk.as_ref().map(|psk| psk.identity.to_vec());
        let execute = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
            self.connection.prepare_cached(sql)?.execute(values)
        };
        let done = match change {
            Change::Put(record) => execute(
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
            Change::Remove(name) => execute("DELETE FROM device WHERE name = ?1", params![&**name]),
            Change::Grant(grant) => execute(
                "INSERT OR REPLACE INTO granted_key (endpoint, identity, key, expires, added) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    &*grant.endpoint,
                    &*grant.psk.identity,
                    grant.psk.key.expose(),
                    grant.expires.map(UnixTime::as_millis),
                    grant.added.as_millis(),
                ],
            ),
            Change::Revoke(endpoint) => execute(
                "DELETE FROM granted_key WHERE endpoint = ?1",
                params![&**endpoint],
            ),
        };
        done.map(|_| ())
    }
}

fn psk(identity: Option<Vec<u8>>, key: Option<Vec<u8>>) -> Option<Psk> {
    Some(Psk::new(identity?, Secret::new(key?)))
}

impl StoreError {
    fn from_sqlite(path: &Path, source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseBusy, DatabaseCorrupt, DatabaseLocked, NotADatabase};
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => Self::Damaged {
                path,
                what: source.to_string(),
            },
            Some(DatabaseBusy | DatabaseLocked) => Self::Locked(path),
            _ => Self::Sqlite { path, source },
        }
    }
}

/// Makes the folder for us alone. One that is there must not be open for others to write to.
fn make_folder(folder: &Path) -> Result<(), StoreError> {
    let io = |source| StoreError::Io {
        path: folder.to_owned(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(io)?;
    let mode = fs::metadata(folder).map_err(io)?.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(StoreError::Open {
            path: folder.to_owned(),
            mode,
            wanted: "700",
        });
    }
    Ok(())
}

/// Opens a file that only we may read, and makes it so.
fn private_file(path: &Path) -> Result<File, StoreError> {
    let io = |source| StoreError::Io {
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(path)
        .map_err(io)?;
    let mode = file.metadata().map_err(io)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StoreError::Open {
            path: path.to_owned(),
            mode,
            wanted: "600",
        });
    }
    Ok(file)
}

#[cfg(test)]
mod tests;
