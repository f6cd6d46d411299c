//! What bootstrap profiles name and do not hold: key files, certificates, credentials.

use std::path::{Path, PathBuf};

use super::layers::Missing;
use crate::agent::devices::{fetch, fetch_secret};
use crate::diagnostic::Severity;
use crate::secret::Secret;
use crate::server::bootstrap::{Attachment, Attachments};

/// Reads them from the disk.
#[derive(Clone, Debug)]
pub struct AttachmentFiles {
    credentials: Option<PathBuf>,
    missing: Missing,
}

impl AttachmentFiles {
    /// Credentials come from `$CREDENTIALS_DIRECTORY` of this process.
    pub fn of_process(missing: Missing) -> Self {
        Self {
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            missing,
        }
    }
}

impl Attachments for AttachmentFiles {
    fn read(&self, attachment: Attachment<'_>) -> Result<Secret, String> {
        let path = match attachment {
            Attachment::Certificate(path) => return fetch(Path::new(path)).map(Secret::new),
            Attachment::Key(path) => PathBuf::from(path),
            // One file name, as systemd has it.
            Attachment::Credential(name) if name.starts_with('.') || name.contains(['/', '\0']) => {
                return Err(format!("`{name}` names no credential"));
            }
            Attachment::Credential(name) => match &self.credentials {
                Some(folder) => folder.join(Path::new(name)),
                None => {
                    return Err(format!(
                        "credential `{name}`: CREDENTIALS_DIRECTORY is not set"
                    ));
                }
            },
        };
        fetch_secret(&path).map(Secret::new)
    }

    fn unreadable(&self) -> Severity {
        match self.missing {
            Missing::Error => Severity::Error,
            Missing::Warning => Severity::Warning,
        }
    }
}
