//! Passwords and keys: where they come from, and that they are never shown.

use std::path::{Path, PathBuf};

use crate::agent::mqtt::Key;
use crate::diagnostic::{Diagnostic, Item};
use crate::secret::Secret;

/// The largest file that is taken for a secret.
const MAX_SECRET: usize = 64 * 1024;

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
        let read = match self.origin {
            Origin::Literal(secret) => return Ok(secret),
            Origin::File(path) => read(&path),
            Origin::Credential(name) => credential(credentials, &name).and_then(|path| read(&path)),
        };
        read.map_err(|message| failed(self.failure, message))
    }

    /// Where the key is that the secret is, without reading it.
    pub(super) fn locate(self, credentials: Option<&Path>) -> Result<Key, Box<Diagnostic>> {
        match self.origin {
            Origin::Literal(secret) => Ok(Key::Literal(secret)),
            Origin::File(path) => Ok(Key::File(path)),
            Origin::Credential(name) => credential(credentials, &name)
                .map(Key::File)
                .map_err(|message| failed(self.failure, message)),
        }
    }
}

fn failed(failure: Diagnostic, message: String) -> Box<Diagnostic> {
    Box::new(Diagnostic { message, ..failure })
}

/// The file of a credential.
fn credential(folder: Option<&Path>, name: &str) -> Result<PathBuf, String> {
    folder
        .map(|folder| folder.join(name))
        .ok_or_else(|| format!("credential `{name}`: CREDENTIALS_DIRECTORY is not set"))
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

/// The content of a file without the line end that editors leave.
fn read(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
    if bytes.len() > MAX_SECRET {
        return Err(format!("{shown} has more than {MAX_SECRET} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown} is not text"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(format!("{shown} is empty"));
    }
    Ok(Secret::new(text))
}
