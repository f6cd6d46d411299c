//! Rows become what was kept.

use rusqlite::Row;
use rusqlite::types::Type;

use super::{Sqlite, StoreError, write};
use crate::kept::{Document, DocumentKey, Gateway, Kept};
use crate::secret::Secret;
use crate::server::credentials::{Grant, Origin, Psk, Record, Stored};
use crate::time::UnixTime;

impl Sqlite {
    pub(super) fn load_parts(&self, give: &mut dyn FnMut(Kept)) -> Result<(), StoreError> {
        let gateway: Vec<Gateway> = self.rows("SELECT body FROM gateway", |row| decode(row, 0))?;
        give(Kept {
            gateway: gateway.into_iter().next(),
            credentials: self.load_credentials()?,
            ..Kept::default()
        });
        give(Kept {
            documents: self.load_documents()?,
            ..Kept::default()
        });
        Ok(())
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
