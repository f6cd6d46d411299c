//! What is kept over restarts, in one folder: a database that only we may read.
//!
//! The core says what to keep ([`Change`]) and is given it back at the next start ([`Kept`]).
//! What is *absent* here: what a record means.

mod load;
mod schema;
mod write;
mod writer;

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, Row};

use crate::kept::{Change, Kept};
use crate::server::credentials::Stored;

pub use writer::{Unstored, Writer};

/// The database in the folder.
const DATABASE: &str = "lwm2mqtt.db";
/// Whoever holds it locked may write to the database.
const LOCK: &str = "lwm2mqtt.lock";

/// Keeps what the core wants kept.
pub trait Store: Send {
    /// Who may come in.
    ///
    /// # Errors
    ///
    /// When it cannot be read or makes no sense.
    fn credentials(&self) -> Result<Stored, StoreError>;

    /// Gives everything else that is kept, in the order of the parts of [`Kept`].
    ///
    /// # Errors
    ///
    /// When it cannot be read or makes no sense.
    fn load(&self, give: &mut dyn FnMut(Kept)) -> Result<(), StoreError>;

    /// Keeps all of these changes or none. When this returns, the end of the process does not undo
    /// them; if one of them is owed to somebody ([`Change::is_owed`]), nor does a power cut.
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
    /// Whether the last transaction waited for the disk.
    durable: Option<bool>,
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
            durable: None,
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
        schema::migrate(&self.connection).map_err(failed)
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
    fn credentials(&self) -> Result<Stored, StoreError> {
        self.load_credentials()
    }

    fn load(&self, give: &mut dyn FnMut(Kept)) -> Result<(), StoreError> {
        self.load_parts(give)
    }

    fn apply_all(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        // What a device was told, or can only be told once, waits for the disk itself. The rest
        // survives the end of the process; what a power cut takes, the device brings again.
        let durable = changes.iter().any(Change::is_owed);
        let mut all = || -> rusqlite::Result<()> {
            self.synchronise(durable)?;
            // One wait for the disk: at the end of a join window many keys end at once.
            let transaction = self.connection.unchecked_transaction()?;
            changes.iter().try_for_each(|change| self.write(change))?;
            transaction.commit()
        };
        all().map_err(|source| self.failed(source))
    }
}

impl Sqlite {
    /// Whether a transaction waits until it is on the disk (FULL), or only until the operating
    /// system has it (NORMAL).
    fn synchronise(&mut self, durable: bool) -> rusqlite::Result<()> {
        if self.durable != Some(durable) {
            let level = if durable { "FULL" } else { "NORMAL" };
            self.connection.pragma_update(None, "synchronous", level)?;
            self.durable = Some(durable);
        }
        Ok(())
    }
}

impl StoreError {
    fn from_sqlite(path: &Path, source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseBusy, DatabaseCorrupt, DatabaseLocked, NotADatabase};
        let path = path.to_owned();
        // A row that makes no sense was not written by us.
        if matches!(
            source,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::Utf8Error(..)
        ) {
            return Self::Damaged {
                path,
                what: source.to_string(),
            };
        }
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
