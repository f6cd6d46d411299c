//! Rows become what was kept.

use rusqlite::types::{Type, ValueRef};
use rusqlite::{Row, Rows};

use super::{Sqlite, StoreError, write};
use crate::kept::{Device, Document, DocumentKey, Gateway, Kept, Registration, Spooled};
use crate::secret::Secret;
use crate::server::credentials::{Grant, Origin, Psk, Record, Stored};
use crate::time::UnixTime;

/// Devices, or messages, that are given at a time.
const PART: usize = 500;

impl Sqlite {
    pub(super) fn load_parts(&self, give: &mut dyn FnMut(Kept)) -> Result<(), StoreError> {
        let gateway: Vec<Gateway> = self.rows("SELECT body FROM gateway", |row| decode(row, 0))?;
        give(Kept {
            gateway: gateway.into_iter().next(),
            ..Kept::default()
        });
        self.load_spool(give)?;
        self.load_devices(give)?;
        give(Kept {
            documents: self.load_documents()?,
            ..Kept::default()
        });
        Ok(())
    }

    fn load_spool(&self, give: &mut dyn FnMut(Kept)) -> Result<(), StoreError> {
        let mut load = || -> rusqlite::Result<()> {
            let mut spool = self
                .connection
                .prepare("SELECT number, class, body FROM spool ORDER BY number")?;
            let mut rows = spool.query([])?;
            let mut part = Vec::with_capacity(PART);
            while let Some(row) = rows.next()? {
                let class = write::class(row.get(1)?)
                    .ok_or_else(|| nonsense(1, Type::Integer, "an unknown class of message"))?;
                part.push(Spooled {
                    number: row.get(0)?,
                    class,
                    body: row.get(2)?,
                });
                if part.len() == PART {
                    give(Kept {
                        spool: std::mem::replace(&mut part, Vec::with_capacity(PART)),
                        ..Kept::default()
                    });
                }
            }
            give(Kept {
                spool: part,
                ..Kept::default()
            });
            Ok(())
        };
        load().map_err(|source| self.failed(source))
    }

    /// Gives the devices in parts, so that there are never two copies of all of them.
    fn load_devices(&self, give: &mut dyn FnMut(Kept)) -> Result<(), StoreError> {
        let mut load = || -> rusqlite::Result<()> {
            let mut devices = self.connection.prepare(
                "SELECT e.id, e.name, e.registration, e.standing, e.descriptor, c.body FROM endpoint e LEFT JOIN contact c ON c.endpoint = e.id ORDER BY e.id",
            )?;
            let mut observations = self
                .connection
                .prepare("SELECT endpoint, body FROM observation ORDER BY endpoint, target")?;
            let mut signals = self
                .connection
                .prepare("SELECT endpoint, body FROM signal ORDER BY endpoint, path")?;
            let mut devices = devices.query([])?;
            let mut observations = Beside::new(observations.query([])?)?;
            let mut signals = Beside::new(signals.query([])?)?;
            let mut part = Vec::with_capacity(PART);
            while let Some(row) = devices.next()? {
                let id: i64 = row.get(0)?;
                part.push(Device {
                    observations: observations.of(id)?,
                    signals: signals.of(id)?,
                    ..device(row)?
                });
                if part.len() == PART {
                    give(Kept {
                        devices: std::mem::replace(&mut part, Vec::with_capacity(PART)),
                        ..Kept::default()
                    });
                }
            }
            give(Kept {
                devices: part,
                ..Kept::default()
            });
            Ok(())
        };
        load().map_err(|source| self.failed(source))
    }

    pub(super) fn load_credentials(&self) -> Result<Stored, StoreError> {
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

    fn load_documents(&self) -> Result<Vec<Document>, StoreError> {
        self.rows(
            "SELECT endpoint, kind, id, body FROM document ORDER BY endpoint, kind, id",
            |row| {
                let kind = write::kind(row.get(1)?)
                    .ok_or_else(|| nonsense(1, Type::Integer, "an unknown kind of document"))?;
                Ok(Document {
                    key: DocumentKey {
                        kind,
                        endpoint: row.get::<_, String>(0)?.into(),
                        id: row.get::<_, String>(2)?.into(),
                    },
                    body: row.get(3)?,
                })
            },
        )
    }
}

fn psk(identity: Option<Vec<u8>>, key: Option<Vec<u8>>) -> Option<Psk> {
    Some(Psk::new(identity?, Secret::new(key?)))
}

fn device(row: &Row<'_>) -> rusqlite::Result<Device> {
    let mut registration: Option<Registration> = optional(row, 2)?;
    if let Some(registration) = &mut registration {
        registration.standing = row.get(3)?;
    }
    Ok(Device {
        registration,
        descriptor: optional(row, 4)?,
        contact: optional(row, 5)?,
        ..Device::new(row.get::<_, String>(1)?.into())
    })
}

/// Rows that belong to devices and are sorted as those are: the number of the device, and CBOR.
struct Beside<'r, T> {
    rows: Rows<'r>,
    next: Option<(i64, T)>,
}

impl<'r, T: for<'b> minicbor::Decode<'b, ()>> Beside<'r, T> {
    fn new(mut rows: Rows<'r>) -> rusqlite::Result<Self> {
        let next = next(&mut rows)?;
        Ok(Self { rows, next })
    }

    /// Those of the next device.
    fn of(&mut self, device: i64) -> rusqlite::Result<Vec<T>> {
        let mut found = Vec::new();
        while let Some((_, one)) = self.next.take_if(|(of, _)| *of <= device) {
            found.push(one);
            self.next = next(&mut self.rows)?;
        }
        Ok(found)
    }
}

fn next<T: for<'b> minicbor::Decode<'b, ()>>(
    rows: &mut Rows<'_>,
) -> rusqlite::Result<Option<(i64, T)>> {
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    Ok(Some((row.get(0)?, decode(row, 1)?)))
}

/// Reads a column of CBOR that may be empty.
fn optional<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>>
where
    T: for<'b> minicbor::Decode<'b, ()>,
{
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        _ => decode(row, column).map(Some),
    }
}

/// Reads a column of CBOR.
fn decode<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: for<'b> minicbor::Decode<'b, ()>,
{
    let bytes = row.get_ref(column)?.as_blob()?;
    minicbor::decode(bytes).map_err(|error| nonsense(column, Type::Blob, error))
}

fn nonsense(
    column: usize,
    found: Type,
    why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, found, why.into())
}
