//! The verbs about devices that need nothing but the [`Book`]: on the running gateway and, when none
//! runs, on what its store holds.

use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use super::AdminError;
use crate::dtls::Printable;
use crate::secret::Secret;
use crate::server::credentials::{Book, Origin, Psk, Record, Refused, key_of_hex};
use crate::time::Now;

/// Whether keys may be in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// It comes from the machine itself.
    Accepted,
    /// It comes over MQTT, where others may read along.
    Refused,
}

/// The arguments of a request: a JSON object of which every key has to be known.
///
/// No message about a mistake repeats a value, which might be a key.
pub struct Arguments<'a>(&'a Map<String, Json>);

impl<'a> Arguments<'a> {
    /// Takes an object that has no other keys than these.
    ///
    /// # Errors
    ///
    /// The first unknown one.
    pub fn new(object: &'a Map<String, Json>, known: &[&str]) -> Result<Self, AdminError> {
        match object.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(Self(object)),
            Some(key) => Err(AdminError::parse(format!(
                "unknown key \"{}\"; known here: {}",
                key.escape_debug(),
                if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.join(", ")
                }
            ))),
        }
    }

    /// A text.
    ///
    /// # Errors
    ///
    /// When it is something else.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, AdminError> {
        match self.0.get(key) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) => Ok(Some(text)),
            Some(_) => Err(AdminError::parse(format!("\"{key}\" has to be text"))),
        }
    }

    /// A text that has to be there.
    ///
    /// # Errors
    ///
    /// When it is not, or is something else.
    pub fn required(&self, key: &str) -> Result<&'a str, AdminError> {
        self.text(key)?
            .ok_or_else(|| AdminError::parse(format!("\"{key}\" is missing")))
    }

    /// A whole number that has to be there.
    ///
    /// # Errors
    ///
    /// When it is not, or is something else.
    pub fn number(&self, key: &str) -> Result<u64, AdminError> {
        match self.0.get(key) {
            None => Err(AdminError::parse(format!("\"{key}\" is missing"))),
            Some(value) => value.as_u64().ok_or_else(|| {
                AdminError::parse(format!("\"{key}\" has to be a whole number, not negative"))
            }),
        }
    }

    /// `{"identity": "…", "key": "HEX"}`
    fn psk(&self, key: &str, keys: Keys) -> Result<Option<Psk>, AdminError> {
        let object = match self.0.get(key) {
            None | Some(Json::Null) => return Ok(None),
            Some(_) if keys == Keys::Refused => {
                return Err(AdminError::access(
                    "keys are not taken over MQTT, where others may read along; use `lwm2mqtt device add` on the gateway",
                ));
            }
            Some(Json::Object(object)) => object,
            Some(_) => {
                return Err(AdminError::parse(format!("\"{key}\" has to be an object")));
            }
        };
        let inner = Self::new(object, &["identity", "key"])?;
        let secret: Option<Secret> = key_of_hex(inner.required("key")?.as_bytes());
        let secret = secret.ok_or_else(|| {
            AdminError::parse("the key is not hexadecimal: two digits a byte".to_owned())
        })?;
        Ok(Some(Psk::new(
            inner.required("identity")?.as_bytes(),
            secret,
        )))
    }

    fn sha256(&self, key: &str) -> Result<Option<[u8; 32]>, AdminError> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        key_of_hex(text.as_bytes())
            .and_then(|digest| digest.expose().try_into().ok())
            .map(Some)
            .ok_or_else(|| AdminError::parse(format!("\"{key}\" is no SHA-256 in hexadecimal")))
    }
}

/// One device in a list. No key is in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// The operator's name.
    pub name: String,
    /// The endpoint name.
    pub endpoint: String,
    /// What lets it in: `psk`, `certificate`, `bootstrap-psk`, `given-psk`, or `none` when it was
    /// approved without security.
    pub security: Vec<&'static str>,
    /// Its PSK identity for the LwM2M server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psk_identity: Option<String>,
    /// Its PSK identity for the bootstrap server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap_identity: Option<String>,
    /// The SHA-256 of its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_sha256: Option<String>,
    /// When the key ends that the bootstrap server gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_expires: Option<String>,
    /// `store`, or the file that it stands in, or `none` for a device that nobody entered.
    pub origin: String,
    /// When it was added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added: Option<String>,
    /// `online`, `offline`, or `never_seen`; absent when nobody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
    /// When it was heard last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// Its name in topics, if it was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_name: Option<String>,
}

impl Entry {
    /// An endpoint that has no record.
    pub fn unlisted(endpoint: &str) -> Self {
        Self {
            name: endpoint.to_owned(),
            endpoint: endpoint.to_owned(),
            security: Vec::new(),
            psk_identity: None,
            bootstrap_identity: None,
            cert_sha256: None,
            key_expires: None,
            origin: "none".to_owned(),
            added: None,
            state: None,
            last_seen: None,
            topic_name: None,
        }
    }

