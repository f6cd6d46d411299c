//! The store on a real disk.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use super::*;
use crate::coap::Token;
use crate::dtls::PeerIdentity;
use crate::gateway::device::{Availability, Reason, State};
use crate::gateway::json::{Sample, Source};
use crate::gateway::publish::Class;
use crate::kept::{self, Changes, Document, DocumentKey, Gateway, Kind, Urgency};
use crate::lwm2m::{ObjectList, Path, Target, Value, Version};
use crate::route::Route;
use crate::secret::Secret;
use crate::server::Terms;
use crate::server::credentials::{self, Grant, Psk, Record, Stored};
use crate::time::UnixTime;

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

fn put(record: Record) -> Change {
    Change::Credential(credentials::Change::Put(Arc::new(record)))
}

fn remove(name: &str) -> Change {
    Change::Credential(credentials::Change::Remove(name.into()))
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
        put(record("a")),
        put(record("b")),
        put(Record::new("c", UnixTime::from_millis(5))),
        Change::Credential(credentials::Change::Grant(Arc::new(grant("b")))),
        Change::Credential(credentials::Change::Grant(Arc::new(grant("c")))),
        remove("a"),
        Change::Credential(credentials::Change::Revoke("b".into())),
    ] {
        store.apply(&change).unwrap();
    }
    drop(store);
    let stored = folder.open().unwrap().credentials().unwrap();
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
    store.apply(&put(record("a"))).unwrap();
    store.apply(&remove("a")).unwrap();
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
    store.apply(&put(record("a"))).unwrap();
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
        store.apply(&put(kept)).unwrap();
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
    store
        .connection
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON device WHEN NEW.name = 'bad' \
             BEGIN SELECT RAISE(FAIL, 'no room'); END",
        )
        .unwrap();
    assert!(
        store
            .apply_all(&[put(record("a")), put(record("bad"))])
            .is_err()
    );
    assert!(store.credentials().unwrap().records.is_empty());
    store
        .apply_all(&[put(record("a")), put(record("b"))])
        .unwrap();
    assert_eq!(store.credentials().unwrap().records.len(), 2);
}

#[test]
fn documents_and_the_gateways_own_facts_are_there_after_a_restart() {
    let folder = Folder::new("documents");
    let mut store = folder.open().unwrap();
    let key = |kind, id: &str| DocumentKey {
        kind,
        endpoint: "dev1".into(),
        id: id.into(),
    };
    let document = |kind, id, body: &[u8]| Document {
        key: key(kind, id),
        body: body.to_vec(),
    };
    let gateway = Gateway {
        ledger: "0123".into(),
        sentinel: 7,
        settled: true,
    };
    store
        .apply_all(&[
            Change::Put(document(Kind::Command, "a", b"1"), Urgency::Now),
            Change::Put(document(Kind::Command, "b", b"2"), Urgency::Soon),
            Change::Put(document(Kind::Reply, "a", b"3"), Urgency::Now),
            Change::Drop(key(Kind::Command, "a"), Urgency::Now),
            Change::Gateway(Gateway::default(), Urgency::Now),
            Change::Gateway(gateway.clone(), Urgency::Soon),
        ])
        .unwrap();
    drop(store);
    let mut parts = Vec::new();
    let store = folder.open().unwrap();
    store.load(&mut |part| parts.push(part)).unwrap();
    assert_eq!(parts.first().unwrap().gateway, Some(gateway));
    let documents: Vec<_> = parts.into_iter().flat_map(|part| part.documents).collect();
    assert_eq!(
        documents,
        [
            document(Kind::Command, "b", b"2"),
            document(Kind::Reply, "a", b"3")
        ]
    );
}

#[test]
fn a_store_of_the_first_version_is_brought_to_todays_with_all_that_it_holds() {
    let folder = Folder::new("first");
    drop(folder.open().unwrap());
    let database = folder.0.join(DATABASE);
    fs::remove_file(&database).unwrap();
    drop(private_file(&database).unwrap());
    let first = Connection::open(&database).unwrap();
    schema::migrate_to(&first, 1).unwrap();
    first
        .execute(
            "INSERT INTO device VALUES ('a', 'a', x'61', x'6b6579206f662061', NULL, NULL, NULL, 5)",
            [],
        )
        .unwrap();
    drop(first);
    let store = folder.open().unwrap();
    let version: i32 = store
        .connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(version, schema::VERSION);
    let mut expected = record("a");
    expected.certificate = None;
    assert_eq!(store.credentials().unwrap().records, [expected]);
    drop(store);
    folder.open().unwrap();
}

