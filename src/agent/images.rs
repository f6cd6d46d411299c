//! Images of firmware and software, in a folder of the store: brought here by the command line,
//! loaded for the core.
//!
//! A file is called by the SHA-256 of what it holds and the name that it had.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::gateway::firmware::image::{Digest, Image};

/// What is being brought here at a time.
const UPLOADS: usize = 4;
/// How much of an image may be in memory of the system only: to wait for more of it at once would
/// stop everything else for too long.
const UNSYNCED: u64 = 1 << 20;
/// The longest name of an image.
const NAME_MAX: usize = 100;

/// How much of them there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one image. It is held in memory while it is sent.
    pub image: u64,
    /// Bytes of all of them.
    pub all: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            image: 64 << 20,
            all: 1 << 30,
        }
    }
}

/// The images of one store.
pub struct Images {
    folder: PathBuf,
    limits: Limits,
    images: BTreeMap<Digest, (Image, PathBuf)>,
    uploads: BTreeMap<Digest, Upload>,
    loaded: (mpsc::Sender<Loaded>, mpsc::Receiver<Loaded>),
}

/// An image that was to be loaded.
pub struct Loaded {
    /// Which.
    pub digest: Digest,
    /// What it holds, or why it cannot be had.
    pub content: Result<Bytes, String>,
}

/// An image that is being brought here.
struct Upload {
    file: File,
    path: PathBuf,
    name: String,
    size: u64,
    length: u64,
    synced: u64,
    hash: Sha256,
}

/// One piece of an image.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Piece {
    #[serde(rename = "verb")]
    _verb: String,
    sha256: Digest,
    name: String,
    size: u64,
    offset: u64,
    data: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Removal {
    #[serde(rename = "verb")]
    _verb: String,
    file: String,
}

