//! Secure sessions from one process to the next, over an orderly restart.
//!
//! What a session is made of is as secret as its keys, may be used once (two processes that go on
//! with one session would use one nonce twice), and is trusted by the engine that loads it. So it
//! is sealed with a key that only this store has, deleted before the first session is served, and
//! refused whole if one bit of it is not ours.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{Key, KeyInit, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::agent::entropy;
use crate::dtls::Saved;

/// What the file begins with; its number changes with what follows.
const HEADER: &[u8] = b"lwm2mqtt sessions 1\n";
const KEY: usize = 32;
const NONCE: usize = 24;
/// More than any number of sessions that a process may have.
const LONGEST: u64 = 1 << 30;

/// The place where sessions are left for the next process.
#[derive(Clone, Debug)]
pub struct Takeover {
    folder: PathBuf,
}

impl Takeover {
    /// In the folder of the store.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Leaves these sessions for the next process. With none, nothing is left.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn leave(&self, sessions: &[Saved]) -> anyhow::Result<()> {
        if sessions.is_empty() {
            return Ok(());
        }
        let mut plain = Zeroizing::new(Vec::new());
        for session in sessions {
            let bytes = session.to_bytes();
            let bytes = bytes.expose();
            plain.extend_from_slice(&u32::try_from(bytes.len())?.to_be_bytes());
            plain.extend_from_slice(bytes);
        }
        let seed = entropy::seed()?;
        let nonce = seed.first_chunk::<NONCE>().context("no nonce")?;
        let payload = Payload {
            msg: &plain,
            aad: HEADER,
        };
        let Ok(sealed) = self.cipher()?.encrypt(&XNonce::from(*nonce), payload) else {
            bail!("the sessions could not be sealed");
        };
        let file = self.sealed();
        let written = file.with_extension("new");
        let write = || -> io::Result<()> {
            _ = fs::remove_file(&written);
            let mut out = private().create_new(true).write(true).open(&written)?;
            for part in [HEADER, nonce, &sealed] {
                out.write_all(part)?;
            }
            out.sync_all()?;
            fs::rename(&written, &file)?;
            File::open(&self.folder)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", file.display()))
    }

    /// The sessions that the last process left. The file is gone when this returns, whatever was in
    /// it.
    ///
    /// # Errors
    /// A file that cannot be read or deleted, or that is not what the last process wrote.
    pub fn take(&self) -> anyhow::Result<Vec<Saved>> {
        let file = self.sealed();
        let mut bytes = Vec::new();
        match File::open(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened
                .and_then(|open| open.take(LONGEST).read_to_end(&mut bytes))
                .with_context(|| format!("cannot read {}", file.display()))?,
        };
        fs::remove_file(&file)
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .with_context(|| format!("cannot delete {}", file.display()))?;
        self.open(&bytes)
            .with_context(|| format!("{} is not what this program left", file.display()))
    }

    fn open(&self, bytes: &[u8]) -> anyhow::Result<Vec<Saved>> {
        let rest = bytes
            .strip_prefix(HEADER)
            .context("it begins with something else")?;
        let (nonce, sealed) = rest
            .split_first_chunk::<NONCE>()
            .context("it is cut short")?;
        let payload = Payload {
            msg: sealed,
            aad: HEADER,
        };
        let plain = match self.cipher()?.decrypt(&XNonce::from(*nonce), payload) {
            Ok(plain) => Zeroizing::new(plain),
            Err(_) => bail!("its seal is broken"),
        };
        let mut rest = plain.as_slice();
        let mut sessions = Vec::new();
        while let Some((length, more)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*length))?;
            let (session, more) = more.split_at_checked(length).context("it is cut short")?;
            sessions.push(Saved::from_bytes(session).context("a session is malformed")?);
            rest = more;
        }
        ensure!(rest.is_empty(), "something follows the last session");
        Ok(sessions)
    }

    /// The cipher with the key of this store, which is made when there is none.
    fn cipher(&self) -> anyhow::Result<XChaCha20Poly1305> {
        let file = self.folder.join("sessions.key");
        let key = match read_key(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(&self.folder, &file),
            read => read,
        };
        let key = key.with_context(|| format!("cannot use the key {}", file.display()))?;
        Ok(XChaCha20Poly1305::new(&Key::from(*key)))
    }

    fn sealed(&self) -> PathBuf {
        self.folder.join("sessions.sealed")
    }
}

fn read_key(file: &Path) -> io::Result<Zeroizing<[u8; KEY]>> {
    let mut open = File::open(file)?;
    if open.metadata()?.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::other(
            "others may read it; delete it, and a new one is made",
        ));
    }
    let mut key = Zeroizing::new([0; KEY]);
    open.read_exact(key.as_mut_slice())?;
    Ok(key)
}

fn make_key(folder: &Path, file: &Path) -> io::Result<Zeroizing<[u8; KEY]>> {
    fs::create_dir_all(folder)?;
    let key = Zeroizing::new(entropy::seed().map_err(io::Error::other)?);
    let mut out = private().create_new(true).write(true).open(file)?;
    out.write_all(key.as_slice())?;
    out.sync_all()?;
    Ok(key)
}

/// Files that nobody else may read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

#[cfg(test)]
mod tests;