    fn of_record(record: &Record) -> Self {
        let security = [
            (record.psk.is_some(), "psk"),
            (record.certificate.is_some(), "certificate"),
            (record.bootstrap_psk.is_some(), "bootstrap-psk"),
            (!record.has_credential(), "none"),
        ];
        Self {
            name: record.name.to_string(),
            security: security
                .into_iter()
                .filter_map(|(is, word)| is.then_some(word))
                .collect(),
            psk_identity: record.psk.as_ref().map(|psk| identity(&psk.identity)),
            bootstrap_identity: record
                .bootstrap_psk
                .as_ref()
                .map(|psk| identity(&psk.identity)),
            cert_sha256: record
                .certificate
                .map(|digest| digest.iter().map(|byte| format!("{byte:02x}")).collect()),
            origin: match &record.origin {
                Origin::Store => "store".to_owned(),
                Origin::File(file) => file.to_string(),
            },
            added: Some(record.added.to_string()),
            ..Self::unlisted(&record.endpoint)
        }
    }
}

/// An identity as text, or in hexadecimal where it is none.
fn identity(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => Printable(bytes).to_string(),
    }
}

/// Every record, and every endpoint that was given a key, by name.
pub fn entries(book: &Book) -> Vec<Entry> {
    let mut entries: Vec<Entry> = book
        .records()
        .iter()
        .map(|record| entry(book, record))
        .collect();
    for grant in book.grants() {
        if book.record_of(&grant.endpoint).is_none() {
            let mut entry = Entry::unlisted(&grant.endpoint);
            entry.origin = "store".to_owned();
            entry.added = Some(grant.added.to_string());
            add_grant(book, &mut entry);
            entries.push(entry);
        }
    }
    entries
}

fn entry(book: &Book, record: &Record) -> Entry {
    let mut entry = Entry::of_record(record);
    add_grant(book, &mut entry);
    entry
}

fn add_grant(book: &Book, entry: &mut Entry) {
    if let Some(grant) = book.grant_of(&entry.endpoint) {
        entry.security.retain(|word| *word != "none");
        entry.security.push("given-psk");
        entry.psk_identity = Some(identity(&grant.psk.identity));
        entry.key_expires = grant.expires.map(|at| at.to_string());
    }
}

/// Adds a device: `{"name", "endpoint", "psk", "bootstrap_psk", "cert_sha256"}`.
///
/// # Errors
///
/// When a key is sent that may not be, nothing lets the device in, or the book refuses it.
pub fn add(
    book: &mut Book,
    now: Now,
    object: &Map<String, Json>,
    keys: Keys,
) -> Result<Entry, AdminError> {
    let known = ["name", "endpoint", "psk", "bootstrap_psk", "cert_sha256"];
    let arguments = Arguments::new(object, &known)?;
    let name = arguments.required("name")?;
    let endpoint = arguments.text("endpoint")?.unwrap_or(name);
    let record = Record {
        name: name.into(),
        psk: arguments.psk("psk", keys)?,
        bootstrap_psk: arguments.psk("bootstrap_psk", keys)?,
        certificate: arguments.sha256("cert_sha256")?,
        ..Record::new(endpoint, now.unix)
    };
    if !record.has_credential() {
        return Err(AdminError::parse(
            "a device that is added needs a credential; to let one in without, approve it"
                .to_owned(),
        ));
    }
    let record = book.add(record)?;
    Ok(entry(book, &record))
}

/// Removes a device: `{"name"}`, or its endpoint.
///
/// # Errors
///
/// When there is none, or it stands in a file.
pub fn remove(book: &mut Book, object: &Map<String, Json>) -> Result<Json, AdminError> {
    let name = Arguments::new(object, &["name"])?.required("name")?;
    let endpoint = book.remove(name)?;
    Ok(json!({ "name": name, "endpoint": &*endpoint }))
}

/// Calls a device, given by name or endpoint, something else: `{"name", "to"}`.
///
/// # Errors
///
/// When there is none, it stands in a file, or the name is taken.
pub fn rename(book: &mut Book, object: &Map<String, Json>) -> Result<Entry, AdminError> {
    let arguments = Arguments::new(object, &["name", "to"])?;
    let record = book.rename(arguments.required("name")?, arguments.required("to")?)?;
    Ok(entry(book, &record))
}

/// Approves an endpoint without security: `{"endpoint", "name"}`.
///
/// # Errors
///
/// When it has a credential or cannot stand.
pub fn approve(book: &mut Book, now: Now, object: &Map<String, Json>) -> Result<Entry, AdminError> {
    let arguments = Arguments::new(object, &["endpoint", "name"])?;
    let name = arguments.text("name")?;
    let record = book.approve(now, arguments.required("endpoint")?, name)?;
    Ok(entry(book, &record))
}

impl From<Refused> for AdminError {
    fn from(refused: Refused) -> Self {
        let kind = match &refused {
            Refused::Mistake(_) => "parse",
            Refused::Conflict(_) | Refused::InFile(..) | Refused::HasCredential(..) => "conflict",
            Refused::Full(_) => "queue_full",
            Refused::Unknown(_) => "unknown_device",
        };
        Self {
            kind,
            detail: refused.to_string(),
        }
    }
}