#[test]
fn a_row_that_makes_no_sense_is_damage() {
    let folder = Folder::new("nonsense");
    let store = folder.open().unwrap();
    store
        .connection
        .execute("INSERT INTO gateway VALUES (1, x'ff')", [])
        .unwrap();
    let refusal = store.load(&mut |_| {}).unwrap_err().to_string();
    assert!(refusal.contains("is damaged"), "{refusal}");
}

fn observation(target: Target) -> kept::Observation {
    kept::Observation {
        target,
        token: Token::new(&[1, 2, 3]).unwrap(),
        request: vec![0x40, 1, 0, 0],
    }
}

fn kept_device() -> kept::Device {
    let sample = Sample {
        value: Some(Value::Float(21.5).into()),
        suspect: false,
        time: UnixTime::from_millis(4),
        device_time: false,
        raw_time: None,
        source: Source::Notify,
        sequence: 7,
    };
    kept::Device {
        registration: Some(kept::Registration {
            location: "5a31".into(),
            route: Some(Route {
                listener: 0,
                address: "192.0.2.7:5683".parse().unwrap(),
            }),
            identity: Some(Arc::new(PeerIdentity::Psk(b"me".to_vec()))),
            version: Version::V1_1,
            terms: Terms {
                lifetime: Some(300),
                binding: Some("UQ".into()),
                queue_mode: Some(true),
            },
            objects: ObjectList::parse(b"</>;ct=110,</1/0>,</3303/0>,</3303/1>").unwrap(),
            standing: true,
        }),
        observations: vec![
            observation(Path::instance(3303, 0).into()),
            observation(Target::composite([
                Path::instance(1, 0),
                Path::resource(3, 0, 9),
            ])),
        ],
        descriptor: Some(kept::Descriptor {
            name: "cellar".into(),
            birth: Some(u64::MAX),
            ..kept::Descriptor::default()
        }),
        contact: Some(kept::Contact {
            availability: Availability {
                state: State::Online,
                reason: Reason::Update,
                since: UnixTime::from_millis(1),
                last_seen: UnixTime::from_millis(3),
            },
            refreshed: Some(UnixTime::from_millis(2)),
            sequence: 7,
            learned: kept::Learned {
                many: Some(112),
                ..kept::Learned::default()
            },
            message_id: Some(0xffff),
            numbers: vec![(0x0102_0300, 5)],
        }),
        signals: vec![kept::Signal {
            path: Path::resource(3303, 0, 5700),
            topic: "lwm2mqtt/d/cellar/v/temperature-0/sensor-value".into(),
            retained: true,
            last: Some(sample),
            due: true,
        }],
        ..kept::Device::new("dev1".into())
    }
}

/// What it takes that a device is kept.
fn changes_of(device: &kept::Device) -> Vec<Change> {
    let endpoint = &device.endpoint;
    let mut changes = Changes::default();
    changes.add(Change::Registered(
        endpoint.clone(),
        Box::new(device.registration.clone().unwrap()),
        Urgency::Now,
    ));
    for observation in &device.observations {
        changes.add(Change::Observed(
            endpoint.clone(),
            Box::new(observation.clone()),
        ));
    }
    changes.add(Change::Described(
        endpoint.clone(),
        Box::new(device.descriptor.clone().unwrap()),
        Urgency::Now,
    ));
    changes.add(Change::Heard(
        endpoint.clone(),
        Box::new(device.contact.clone().unwrap()),
        Urgency::Soon,
    ));
    for signal in &device.signals {
        changes.add(Change::Stands(
            endpoint.clone(),
            Box::new(signal.clone()),
            Urgency::Soon,
        ));
    }
    changes.take().collect()
}

fn devices(folder: &Folder) -> Vec<kept::Device> {
    let mut devices = Vec::new();
    let store = folder.open().unwrap();
    store
        .load(&mut |part| devices.extend(part.devices))
        .unwrap();
    devices
}

