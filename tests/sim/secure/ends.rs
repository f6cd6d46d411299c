//! How a session ends, and how it does not: credentials that are taken away, a gateway that
//! restarts.

use lwm2mqtt::server::credentials::{self, File, Files};

use super::*;

/// Takes this as the one file of devices.
fn write_file(rig: &mut Rig, text: &str) {
    let mut nothing = |_: &str| Err("there are no other files".to_owned());
    let mut neither = |_: &str| Err("there are no other files".to_owned());
    let read = credentials::read("d.toml", text, rig.now.unix, &mut nothing, &mut neither);
    assert!(read.diagnostics.is_empty(), "{:?}", read.diagnostics);
    let files = Files {
        found: vec![File {
            name: "d.toml".into(),
            content: read.content,
        }],
        partial: false,
    };
    let conflicts = rig.gateway.replace_files(rig.now, files);
    assert!(conflicts.is_empty(), "{conflicts:?}");
    rig.input(lwm2mqtt::gateway::Input::Timeout);
    rig.run(SECOND);
}

fn in_file(key: &[u8]) -> String {
    let key = hex(key);
    format!("[[device]]\nname = \"sec1\"\npsk = {{ identity = \"id-sec1\", key = \"{key}\" }}\n")
}

/// The device tries to come back, by the session that it had and by a new one.
fn comes_back(rig: &mut Rig, device: usize) -> bool {
    let mut came = register(rig, device, "sec1").is_some();
    rig.devices[device].road = Some(Road::new(200, "id-sec1", KEY));
    came |= register(rig, device, "sec1").is_some();
    came
}

fn below_sec1(rig: &Rig) -> Vec<&String> {
    let topics = rig.broker.retained.keys();
    topics
        .filter(|topic| topic.starts_with("lwm2mqtt/d/sec1"))
        .collect()
}

#[test]
fn a_device_that_is_removed_is_gone_at_once_and_stays_out() {
    let mut rig = rig_with_sec1();
    let sec1 = registered(&mut rig);
    assert!(below_sec1(&rig).len() > 3);
    let removed = rig.administer(&json!({ "verb": "device/remove", "name": "sec1" }));
    assert_eq!(removed["ok"], true);
    rig.run(SECOND);
    assert_eq!(road(&mut rig, sec1).closed, 1);
    assert_eq!(below_sec1(&rig), [""; 0]);
    assert_eq!(sessions(&mut rig), 0);
    assert!(!comes_back(&mut rig, sec1));
    assert_eq!(below_sec1(&rig), [""; 0]);
    assert_eq!(registrations(&rig), 1);
    assert!(last_words(&rig).contains("\"id-sec1\" is not known"));
}

#[test]
fn a_session_that_was_not_told_of_its_end_is_over_all_the_same() {
    let mut rig = rig_with_sec1();
    let sec1 = registered(&mut rig);
    // close_notify is lost.
    rig.devices[sec1].dead = true;
    rig.administer(&json!({ "verb": "device/remove", "name": "sec1" }));
    rig.run(SECOND);
    rig.devices[sec1].dead = false;
    assert_eq!(register(&mut rig, sec1, "sec1"), None);
    assert_eq!(road(&mut rig, sec1).closed, 0);
    assert_eq!(below_sec1(&rig), [""; 0]);
}

#[test]
fn a_key_that_changes_in_a_file_ends_what_the_old_one_let_in() {
    let mut rig = rig();
    write_file(&mut rig, &in_file(KEY));
    let sec1 = registered(&mut rig);
    // Reading it again ends nothing.
    write_file(&mut rig, &in_file(KEY));
    assert_eq!(measured(&mut rig, sec1, 22.5), 22.5);

    write_file(&mut rig, &in_file(b"it is a new key."));
    assert_eq!(road(&mut rig, sec1).closed, 1);
    assert_eq!(state(&rig), "offline");
    assert_eq!(rig.broker.json(AVAILABILITY)["reason"], "blocked");
    // It is still a device of ours, so what it said stays.
    assert_eq!(rig.broker.json(VALUE)["value"], 22.5);
    assert!(!comes_back(&mut rig, sec1));
    assert!(last_words(&rig).contains("is not the one we have"));
    rig.devices[sec1].road = Some(Road::new(201, "id-sec1", b"it is a new key."));
    assert_eq!(register(&mut rig, sec1, "sec1"), Some(Code::CREATED));
    assert_eq!(state(&rig), "online");

    write_file(&mut rig, "");
    assert_eq!(below_sec1(&rig), [""; 0]);
    assert_eq!(sessions(&mut rig), 0);
}

#[test]
fn a_device_whose_record_moves_to_another_identity_is_put_out() {
    let mut rig = rig();
    write_file(&mut rig, &in_file(KEY));
    let sec1 = registered(&mut rig);
    write_file(&mut rig, &in_file(KEY).replace("id-sec1", "id-new"));
    assert_eq!(road(&mut rig, sec1).closed, 1);
    assert!(!comes_back(&mut rig, sec1));
}

/// Stops a gateway in order, and has this one go on with its sessions and devices.
fn goes_on(mut before: Rig, mut after: Rig) -> (Rig, usize) {
    let saved = before.gateway.save_sessions();
    after.now = before.now;
    after.devices = std::mem::take(&mut before.devices);
    let restored = after.gateway.restore_sessions(after.now, saved);
    after.input(lwm2mqtt::gateway::Input::Timeout);
    (after, restored)
}

#[test]
fn a_restarted_gateway_serves_the_next_message_without_a_handshake() {
    let mut rig = rig_with_sec1();
    let sec1 = registered(&mut rig);
    // The second one comes from somewhere else by now.
    add(&mut rig, "sec2", KEY);
    let sec2 = device(&mut rig, "id-sec2", KEY);
    assert_eq!(register(&mut rig, sec2, "sec2"), Some(Code::CREATED));
    let mut after = rig_with_sec1();
    add(&mut after, "sec2", KEY);
    let (mut rig, restored) = goes_on(rig, after);
    assert_eq!(restored, 2);
    rig.devices[sec2].route.address = ([10, 7, 7, 7], 777).into();
    for (device, name) in [(sec1, "sec1"), (sec2, "sec2")] {
        // Registrations are not kept: an Update is not known, and the device registers anew.
        let location = Request::new(Code::POST, ["rd", "0123456789ab"]);
        rig.request(device, location);
        rig.run(SECOND);
        let answer = rig.devices[device].responses.last().unwrap();
        assert_eq!(answer.code, Code::NOT_FOUND);
        assert_eq!(register(&mut rig, device, name), Some(Code::CREATED));
        assert_eq!(road(&mut rig, device).handshakes, 1);
    }
    assert_eq!(measured(&mut rig, sec1, 28.5), 28.5);
    assert_eq!(switched(&mut rig), "done");
    assert_eq!(sessions(&mut rig), 2);
}

#[test]
fn a_session_does_not_outlive_the_key_that_changed_while_the_gateway_was_off() {
    for (key, survives) in [(KEY, true), (b"it is a new key.", false)] {
        let mut rig = rig_with_sec1();
        let sec1 = registered(&mut rig);
        let mut after = self::rig();
        add(&mut after, "sec1", key);
        let (mut rig, restored) = goes_on(rig, after);
        assert_eq!(restored, usize::from(survives));
        let answer = register(&mut rig, sec1, "sec1");
        assert_eq!(answer, survives.then_some(Code::CREATED));
    }
    let mut rig = rig_with_sec1();
    registered(&mut rig);
    let (mut rig, restored) = goes_on(rig, self::rig());
    assert_eq!((restored, sessions(&mut rig)), (0, 0));
}
