use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::dtls::plain::Plain;
use crate::dtls::{Connect, Credential, Keys, Limits, Mux, Output};
use crate::route::Route;
use crate::secret::Secret;
use crate::time::{Instant, Now, UnixTime};

const NOW: Now = Now {
    instant: Instant::from_micros(1_000_000),
    unix: UnixTime::from_millis(1_795_360_760_000),
};

/// A folder of one test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("lwm2mqtt-takeover-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn takeover(&self) -> Takeover {
        Takeover::new(&self.0)
    }

    fn sealed(&self) -> PathBuf {
        self.0.join("sessions.sealed")
    }

    fn mode(&self, file: &str) -> u32 {
        let metadata = fs::metadata(self.0.join(file)).unwrap();
        metadata.permissions().mode() & 0o777
    }

    /// What is in it, by name.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// Why nothing is taken over. The file is gone afterwards.
    fn refusal(&self) -> String {
        let refusal = self.takeover().take().unwrap_err();
        assert!(!self.sealed().exists());
        format!("{refusal:#}")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct OneKey;

impl Keys for OneKey {
    fn psk(&self, _: &[u8]) -> Option<Secret> {
        Some(Secret::new(*b"the devices' key"))
    }

    fn pins(&self, _: &[u8; 32]) -> bool {
        false
    }
}

/// Sessions of so many devices.
fn sessions(count: u8) -> Vec<Saved> {
    let mut rng = StdRng::from_seed([3; 32]);
    let mut mux = |seed| {
        Mux::new(
            Box::new(Plain::new([seed; 32])),
            Limits::default(),
            &mut rng,
        )
    };
    let mut server = mux(0);
    server.serve(0, Arc::new(OneKey));
    for number in 1..=count {
        let mut client = mux(number);
        let route = Route {
            listener: 0,
            address: ([192, 0, 2, number], 5684).into(),
        };
        let credential = Credential::Psk {
            identity: vec![b'a' + number],
            key: OneKey.psk(&[]).unwrap(),
        };
        let cid = Vec::new();
        let session = client.connect(NOW, route, Connect { credential, cid });
        let session = session.unwrap();
        let mut sent = false;
        let mut quiet = false;
        while !quiet {
            quiet = true;
            while let Some(output) = client.poll() {
                quiet = false;
                if let Output::Datagram { bytes, .. } = output {
                    server.receive(NOW, route, &bytes);
                }
            }
            while let Some(output) = server.poll() {
                quiet = false;
                if let Output::Datagram { bytes, .. } = output {
                    client.receive(NOW, route, &bytes);
                }
            }
            if quiet && !sent {
                // A session that was never used is not worth moving.
                client.send(session, b"hello");
                (sent, quiet) = (true, false);
            }
        }
    }
    let saved = server.save();
    assert_eq!(saved.len(), usize::from(count));
    saved
}

#[test]
fn sessions_are_found_by_the_next_process_and_by_no_other() {
    let folder = Folder::new("found");
    let left = sessions(3);
    folder.takeover().leave(&left).unwrap();
    assert_eq!(folder.files(), ["sessions.key", "sessions.sealed"]);
    for file in folder.files() {
        assert_eq!(folder.mode(&file), 0o600, "{file}");
    }
    assert_eq!(folder.takeover().take().unwrap(), left);
    // Two that go on with one session would use one nonce twice.
    assert_eq!(folder.files(), ["sessions.key"]);
    assert_eq!(folder.takeover().take().unwrap(), []);
    // The key stays, and the next restart is like this one.
    let key = fs::read(folder.0.join("sessions.key")).unwrap();
    folder.takeover().leave(&left[1..]).unwrap();
    assert_eq!(folder.takeover().take().unwrap(), left[1..]);
    assert_eq!(fs::read(folder.0.join("sessions.key")).unwrap(), key);
}

#[test]
fn without_sessions_nothing_is_left() {
    let folder = Folder::new("nothing");
    folder.takeover().leave(&[]).unwrap();
    assert_eq!(folder.files(), [""; 0]);
    assert_eq!(folder.takeover().take().unwrap(), []);
    assert_eq!(folder.files(), [""; 0]);
}

#[test]
fn what_is_left_shows_neither_key_nor_identity() {
    let folder = Folder::new("shows");
    let mut left = sessions(2);
    folder.takeover().leave(&left).unwrap();
    let first = fs::read(folder.sealed()).unwrap();
    left.truncate(1);
    let plain = left[0].to_bytes();
    let shows = |part: &[u8]| first.windows(part.len()).any(|window| window == part);
    for part in plain.expose().chunks_exact(8) {
        assert!(!shows(part), "{part:02x?}");
    }
    // The same sessions are sealed differently each time.
    folder.takeover().take().unwrap();
    folder.takeover().leave(&sessions(2)).unwrap();
    let second = fs::read(folder.sealed()).unwrap();
    let same = first.iter().zip(&second).filter(|(a, b)| a == b).count();
    assert!(same < HEADER.len() + first.len() / 16, "{same}");
}

#[test]
fn one_bit_that_is_not_ours_and_all_is_refused() {
    let folder = Folder::new("bit");
    folder.takeover().leave(&sessions(1)).unwrap();
    let sound = fs::read(folder.sealed()).unwrap();
    for at in 0..sound.len() {
        let mut changed = sound.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(folder.sealed(), &changed).unwrap();
        let refusal = folder.refusal();
        let why = match at {
            _ if at < HEADER.len() => "it begins with something else",
            _ => "its seal is broken",
        };
        let whole = format!(
            "{} is not what this program left: {why}",
            folder.sealed().display()
        );
        assert_eq!(refusal, whole, "{at}");
    }
}

#[test]
fn a_file_that_is_cut_short_or_goes_on_is_refused() {
    let folder = Folder::new("short");
    folder.takeover().leave(&sessions(1)).unwrap();
    let sound = fs::read(folder.sealed()).unwrap();
    for length in 0..sound.len() {
        fs::write(folder.sealed(), &sound[..length]).unwrap();
        let refusal = folder.refusal();
        assert!(
            refusal.contains("is not what this program left"),
            "{length}: {refusal}"
        );
    }
    fs::write(folder.sealed(), [&sound[..], b"x"].concat()).unwrap();
    assert!(folder.refusal().contains("its seal is broken"));
}

#[test]
fn sessions_of_another_store_are_refused() {
    let (folder, other) = (Folder::new("one"), Folder::new("other"));
    folder.takeover().leave(&sessions(1)).unwrap();
    other.takeover().leave(&sessions(1)).unwrap();
    fs::copy(other.sealed(), folder.sealed()).unwrap();
    assert!(folder.refusal().contains("its seal is broken"));
}

#[test]
fn a_key_that_others_may_read_or_that_is_none_is_not_used() {
    let folder = Folder::new("key");
    let file = folder.0.join("sessions.key");
    folder.takeover().leave(&sessions(1)).unwrap();
    for mode in [0o640, 0o604, 0o620] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let refusal = folder.takeover().leave(&sessions(1)).unwrap_err();
        let refusal = format!("{refusal:#}");
        assert!(
            refusal.contains("sessions.key: others may read it; delete it"),
            "{refusal}"
        );
    }
    assert!(folder.refusal().contains("others may read it"));
    // As the sentence says, a new one is made.
    fs::remove_file(&file).unwrap();
    folder.takeover().leave(&sessions(1)).unwrap();
    assert_eq!(folder.mode("sessions.key"), 0o600);
    assert_eq!(folder.takeover().take().unwrap(), sessions(1));

    fs::write(&file, b"too short").unwrap();
    let refusal = folder.takeover().leave(&sessions(1)).unwrap_err();
    assert!(format!("{refusal:#}").contains("cannot use the key"));
    assert!(!folder.sealed().exists());
}

#[test]
fn a_folder_that_cannot_be_written_to_is_named() {
    let folder = Folder::new("file");
    let not_a_folder = folder.0.join("taken");
    fs::write(&not_a_folder, "x").unwrap();
    let refusal = Takeover::new(&not_a_folder)
        .leave(&sessions(1))
        .unwrap_err();
    assert!(format!("{refusal:#}").contains("taken/sessions.key"));
}
