//! Files of devices: found, read, and read again when they change.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::agent::config::files::{files, read};
use crate::agent::run::Clock;
use crate::agent::watched::{Watch, Watched};
use crate::diagnostic::{Diagnostic, Severity};
use crate::server::credentials::{self, File, Files};
use crate::time::UnixTime;

/// How often it is looked whether a file has changed.
const INTERVAL: Duration = Duration::from_secs(2);

/// Has the files read again when they change, or when somebody wants it.
///
/// # Errors
///
/// The system gives no thread.
pub fn watch(mut files: DeviceFiles, clock: Clock) -> anyhow::Result<Watch<(), Reading>> {
    Watch::start("device files", INTERVAL, move |wish| {
        let now = clock.now().unix;
        match wish {
            Some(()) => Some(files.read(now)),
            None => files.read_changed(now),
        }
    })
}

/// The files that the configuration names, and how they were when they were read last.
pub struct DeviceFiles(Watched);

/// All files as they are now.
pub struct Reading {
    /// What goes to the core.
    pub files: Files,
    /// Every mistake in a file.
    pub diagnostics: Vec<Diagnostic>,
}

impl DeviceFiles {
    /// These files and folders, not read yet.
    pub const fn new(paths: Vec<PathBuf>) -> Self {
        Self(Watched::new(paths))
    }

    /// Reads them, if anything has changed since the last time and nothing is being written.
    pub fn read_changed(&mut self, now: UnixTime) -> Option<Reading> {
        self.0.have_changed().then(|| self.read(now))
    }

    /// Reads them.
    pub fn read(&mut self, now: UnixTime) -> Reading {
        // Before the content: what is written in between is read once more.
        self.0.note();
        read_files(self.0.paths(), now)
    }
}

/// Reads files of devices, and the keys and certificates that they name.
pub fn read_files(paths: &[PathBuf], now: UnixTime) -> Reading {
    let mut diagnostics = Vec::new();
    let mut found = Vec::new();
    let listed = files(paths, "toml", &mut diagnostics);
    // A folder that is there and cannot be read.
    let partial = !diagnostics.is_empty();
    for path in listed {
        let name = path.display().to_string();
        let content = read(&path, &mut diagnostics).and_then(|text| {
            let folder = path.parent().unwrap_or(Path::new(""));
            let read = credentials::read(
                &name,
                &text,
                now,
                &mut |file| fetch_secret(&folder.join(file)),
                &mut |file| fetch(&folder.join(file)),
            );
            diagnostics.extend(read.diagnostics);
            if read.holds_keys && is_open(&path) {
                diagnostics.push(Diagnostic::whole(
                    Severity::Warning,
                    "open-file",
                    name.as_str(),
                    "everybody on this machine can read the keys in it",
                    format!("chmod o-rwx {name}"),
                ));
            }
            read.content
        });
        found.push(File {
            name: name.into(),
            content,
        });
    }
    Reading {
        files: Files { found, partial },
        diagnostics,
    }
}

/// Whether everybody may read it.
fn is_open(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|seen| seen.mode() & 0o007 != 0)
}

/// The largest file with a key or certificates.
const FETCH_MAX: u64 = 1 << 20;

/// Reads a file with certificates.
///
/// # Errors
///
/// A sentence that names the file.
pub fn fetch(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(seen) if seen.len() > FETCH_MAX => Err(format!("{shown} is larger than 1 MiB")),
        _ => std::fs::read(path).map_err(|error| format!("{shown}: {error}")),
    }
}

/// Reads a file with a key, which must not be open to everybody.
///
/// # Errors
///
/// A sentence that names the file.
pub fn fetch_secret(path: &Path) -> Result<Vec<u8>, String> {
    if is_open(path) {
        let shown = path.display();
        return Err(format!(
            "everybody on this machine can read the key in {shown}: chmod 600 {shown}"
        ));
    }
    fetch(path)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("lwm2mqtt-devices-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn codes(reading: &Reading) -> Vec<&str> {
        reading.diagnostics.iter().map(|it| it.code).collect()
    }

    #[test]
    fn a_file_of_many_devices_takes_no_minutes() {
        let folder = folder("many");
        let line = |number: u32| {
            format!(
                "[[device]]\nname = \"m{number}\"\npsk = {{ identity = \"m{number}\", key = \"{number:032x}\" }}\n\n"
            )
        };
        write(
            &folder.join("a.toml"),
            &(0..20_000).map(line).collect::<String>(),
            0o600,
        );
        let began = std::time::Instant::now();
        let reading = read_files(&[folder], UnixTime::default());
        let content = reading.files.found[0].content.as_ref().unwrap();
        assert_eq!(content.records.len(), 20_000);
        // It was 50 s when each record's line was counted from the top.
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}",
            began.elapsed()
        );
    }

    #[test]
    fn a_key_that_everybody_can_read_is_not_taken() {
        let folder = folder("open");
        let key = folder.join("a.key");
        let text = "[[device]]\nname = \"a\"\npsk = { identity = \"a\", key_file = \"a.key\" }\n";
        write(&folder.join("a.toml"), text, 0o644);
        write(&key, "000102030405060708090a0b0c0d0e0f\n", 0o644);
        let reading = read_files(std::slice::from_ref(&folder), UnixTime::default());
        assert_eq!(codes(&reading), ["unreadable"]);
        assert!(reading.diagnostics[0].message.contains("chmod 600"));
        assert!(reading.files.found[0].content.is_none());
        write(&key, "000102030405060708090a0b0c0d0e0f\n", 0o640);
        let reading = read_files(std::slice::from_ref(&folder), UnixTime::default());
        assert_eq!(codes(&reading), [""; 0]);
        assert!(reading.files.found[0].content.is_some());
        // A file with the keys themselves works, and it is said.
        let text = text.replace(
            "key_file = \"a.key\"",
            "key = \"000102030405060708090a0b0c0d0e0f\"",
        );
        write(&folder.join("a.toml"), &text, 0o644);
        let reading = read_files(&[folder], UnixTime::default());
        assert_eq!(codes(&reading), ["open-file"]);
        assert!(reading.files.found[0].content.is_some());
    }
}