impl Images {
    /// The images in a folder, which is made for us alone when the first one comes.
    ///
    /// # Errors
    ///
    /// When the folder is there and cannot be read.
    pub fn open(folder: PathBuf, limits: Limits) -> anyhow::Result<Self> {
        let mut images = BTreeMap::new();
        let shown = folder.display().to_string();
        match fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(shown),
            Ok(entries) => {
                for entry in entries {
                    let entry = entry.with_context(|| shown.clone())?;
                    let file_name = entry.file_name();
                    let Some((sha256, name)) = file_name.to_str().and_then(parse_name) else {
                        // What an upload left that never came to its end.
                        if entry.path().extension().is_some_and(|it| it == "part") {
                            let _ = fs::remove_file(entry.path());
                        }
                        continue;
                    };
                    let size = entry.metadata().with_context(|| shown.clone())?.len();
                    let image = Image { name, sha256, size };
                    images.insert(sha256, (image, entry.path()));
                }
            }
        }
        Ok(Self {
            folder,
            limits,
            images,
            uploads: BTreeMap::new(),
            loaded: mpsc::channel(4),
        })
    }

    /// All of them.
    pub fn list(&self) -> Vec<Image> {
        self.images
            .values()
            .map(|(image, _)| image.clone())
            .collect()
    }

    /// Where the file of an image is.
    pub fn path(&self, digest: Digest) -> Option<&Path> {
        self.images.get(&digest).map(|(_, path)| path.as_path())
    }

    /// Begins to load an image; it comes by [`loaded`](Self::loaded).
    pub fn load(&self, digest: Digest) {
        let path = self.path(digest).map(Path::to_owned);
        let (sender, most) = (self.loaded.0.clone(), self.limits.image);
        tokio::task::spawn_blocking(move || {
            let content = match path {
                None => Err("the image is not in the store any more".to_owned()),
                Some(path) => read(&path, digest, most),
            };
            let _ = sender.blocking_send(Loaded { digest, content });
        });
    }

    /// The next one that was loaded. Cancel-safe.
    pub async fn loaded(&mut self) -> Loaded {
        match self.loaded.1.recv().await {
            Some(loaded) => loaded,
            None => std::future::pending().await,
        }
    }

    /// Takes one piece of an image: `{"sha256", "name", "size", "offset", "data"}`, the data in
    /// base64. Says where the next one begins.
    ///
    /// # Errors
    ///
    /// A sentence.
    pub fn put(&mut self, request: Json) -> anyhow::Result<Json> {
        let piece: Piece = serde_json::from_value(request)?;
        let Piece { sha256, size, .. } = piece;
        if self.images.contains_key(&sha256) {
            return Ok(json!({ "offset": size }));
        }
        let data = BASE64_STANDARD.decode(&piece.data).context("data")?;
        if piece.offset == 0 {
            let upload = self.begin(&piece)?;
            self.uploads.insert(sha256, upload);
        }
        let upload = self
            .uploads
            .get_mut(&sha256)
            .filter(|upload| upload.length == piece.offset)
            .context("a piece before this one is missing; begin again")?;
        let taken = upload.take(&data);
        let (length, size) = (upload.length, upload.size);
        if taken.is_err() || length == size {
            let upload = self.uploads.remove(&sha256).context("no upload")?;
            let path = upload.path.clone();
            let finished = taken.and_then(|()| self.finish(sha256, upload));
            finished.inspect_err(|_| drop(fs::remove_file(path)))?;
        }
        Ok(json!({ "offset": length }))
    }

    fn begin(&mut self, piece: &Piece) -> anyhow::Result<Upload> {
        ensure!(piece.size > 0, "an image of no bytes is none");
        ensure!(
            piece.size <= self.limits.image,
            "the image is larger than {} MiB; see [firmware] max_image",
            self.limits.image >> 20
        );
        if let Some(before) = self.uploads.remove(&piece.sha256) {
            before.give_up();
        }
        if self.uploads.len() >= UPLOADS
            && let Some((_, other)) = self.uploads.pop_first()
        {
            // Whoever began it may be gone.
            other.give_up();
        }
        let images = self.images.values().map(|(image, _)| image.size);
        let coming = self.uploads.values().map(|upload| upload.size);
        let used: u64 = images.chain(coming).sum();
        ensure!(
            used + piece.size <= self.limits.all,
            "the images would be more than {} MiB; remove one with `lwm2mqtt firmware remove`, or see [firmware] max_size",
            self.limits.all >> 20
        );
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .with_context(|| self.folder.display().to_string())?;
        let path = self.folder.join(format!("{}.part", piece.sha256));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        Ok(Upload {
            file,
            path,
            name: clean(&piece.name),
            size: piece.size,
            length: 0,
            synced: 0,
            hash: Sha256::new(),
        })
    }

    fn finish(&mut self, sha256: Digest, upload: Upload) -> anyhow::Result<()> {
        let Upload {
            file,
            path,
            name,
            size,
            hash,
            ..
        } = upload;
        ensure!(
            Digest(hash.finalize().into()) == sha256,
            "what came is not what its SHA-256 says"
        );
        let shown = path.display().to_string();
        file.sync_all().with_context(|| shown.clone())?;
        let place = self.folder.join(format!("{sha256}-{name}"));
        fs::rename(&path, &place).with_context(|| shown.clone())?;
        // What an update counts on is there after a power cut.
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .context(shown)?;
        let image = Image { name, sha256, size };
        self.images.insert(sha256, (image, place));
        Ok(())
    }

    /// Removes an image: `{"file"}`, its name or SHA-256.
    ///
    /// # Errors
    ///
    /// When there is none, several are called so, or an update needs it.
    pub fn remove(&mut self, request: Json, needed: &[Digest]) -> anyhow::Result<Json> {
        let Removal { file, .. } = serde_json::from_value(request)?;
        let mut found = self
            .images
            .values()
            .filter(|(image, _)| image.name == file || image.sha256.to_string() == file);
        let (image, path) = match (found.next(), found.next()) {
            (Some(one), None) => one.clone(),
            (Some(_), Some(_)) => {
                bail!("several images are called so; say which one by its SHA-256")
            }
            _ => bail!("no image is called so; `lwm2mqtt firmware list` shows them all"),
        };
        ensure!(
            !needed.contains(&image.sha256),
            "an update under way needs it"
        );
        fs::remove_file(&path).with_context(|| path.display().to_string())?;
        self.images.remove(&image.sha256);
        Ok(json!(image))
    }
}

impl Upload {
    fn take(&mut self, data: &[u8]) -> anyhow::Result<()> {
        self.length += data.len() as u64;
        ensure!(self.length <= self.size, "it is longer than was said");
        self.hash.update(data);
        let shown = || self.path.display().to_string();
        self.file.write_all(data).with_context(shown)?;
        if self.length - self.synced >= UNSYNCED {
            self.synced = self.length;
            self.file.sync_data().with_context(shown)?;
        }
        Ok(())
    }

    fn give_up(self) {
        let _ = fs::remove_file(self.path);
    }
}

fn read(path: &Path, digest: Digest, most: u64) -> Result<Bytes, String> {
    let shown = path.display();
    let size = fs::metadata(path)
        .map_err(|error| format!("{shown}: {error}"))?
        .len();
    if size > most {
        return Err(format!("{shown} is larger than {} MiB", most >> 20));
    }
    let content = fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
    if Digest::of(&content) != digest {
        return Err(format!("{shown} is damaged: it is not what its name says"));
    }
    Ok(content.into())
}

