//! Passwords and keys: where they come from, and that they are never shown.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::diagnostic::{Diagnostic, Item};

/// The largest file that is taken for a secret.
const MAX_SECRET: usize = 64 * 1024;

/// A secret text; shown as `Secret(…)`, always.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes custody of a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one who needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A secret as the configuration names it; read when all layers are merged.
pub(super) struct SecretSource {
    origin: Origin,
    /// What to say when it cannot be read; the message is added then.
    failure: Diagnostic,
}

enum Origin {
    Literal(Secret),
    File(PathBuf),
    Credential(String),
}

impl SecretSource {
    /// Reads `"…"`, `{ file = "PATH" }` or `{ credential = "NAME" }`.
    pub(super) fn read(item: &Item<'_>, default_credential: &str) -> Option<Self> {
        let example = format!("{{ credential = \"{default_credential}\" }}");
        if let Some(text) = item.as_text() {
            item.hide();
            item.reader().warning(
                "plain-secret",
                &item.at_key(),
                format!(
                    "the secret `{}` stands in the configuration in clear",
                    item.key()
                ),
                format!("use `{example}`, or `{{ file = \"PATH\" }}`"),
            );
            let origin = Origin::Literal(Secret::new(text));
            return Some(Self::new(origin, item));
        }
        let mut table = item.table(item.key(), &example)?;
        let file = table.take("file");
        let credential = table.take("credential");
        table.finish();
        let origin = match (file, credential) {
            (Some(file), None) => Origin::File(super::scalar::path(&file, "/etc/lwm2mqtt/key")?),
            (None, Some(credential)) => Origin::Credential(credential_name(&credential)?),
            _ => {
                item.error(
                    "bad-value",
                    format!("`{}` needs one source", item.key()),
                    format!("write `{example}`, or `{{ file = \"PATH\" }}`"),
                );
                return None;
            }
        };
        Some(Self::new(origin, item))
    }

    fn new(origin: Origin, item: &Item<'_>) -> Self {
        let hint = match &origin {
            Origin::Credential(name) => format!(
                "pass it to the service: `LoadCredential={name}:PATH` in its unit, or set CREDENTIALS_DIRECTORY"
            ),
            _ => "check the path and who may read it".to_owned(),
        };
        Self {
            origin,
            failure: item
                .reader()
                .diagnostic("unreadable-secret", &item.at_key(), "", hint)
                .unquoted(),
        }
    }

    /// The secret, from the disk where it is there.
    pub(super) fn resolve(self, credentials: Option<&Path>) -> Result<Secret, Box<Diagnostic>> {
        let Self {
            origin,
            mut failure,
        } = self;
        let read = match origin {
            Origin::Literal(secret) => return Ok(secret),
            Origin::File(path) => read(&path),
            Origin::Credential(name) => match credentials {
                Some(folder) => read(&folder.join(name)),
                None => Err(format!(
                    "credential `{name}`: CREDENTIALS_DIRECTORY is not set"
                )),
            },
        };
        read.map_err(|message| {
            failure.message = message;
            Box::new(failure)
        })
    }
}

/// A name of systemd credentials is one file name.
fn credential_name(item: &Item<'_>) -> Option<String> {
    let name = item.text("lwm2mqtt.mqtt-password")?;
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
        item.error(
            "bad-value",
            "a credential is named by one word without `/`",
            "write it like \"lwm2mqtt.mqtt-password\"",
        );
        return None;
    }
    Some(name.to_owned())
}

/// The content of a file.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
    if bytes.len() > MAX_SECRET {
        return Err(format!("{shown} has more than {MAX_SECRET} bytes"));
    }
    Ok(bytes)
}

/// The content of a file without the line end that editors leave.
fn read(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let bytes = read_bytes(path)?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown} is not text"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(format!("{shown} is empty"));
    }
    Ok(Secret::new(text))
}
