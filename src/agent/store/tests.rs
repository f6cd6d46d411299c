//! The store on a real disk.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use super::*;

/// A folder that is removed at the end of a test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("lwm2mqtt-store-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn mode(&self, file: &str) -> u32 {
        fs::metadata(self.0.join(file)).unwrap().mode() & 0o777
    }

    fn open(&self) -> Result<Sqlite, StoreError> {
        Sqlite::open(&self.0)
    }

    fn refusal(&self) -> String {
        self.open().map(|_| ()).unwrap_err().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn record(name: &str) -> Record {
    Record {
        psk: Some(Psk::new(
            name.as_bytes(),
            Secret::new(format!("key of {name}").into_bytes()),
        )),
        certificate: Some([7; 32]),
        ..Record::new(name, UnixTime::from_millis(5))
    }
}

fn grant(endpoint: &str) -> Grant {
    Grant {
        endpoint: endpoint.into(),
        psk: Psk::new(*b"granted", Secret::new(*b"granted key")),
        expires: Some(UnixTime::from_millis(9)),
        added: UnixTime::from_millis(8),
    }
}

#[test]
fn what_was_kept_is_there_after_a_restart() {
    let folder = Folder::new("restart");
    let mut store = folder.open().unwrap();
    for change in [
        Change::Put(Arc::new(record("a"))),
        Change::Put(Arc::new(record("b"))),
        Change::Put(Arc::new(Record::new("c", UnixTime::from_millis(5)))),
        Change::Grant(Arc::new(grant("b"))),
        Change::Grant(Arc::new(grant("c"))),
        Change::Remove("a".into()),
        Change::Revoke("b".into()),
    ] {
        store.apply(&change).unwrap();
    }
    drop(store);
    let stored = folder.open().unwrap().load().unwrap();
    assert_eq!(
        stored,
        Stored {
            records: vec![record("b"), Record::new("c", UnixTime::from_millis(5))],
            grants: vec![grant("c")],
        }
    );
}

#[test]
fn a_removed_key_is_not_in_the_files_any_more() {
    let folder = Folder::new("gone");
    let mut store = folder.open().unwrap();
    store.apply(&Change::Put(Arc::new(record("a")))).unwrap();
    store.apply(&Change::Remove("a".into())).unwrap();
    drop(store);
    for file in fs::read_dir(&folder.0).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        let found = bytes.windows(8).any(|window| window == b"key of a");
        assert!(!found);
    }
}

#[test]
fn nobody_else_can_read_it() {
    let folder = Folder::new("rights");
    let mut store = folder.open().unwrap();
    store.apply(&Change::Put(Arc::new(record("a")))).unwrap();
    assert_eq!(folder.mode(""), 0o700);
    for file in ["lwm2mqtt.db", "lwm2mqtt.db-wal", "lwm2mqtt.lock"] {
        assert_eq!(folder.mode(file), 0o600, "{file}");
    }
    drop(store);
    let database = folder.0.join(DATABASE);
    fs::set_permissions(&database, fs::Permissions::from_mode(0o640)).unwrap();
    let refusal = folder.refusal();
    assert!(
        refusal.contains("is open to others (mode 640)") && refusal.contains("chmod 600"),
        "{refusal}"
    );
}

#[test]
fn two_agents_do_not_share_it() {
    let folder = Folder::new("locked");
    let store = folder.open().unwrap();
    assert!(folder.refusal().contains("in use by another lwm2mqtt"));
    drop(store);
    folder.open().unwrap();
}

#[test]
fn what_is_damaged_or_something_elses_is_refused_and_left_alone() {
    let folder = Folder::new("foreign");
    folder.open().unwrap();
    let database = folder.0.join(DATABASE);
    let other = Connection::open(&database).unwrap();
    other.pragma_update(None, "user_version", 99).unwrap();
    drop(other);
    assert!(
        folder
            .refusal()
            .contains("newer version of lwm2mqtt (schema 99")
    );

    fs::remove_file(&database).unwrap();
    drop(private_file(&database).unwrap());
    let other = Connection::open(&database).unwrap();
    other.execute_batch("CREATE TABLE photos (x)").unwrap();
    drop(other);
    assert!(folder.refusal().contains("is not a store of lwm2mqtt"));

    for bytes in [
        b"hello, I am a text of some length".repeat(100),
        vec![0xff; 4096],
    ] {
        fs::write(&database, &bytes).unwrap();
        let refusal = folder.refusal();
        assert!(refusal.contains("is damaged"), "{refusal}");
        assert_eq!(fs::read(&database).unwrap(), bytes);
    }
}

#[test]
fn a_page_that_was_overwritten_is_noticed() {
    let folder = Folder::new("page");
    let mut store = folder.open().unwrap();
    for n in 0..200 {
        let mut kept = record(&format!("device-{n}"));
        kept.certificate = None;
        store.apply(&Change::Put(Arc::new(kept))).unwrap();
    }
    drop(store);
    let database = folder.0.join(DATABASE);
    let mut bytes = fs::read(&database).unwrap();
    assert!(bytes.len() > 3 * 4096);
    for page in bytes.chunks_mut(4096).skip(2) {
        page.fill(0x5a);
    }
    fs::write(&database, bytes).unwrap();
    let refusal = folder.refusal();
    assert!(refusal.contains("is damaged"), "{refusal}");
}

#[test]
fn changes_of_one_moment_are_kept_together_or_not_at_all() {
    let folder = Folder::new("together");
    let mut store = folder.open().unwrap();
    let put = |name| Change::Put(Arc::new(record(name)));
    store
        .connection
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON device WHEN NEW.name = 'bad' \
             BEGIN SELECT RAISE(FAIL, 'no room'); END",
        )
        .unwrap();
    assert!(store.apply_all(&[put("a"), put("bad")]).is_err());
    assert!(store.load().unwrap().records.is_empty());
    store.apply_all(&[put("a"), put("b")]).unwrap();
    assert_eq!(store.load().unwrap().records.len(), 2);
}