fn parse_name(file_name: &str) -> Option<(Digest, String)> {
    let (digest, name) = file_name.split_at_checked(64)?;
    Some((digest.parse().ok()?, name.strip_prefix('-')?.to_owned()))
}

/// A name that is a file name and nothing else.
fn clean(name: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+');
    let name: String = name
        .chars()
        .take(NAME_MAX)
        .map(|c| if good(c) { c } else { '_' })
        .collect();
    if name.is_empty() {
        "image".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(name: &str, limits: Limits) -> Images {
        let folder =
            std::env::temp_dir().join(format!("lwm2mqtt-images-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        Images::open(folder, limits).unwrap()
    }

    fn put(images: &mut Images, content: &[u8], digest: Digest, step: usize) -> anyhow::Result<()> {
        for (index, piece) in content.chunks(step).enumerate() {
            images.put(json!({
                "verb": "firmware/put", "sha256": digest, "name": "../a b.bin", "size": content.len(),
                "offset": index * step, "data": BASE64_STANDARD.encode(piece),
            }))?;
        }
        Ok(())
    }

    #[test]
    fn an_image_comes_in_pieces_and_is_there_after_a_restart() {
        let mut images = images("pieces", Limits::default());
        let content = vec![7; 1000];
        let digest = Digest::of(&content);
        put(&mut images, &content, digest, 300).unwrap();
        let path = images.path(digest).unwrap().to_owned();
        assert_eq!(
            path.file_name().unwrap().to_str().unwrap(),
            format!("{digest}-.._a_b.bin")
        );
        let again = Images::open(images.folder.clone(), Limits::default()).unwrap();
        assert_eq!(again.list(), images.list());
        assert_eq!(again.list()[0].size, 1000);
        assert_eq!(read(&path, digest, 2000).unwrap(), content);
        fs::write(&path, b"other").unwrap();
        assert!(read(&path, digest, 2000).unwrap_err().contains("damaged"));
    }

    /// The first piece of an image that is said to be so large.
    fn begin(images: &mut Images, content: &[u8], size: usize) -> anyhow::Result<Json> {
        images.put(json!({
            "verb": "firmware/put", "sha256": Digest::of(content), "name": "a", "size": size,
            "offset": 0, "data": BASE64_STANDARD.encode(content),
        }))
    }

    fn files(images: &Images) -> usize {
        fs::read_dir(&images.folder).unwrap().count()
    }

    #[test]
    fn what_is_being_brought_takes_room_until_it_is_given_up() {
        let limits = Limits {
            image: 1000,
            all: 1500,
        };
        let mut images = images("room", limits);
        begin(&mut images, b"one", 1000).unwrap();
        let error = begin(&mut images, b"two", 1000).unwrap_err();
        assert!(error.to_string().contains("max_size"), "{error}");
        // Begun anew, it takes its own place.
        begin(&mut images, b"one", 1000).unwrap();
        assert_eq!(files(&images), 1);
        for content in [b"2", b"3", b"4", b"5", b"6", b"7"] {
            begin(&mut images, content, 10).unwrap();
        }
        assert_eq!(files(&images), UPLOADS);
    }

    #[test]
    fn of_one_that_is_longer_than_was_said_nothing_is_left() {
        let mut images = images("longer", Limits::default());
        assert!(begin(&mut images, b"four", 3).is_err());
        assert_eq!(files(&images), 0);
        let content = b"four";
        put(&mut images, content, Digest::of(content), 2).unwrap();
    }

    #[test]
    fn what_is_not_what_was_said_or_too_much_is_refused() {
        let limits = Limits {
            image: 1000,
            all: 1500,
        };
        let mut images = images("refused", limits);
        let content = vec![7; 900];
        let digest = Digest::of(&content);
        let other = Digest::of(b"other");
        let error = put(&mut images, &content, other, 300).unwrap_err();
        assert!(error.to_string().contains("SHA-256"), "{error}");
        assert!(
            put(&mut images, &[1; 1001], other, 300)
                .unwrap_err()
                .to_string()
                .contains("larger")
        );
        assert_eq!(fs::read_dir(&images.folder).unwrap().count(), 0);
        put(&mut images, &content, digest, 300).unwrap();
        let error = put(&mut images, &[8; 900], Digest::of(&[8; 900]), 300).unwrap_err();
        assert!(error.to_string().contains("max_size"), "{error}");
        let removal = json!({ "verb": "firmware/remove", "file": ".._a_b.bin" });
        assert!(images.remove(removal.clone(), &[digest]).is_err());
        images.remove(removal, &[]).unwrap();
        assert!(images.list().is_empty());
        assert_eq!(fs::read_dir(&images.folder).unwrap().count(), 0);
    }
}
