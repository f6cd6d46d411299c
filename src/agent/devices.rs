//! Files of devices: found, read, and read again when they change.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use anyhow::Context as _;

use crate::agent::config::files::{files, read};
use crate::agent::run::Clock;
use crate::diagnostic::{Diagnostic, Severity};
use crate::server::credentials::{self, File, Files};
use crate::time::UnixTime;

/// How often it is looked whether a file has changed.
const INTERVAL: Duration = Duration::from_secs(3);

/// What is seen of a file without reading it: path, inode, size, and times in nanoseconds.
type Stamp = (PathBuf, u64, u64, i64, i64);

/// Reads the files on a thread of its own, when they change: to read those of 100 000 devices takes
/// seconds, in which datagrams would be lost.
pub struct Watch {
    /// How they were at the start.
    first: Option<Reading>,
    wanted: std::sync::mpsc::Sender<()>,
    readings: tokio::sync::mpsc::Receiver<Reading>,
}

impl Watch {
    /// Reads the files, and starts the thread. It ends with this value.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn start(paths: Vec<PathBuf>, clock: Clock) -> anyhow::Result<Self> {
        let mut files = DeviceFiles::new(paths);
        let first = Some(files.read(clock.now().unix));
        let (wanted, wishes) = std::sync::mpsc::channel();
        // While one waits to be taken, the next one is not begun.
        let (sender, readings) = tokio::sync::mpsc::channel(1);
        std::thread::Builder::new()
            .name("device files".into())
            .spawn(move || {
                loop {
                    let wish = wishes.recv_timeout(INTERVAL);
                    let now = clock.now().unix;
                    let reading = match wish {
                        Ok(()) => Some(files.read(now)),
                        Err(RecvTimeoutError::Timeout) => files.read_changed(now),
                        Err(RecvTimeoutError::Disconnected) => return,
                    };
                    if let Some(reading) = reading
                        && sender.blocking_send(reading).is_err()
                    {
                        return;
                    }
                }
            })
            .context("cannot start the thread for the files of devices")?;
        Ok(Self {
            first,
            wanted,
            readings,
        })
    }

    /// Has everything read again, changed or not.
    pub fn read_again(&self) {
        // It fails only when the thread has panicked.
        _ = self.wanted.send(());
    }

    /// The files as they were at the start; once.
    pub fn take_first(&mut self) -> Option<Reading> {
        self.first.take()
    }

    /// The next reading. Cancel-safe.
    pub async fn reading(&mut self) -> Reading {
        match self.readings.recv().await {
            Some(reading) => reading,
            // The thread is gone; there will be no more.
            None => std::future::pending().await,
        }
    }
}

/// The files that the configuration names, and how they were when they were read last.
pub struct DeviceFiles {
    paths: Vec<PathBuf>,
    stamps: Vec<Stamp>,
}

/// All files as they are now.
pub struct Reading {
    /// What goes to the core.
    pub files: Files,
    /// Every mistake in a file.
    pub diagnostics: Vec<Diagnostic>,
}

impl DeviceFiles {
    /// These files and folders, not read yet.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            stamps: Vec::new(),
        }
    }

    /// Reads them, if anything has changed since the last time.
    pub fn read_changed(&mut self, now: UnixTime) -> Option<Reading> {
        let stamps = self.look();
        (stamps != self.stamps).then(|| self.read(now))
    }

    /// Reads them.
    pub fn read(&mut self, now: UnixTime) -> Reading {
        // Before the content: what is written in between is read once more.
        self.stamps = self.look();
        read_files(&self.paths, now)
    }

    fn look(&self) -> Vec<Stamp> {
        files(&self.paths, "toml", &mut Vec::new())
            .into_iter()
            .filter_map(|path| {
                let seen = std::fs::metadata(&path).ok()?;
                let modified = seen.mtime() * 1_000_000_000 + seen.mtime_nsec();
                let changed = seen.ctime() * 1_000_000_000 + seen.ctime_nsec();
                Some((path, seen.ino(), seen.len(), modified, changed))
            })
            .collect()
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
    fn a_change_is_noticed_and_nothing_else() {
        let folder = folder("change");
        let mut files = DeviceFiles::new(vec![folder.clone(), folder.join("absent")]);
        let now = UnixTime::default();
        assert!(files.read(now).files.found.is_empty());
        assert!(files.read_changed(now).is_none());
        write(&folder.join("a.toml"), "[[device]]\nname = \"a\"\n", 0o600);
        write(&folder.join("a.txt"), "?", 0o600);
        let reading = files.read_changed(now).unwrap();
        assert_eq!(reading.files.found.len(), 1);
        assert!(files.read_changed(now).is_none());
        write(&folder.join("a.toml"), "[[device]]\nname = \"b\"\n", 0o600);
        assert!(files.read_changed(now).is_some());
        fs::remove_file(folder.join("a.toml")).unwrap();
        assert!(files.read_changed(now).unwrap().files.found.is_empty());
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
