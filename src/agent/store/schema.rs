//! The tables, and how an older database becomes one of today.

use std::path::Path;

use rusqlite::Connection;

use super::StoreError;

/// Whose the file is, for file(1) and for us: "L2MQ".
const APPLICATION: i32 = 0x4c32_4d51;

/// What makes a database of version N + 1 out of one of version N. A step that was released is
/// never changed; another one follows it.
const STEPS: [&str; 3] = [
    CREDENTIALS,
    "
    CREATE TABLE gateway (
        id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
        body BLOB NOT NULL
    ) STRICT;
    CREATE TABLE endpoint (
        id INTEGER PRIMARY KEY NOT NULL,
        name TEXT NOT NULL UNIQUE,
        registration BLOB,
        standing INTEGER NOT NULL DEFAULT 0,
        descriptor BLOB
    ) STRICT;
    CREATE TABLE observation (
        endpoint INTEGER NOT NULL REFERENCES endpoint ON DELETE CASCADE,
        target BLOB NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (endpoint, target)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE contact (
        endpoint INTEGER PRIMARY KEY NOT NULL REFERENCES endpoint ON DELETE CASCADE,
        body BLOB NOT NULL
    ) STRICT;
    CREATE TABLE signal (
        endpoint INTEGER NOT NULL REFERENCES endpoint ON DELETE CASCADE,
        path BLOB NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (endpoint, path)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE document (
        endpoint TEXT NOT NULL,
        kind INTEGER NOT NULL,
        id TEXT NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (endpoint, kind, id)
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE spool (
        number INTEGER PRIMARY KEY NOT NULL,
        class INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
",
];

const CREDENTIALS: &str = "
    CREATE TABLE device (
        name TEXT PRIMARY KEY NOT NULL,
        endpoint TEXT NOT NULL UNIQUE,
        psk_identity BLOB,
        psk_key BLOB,
        bootstrap_identity BLOB,
        bootstrap_key BLOB,
        certificate BLOB CHECK (length(certificate) = 32),
        added INTEGER NOT NULL,
        CHECK ((psk_identity IS NULL) = (psk_key IS NULL)),
        CHECK ((bootstrap_identity IS NULL) = (bootstrap_key IS NULL))
    ) STRICT;
    CREATE TABLE granted_key (
        endpoint TEXT PRIMARY KEY NOT NULL,
        identity BLOB NOT NULL,
        key BLOB NOT NULL,
        expires INTEGER,
        added INTEGER NOT NULL
    ) STRICT;
";

/// The version that [`STEPS`] lead to.
pub(super) const VERSION: i32 = STEPS.len() as i32;

/// Whether a database is ours, sound, and not newer than we are. A new one is empty.
pub(super) fn recognise(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::from_sqlite(path, source);
    let number = |pragma: &str| {
        connection
            .pragma_query_value(None, pragma, |row| row.get::<_, i32>(0))
            .map_err(failed)
    };
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(failed)?;
    let is_new = application == 0 && version == 0 && tables == 0;
    if !is_new && application != APPLICATION {
        return Err(StoreError::Foreign {
            path: path.to_owned(),
            found: application,
        });
    }
    if !(0..=VERSION).contains(&version) {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found: version,
        });
    }
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(failed)?;
    if verdict == "ok" {
        Ok(())
    } else {
        Err(StoreError::Damaged {
            path: path.to_owned(),
            what: verdict,
        })
    }
}

/// Brings a database to today's version, all steps or none.
pub(super) fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    migrate_to(connection, VERSION)
}

/// Brings a database to a version, all steps or none.
pub(super) fn migrate_to(connection: &Connection, version: i32) -> rusqlite::Result<()> {
    let found: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let index = |version| usize::try_from(version).unwrap_or(0);
    let missing = STEPS.get(index(found)..index(version)).unwrap_or_default();
    if missing.is_empty() {
        return Ok(());
    }
    let transaction = connection.unchecked_transaction()?;
    for step in missing {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()
}
