//! Files that are read again when they change, on a thread of their own: datagrams would be lost in
//! the seconds that reading many takes.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use anyhow::Context as _;

use crate::agent::config::files::files;

/// What is seen of a file without reading it: path, inode, size, and times in nanoseconds.
type Stamp = (PathBuf, u64, u64, i64, i64);

/// The TOML files of some files and folders, and how they were when they were read last.
#[derive(Debug)]
pub struct Watched {
    paths: Vec<PathBuf>,
    read: Vec<Stamp>,
    /// How they were at the last look, if they were others than those read.
    seen: Option<Vec<Stamp>>,
}

impl Watched {
    /// These files and folders, not read yet.
    pub const fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            read: Vec::new(),
            seen: None,
        }
    }

    /// The files and folders.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// They are about to be read: what is written from now on is a change.
    pub fn note(&mut self) {
        self.read = self.look();
        self.seen = None;
    }

    /// Whether they are others than those read, and were the same at the last look: so that nothing
    /// is read that is being written.
    pub fn have_changed(&mut self) -> bool {
        let stamps = self.look();
        if stamps == self.read {
            self.seen = None;
            return false;
        }
        let is_quiet = self.seen.as_ref() == Some(&stamps);
        self.seen = Some(stamps);
        is_quiet
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

/// A thread that reads.
#[derive(Debug)]
pub struct Watch<W, R> {
    wishes: std::sync::mpsc::Sender<W>,
    readings: tokio::sync::mpsc::Receiver<R>,
}

impl<W: Send + 'static, R: Send + 'static> Watch<W, R> {
    /// Starts a thread that calls `read` for each wish, and without one each `interval` to look for
    /// changes. It ends with this value.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn start(
        name: &str,
        interval: Duration,
        mut read: impl FnMut(Option<W>) -> Option<R> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (wishes, wished) = std::sync::mpsc::channel();
        // While one waits to be taken, the next one is not begun.
        let (sender, readings) = tokio::sync::mpsc::channel(1);
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                loop {
                    let wish = match wished.recv_timeout(interval) {
                        Ok(wish) => Some(wish),
                        Err(RecvTimeoutError::Timeout) => None,
                        Err(RecvTimeoutError::Disconnected) => return,
                    };
                    if let Some(reading) = read(wish)
                        && sender.blocking_send(reading).is_err()
                    {
                        return;
                    }
                }
            })
            .with_context(|| format!("cannot start the thread for {name}"))?;
        Ok(Self { wishes, readings })
    }

    /// Has everything read again, changed or not.
    pub fn read_again(&self, wish: W) {
        // It fails only when the thread has panicked.
        _ = self.wishes.send(wish);
    }

    /// The next reading. Cancel-safe.
    pub async fn reading(&mut self) -> R {
        match self.readings.recv().await {
            Some(reading) => reading,
            // The thread is gone; there will be no more.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_change_is_noticed_when_nothing_more_is_written() {
        let folder = std::env::temp_dir().join(format!("lwm2mqtt-watched-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let mut files = Watched::new(vec![folder.clone(), folder.join("absent")]);
        files.note();
        assert!(!files.have_changed());
        fs::write(folder.join("a.txt"), "?").unwrap();
        fs::write(folder.join("a.toml"), "x = 1").unwrap();
        assert!(!files.have_changed());
        fs::write(folder.join("a.toml"), "x = 1\ny = 2\n").unwrap();
        assert!(!files.have_changed());
        assert!(files.have_changed());
        files.note();
        assert!(!files.have_changed());
        fs::remove_file(folder.join("a.toml")).unwrap();
        assert!(!files.have_changed());
        assert!(files.have_changed());
        fs::remove_dir_all(&folder).unwrap();
    }
}