#[test]
fn a_device_is_there_after_a_restart_with_all_that_was_known_of_it() {
    let folder = Folder::new("device");
    let mut store = folder.open().unwrap();
    let (first, second) = (
        kept_device(),
        kept::Device {
            signals: Vec::new(),
            ..kept::Device {
                endpoint: "a".into(),
                ..kept_device()
            }
        },
    );
    store.apply_all(&changes_of(&first)).unwrap();
    store.apply_all(&changes_of(&second)).unwrap();
    drop(store);
    // In the order in which they came.
    assert_eq!(devices(&folder), [first, second]);
}

#[test]
fn observations_come_and_go_one_by_one() {
    let folder = Folder::new("observations");
    let mut store = folder.open().unwrap();
    let mut device = kept_device();
    store.apply_all(&changes_of(&device)).unwrap();
    let gone = device.observations.remove(0).target;
    let again = kept::Observation {
        token: Token::default(),
        ..device.observations.remove(0)
    };
    let endpoint = &device.endpoint;
    store
        .apply_all(&[
            Change::Unobserved(endpoint.clone(), gone),
            Change::Observed(endpoint.clone(), Box::new(again.clone())),
        ])
        .unwrap();
    drop(store);
    device.observations.push(again);
    assert_eq!(devices(&folder), [device]);
}

#[test]
fn an_ended_registration_leaves_its_objects_and_a_forgotten_device_nothing() {
    let folder = Folder::new("ended");
    let mut store = folder.open().unwrap();
    let mut device = kept_device();
    store.apply_all(&changes_of(&device)).unwrap();
    store
        .apply(&Change::Ended(device.endpoint.clone()))
        .unwrap();
    drop(store);
    device.registration.as_mut().unwrap().standing = false;
    device.observations.clear();
    assert_eq!(devices(&folder), [device.clone()]);

    let mut store = folder.open().unwrap();
    let path = device.signals.remove(0).path;
    store
        .apply(&Change::Cleared(device.endpoint.clone(), path))
        .unwrap();
    drop(store);
    assert_eq!(devices(&folder), [device.clone()]);

    let mut store = folder.open().unwrap();
    store
        .apply(&Change::Forgotten(device.endpoint.clone()))
        .unwrap();
    drop(store);
    assert_eq!(devices(&folder), []);
}

#[test]
fn only_what_is_owed_waits_for_the_disk_itself() {
    let folder = Folder::new("urgency");
    let mut store = folder.open().unwrap();
    let level = |store: &Sqlite| -> i64 {
        let connection = &store.connection;
        connection
            .pragma_query_value(None, "synchronous", |row| row.get(0))
            .unwrap()
    };
    let mut device = kept_device();
    store.apply_all(&changes_of(&device)).unwrap();
    assert_eq!(level(&store), 2, "a value that was acknowledged");
    device.signals[0].due = false;
    store.apply_all(&changes_of(&device)).unwrap();
    assert_eq!(level(&store), 1, "NORMAL");
    store.apply(&put(record("a"))).unwrap();
    assert_eq!(level(&store), 2, "FULL");
}

#[test]
fn messages_wait_in_the_spool_until_those_of_their_class_are_delivered() {
    let folder = Folder::new("spool");
    let spooled = |number, class| kept::Spooled {
        number,
        class,
        body: vec![number as u8; 3],
    };
    let all = [
        spooled(1, Class::Event),
        spooled(2, Class::Sample),
        spooled(5, Class::Sample),
        spooled(7, Class::Event),
    ];
    let mut store = folder.open().unwrap();
    let changes: Vec<_> = all.iter().cloned().map(Change::Spooled).collect();
    store.apply_all(&changes).unwrap();
    drop(store);
    let spool = |store: &Sqlite| {
        let mut spool = Vec::new();
        store.load(&mut |part| spool.extend(part.spool)).unwrap();
        spool
    };
    let mut store = folder.open().unwrap();
    assert_eq!(spool(&store), all);
    store.apply(&Change::Unspooled(Class::Sample, 5)).unwrap();
    assert_eq!(spool(&store), [&all[0], &all[2], &all[3]].map(Clone::clone));
    store.apply(&Change::Unspooled(Class::Event, 8)).unwrap();
    assert_eq!(spool(&store), [all[2].clone()]);
}
