//! Who is let in, and who is not.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::diagnostic::{Diagnostic, Severity};
use crate::secret::Secret;

const NOW: Now = Now {
    instant: Instant::from_micros(1_000_000),
    unix: UnixTime::from_millis(1_795_360_760_000),
};

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

fn book(join: Join) -> Book {
    let policy = Policy {
        join,
        ..Policy::default()
    };
    Book::new(policy, Limits::default(), &mut StdRng::from_seed([1; 32]))
}

fn psk(identity: &str) -> Option<Psk> {
    Some(Psk::new(
        identity.as_bytes(),
        Secret::new(format!("key of {identity}").into_bytes()),
    ))
}

fn record(endpoint: &str, identity: &str) -> Record {
    Record {
        psk: psk(identity),
        ..Record::new(endpoint, NOW.unix)
    }
}

fn is(identity: &str) -> PeerIdentity {
    PeerIdentity::Psk(identity.into())
}

fn certificate(leaf: &[u8], names: &[&str], authority: Option<&Authority>) -> PeerIdentity {
    PeerIdentity::X509 {
        leaf: leaf.to_owned(),
        chain: Vec::new(),
        names: names.iter().map(ToString::to_string).collect(),
        authority: authority.map(|authority| authority.sha256),
    }
}

/// Asks as a device of the LwM2M server.
fn ask(
    book: &mut Book,
    identity: Option<&PeerIdentity>,
    endpoint: &str,
) -> Result<Admitted, (Code, String)> {
    book.admit(NOW, Purpose::Management, identity, HERE, endpoint)
        .map_err(|denied| (denied.code, denied.reason))
}

fn changes(book: &mut Book) -> Vec<Change> {
    std::iter::from_fn(|| book.poll_change()).collect()
}

fn events(book: &mut Book) -> Vec<Event> {
    std::iter::from_fn(|| book.poll_event())
        .filter(|event| *event != Event::Changed)
        .collect()
}

fn ended(endpoint: &str, removed: bool, lost: &[&str]) -> Event {
    let psk = |identity: &&str| Lost::Psk(identity.as_bytes().into());
    Event::Ended {
        endpoint: endpoint.into(),
        removed,
        lost: lost.iter().map(psk).collect(),
    }
}

fn replace(book: &mut Book, found: Vec<File>) -> Vec<Diagnostic> {
    let partial = false;
    book.replace_files(Files { found, partial })
}

fn file(name: &str, records: Vec<Record>) -> File {
    let place = |record: Record| Placed {
        place: Diagnostic::whole(Severity::Error, "", name, "", record.name.to_string()),
        record: Record {
            origin: Origin::File(name.into()),
            ..record
        },
    };
    File {
        name: name.into(),
        content: Some(Content {
            records: records.into_iter().map(place).collect(),
            authorities: Vec::new(),
        }),
    }
}

// conformance: P22
#[test]
fn a_psk_identity_is_its_endpoint_and_no_other() {
    let mut book = book(Join::Open);
    book.add(record("sec1", "id1")).unwrap();
    assert_eq!(
        ask(&mut book, Some(&is("id1")), "sec1"),
        Ok(Admitted::Proven)
    );
    assert_eq!(
        ask(&mut book, Some(&is("id1")), "other"),
        Err((
            Code::BAD_REQUEST,
            "PSK identity \"id1\" belongs to endpoint \"sec1\", and the device says that it is \"other\"; set its endpoint name, or give it a key of its own".into()
        ))
    );
    let (code, reason) = ask(&mut book, Some(&is("id2")), "sec1").unwrap_err();
    assert_eq!(code, Code::FORBIDDEN);
    assert!(reason.contains("\"id2\""), "{reason}");
}

#[test]
fn an_endpoint_with_a_credential_is_never_served_without_it_whatever_the_policy() {
    for join in [Join::Known, Join::Window, Join::Open] {
        let mut book = book(join);
        book.open_window(NOW, Duration::from_secs(60));
        book.add(record("sec1", "id1")).unwrap();
        book.add(Record {
            psk: None,
            bootstrap_psk: psk("bs2"),
            ..record("sec2", "")
        })
        .unwrap();
        book.add(Record {
            certificate: Some([7; 32]),
            ..Record::new("sec3", NOW.unix)
        })
        .unwrap();
        for endpoint in ["sec1", "sec2", "sec3"] {
            for purpose in [Purpose::Management, Purpose::Bootstrap] {
                let denied = book.admit(NOW, purpose, None, HERE, endpoint).unwrap_err();
                assert_eq!(denied.code, Code::FORBIDDEN);
                assert!(denied.reason.contains("has a credential"), "{denied:?}");
            }
        }
        let rogue = certificate(b"other", &["sec3"], None);
        assert_eq!(
            ask(&mut book, Some(&rogue), "sec3").unwrap_err().0,
            Code::BAD_REQUEST
        );
        assert_eq!(events(&mut book).len(), 3);
    }
}

#[test]
fn a_stranger_is_told_how_to_become_known() {
    let mut book = book(Join::Known);
    let (code, reason) = ask(&mut book, None, "dev 1").unwrap_err();
    assert_eq!(code, Code::FORBIDDEN);
    assert!(
        reason.contains("`lwm2mqtt device approve 'dev 1'`"),
        "{reason}"
    );
    book.approve(NOW, "dev 1", None).unwrap();
    assert_eq!(ask(&mut book, None, "dev 1"), Ok(Admitted::Approved));
}

#[test]
fn a_window_approves_for_good_while_it_is_open() {
    let mut book = book(Join::Window);
    assert!(ask(&mut book, None, "dev1").is_err());
    book.open_window(NOW, Duration::from_secs(60));
    assert_eq!(book.window(NOW), Some(Duration::from_secs(60)));
    assert_eq!(ask(&mut book, None, "dev1"), Ok(Admitted::Joined));
    let stored = changes(&mut book);
    assert!(matches!(&stored[..], [Change::Put(record)] if &*record.endpoint == "dev1"));
    let later = NOW + Duration::from_secs(60);
    assert_eq!(book.next_timeout(), Some(later.instant));
    book.timeout(later);
    assert_eq!(book.window(later), None);
    assert_eq!(
        events(&mut book),
        [Event::Joined("dev1".into()), Event::WindowClosed]
    );
    let purpose = Purpose::Management;
    assert!(book.admit(later, purpose, None, HERE, "dev2").is_err());
    assert_eq!(
        book.admit(later, purpose, None, HERE, "dev1"),
        Ok(Admitted::Approved)
    );
}

#[test]
fn a_window_does_not_take_more_than_there_is_room_for() {
    let policy = Policy {
        join: Join::Window,
        ..Policy::default()
    };
    let limits = Limits { records: 1 };
    let mut book = Book::new(policy, limits, &mut StdRng::from_seed([1; 32]));
    book.open_window(NOW, Duration::from_secs(60));
    ask(&mut book, None, "dev1").unwrap();
    assert_eq!(
        ask(&mut book, None, "dev2").unwrap_err().0,
        Code::SERVICE_UNAVAILABLE
    );
}

#[test]
fn a_window_lets_in_an_endpoint_that_is_another_devices_name() {
    let mut book = book(Join::Window);
    let named = Record {
        name: "dev1".into(),
        ..record("urn:dev:1", "id1")
    };
    book.add(named).unwrap();
    book.open_window(NOW, Duration::from_secs(60));
    assert_eq!(ask(&mut book, None, "dev1"), Ok(Admitted::Joined));
    assert_eq!(
        book.record_of("dev1").unwrap().name.len(),
        "dev1-123456".len()
    );
    assert_eq!(book.name_of("urn:dev:1").as_deref(), Some("dev1"));
}

#[test]
fn without_security_only_the_named_networks_are_let_in() {
    let policy = Policy {
        join: Join::Open,
        coap_from: vec!["10.0.0.0/24".parse().unwrap()],
    };
    let mut book = Book::new(policy, Limits::default(), &mut StdRng::from_seed([1; 32]));
    book.add(record("sec1", "id1")).unwrap();
    assert_eq!(ask(&mut book, None, "dev1"), Ok(Admitted::Anyone));
    let elsewhere = IpAddr::from([10, 0, 1, 1]);
    let mut from_elsewhere =
        |identity, endpoint| book.admit(NOW, Purpose::Management, identity, elsewhere, endpoint);
    assert_eq!(
        from_elsewhere(None, "dev1").unwrap_err().code,
        Code::FORBIDDEN
    );
    assert_eq!(
        from_elsewhere(Some(&is("id1")), "sec1"),
        Ok(Admitted::Proven)
    );
}

// conformance: P22
#[test]
fn a_pinned_certificate_is_its_endpoint_and_no_other() {
    let mut book = book(Join::Known);
    book.add(Record {
        certificate: Some(fingerprint(b"leaf")),
        ..Record::new("sec1", NOW.unix)
    })
    .unwrap();
    let peer = certificate(b"leaf", &["whatever"], None);
    assert_eq!(ask(&mut book, Some(&peer), "sec1"), Ok(Admitted::Proven));
    assert_eq!(
        ask(&mut book, Some(&peer), "whatever").unwrap_err().0,
        Code::BAD_REQUEST
    );
    let keys = book.keys(Purpose::Management);
    assert!(keys.pins(&fingerprint(b"leaf")) && !keys.pins(&fingerprint(b"other")));
}

#[test]
fn a_certificate_of_an_authority_is_the_endpoint_that_it_names() {
    let mut book = book(Join::Known);
    let authority = Authority {
        rule: Rule::parse("urn:dev:{cn}").unwrap(),
        subject: Some("m*".to_owned()),
        ..Authority::new(*b"ca", Origin::Store)
    };
    book.trust_always(vec![authority.clone()]);
    assert_eq!(book.generation(), 1);
    book.trust_always(vec![authority.clone()]);
    assert_eq!(book.generation(), 1);
    let meter = certificate(b"leaf", &["m1"], Some(&authority));
    assert_eq!(
        ask(&mut book, Some(&meter), "urn:dev:m1"),
        Ok(Admitted::Proven)
    );
    let (code, reason) = ask(&mut book, Some(&meter), "m1").unwrap_err();
    assert_eq!(code, Code::BAD_REQUEST);
    assert!(
        reason.contains("is for endpoint \"urn:dev:m1\""),
        "{reason}"
    );
    let other = certificate(b"leaf", &["x1"], Some(&authority));
    let (code, reason) = ask(&mut book, Some(&other), "urn:dev:x1").unwrap_err();
    assert_eq!(code, Code::FORBIDDEN);
    assert!(reason.contains("--cert FILE"), "{reason}");
}

#[test]
fn a_certificate_with_several_names_does_not_say_which_one_is_there() {
    let mut book = book(Join::Known);
    let any = Authority::new(*b"any", Origin::Store);
    let common = Authority {
        rule: Rule::parse("{cn}").unwrap(),
        ..Authority::new(*b"common", Origin::Store)
    };
    book.trust_always(vec![any.clone(), common.clone()]);
    for (names, authority, several) in [
        (&["m1"][..], &any, false),
        // A name that is repeated is one.
        (&["m1", "m1"], &any, false),
        (&["m1", "m2"], &any, true),
        (&["m1", "m2"], &common, false),
    ] {
        let peer = certificate(b"leaf", names, Some(authority));
        assert_eq!(book.may_be_several(&peer), several, "{names:?}");
    }
    let pinned = Record {
        certificate: Some(fingerprint(b"leaf")),
        ..Record::new("sec1", UnixTime::default())
    };
    book.add(pinned).unwrap();
    let peer = certificate(b"leaf", &["m1", "m2"], Some(&any));
    assert!(!book.may_be_several(&peer));
    assert!(!book.may_be_several(&PeerIdentity::Psk(b"id1".to_vec())));
}

#[test]
fn what_stands_already_is_not_stored_twice() {
    let mut book = book(Join::Known);
    book.add(record("sec1", "id1")).unwrap();
    changes(&mut book);
    let named = |name: &str, endpoint, identity| Record {
        name: name.into(),
        ..record(endpoint, identity)
    };
    for (other, words) in [
        (named("n", "sec1", "id2"), "endpoint \"sec1\" has a record"),
        (named("sec1", "sec2", "id2"), "the name \"sec1\" is taken"),
        (
            named("sec2", "sec2", "id1"),
            "PSK identity \"id1\" belongs to device \"sec1\"",
        ),
        (
            Record {
                psk: None,
                bootstrap_psk: psk("id1"),
                ..record("sec2", "")
            },
            "PSK identity \"id1\" belongs to",
        ),
        (named("a/b", "sec2", "id2"), "contains `/`"),
    ] {
        let refused = book.add(other).unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
    assert_eq!(changes(&mut book), []);
}

#[test]
fn lengths_are_those_that_a_device_can_have() {
    let with = |identity: usize, key: usize| {
        Psk::new(vec![b'i'; identity], Secret::new(vec![1; key])).check()
    };
    assert_eq!(with(128, 32), Ok(()));
    assert_eq!(with(1, 8), Ok(()));
    assert_eq!(with(129, 16), Err(Mistake::LongIdentity));
    assert_eq!(with(0, 16), Err(Mistake::NoIdentity));
    assert_eq!(with(1, 33), Err(Mistake::LongKey));
    assert_eq!(with(1, 0), Err(Mistake::NoKey));
    assert!(Psk::new(*b"id1", Secret::new(vec![1; 8])).is_weak());
}

#[test]
fn keys_are_those_of_the_moment_and_of_their_server() {
    let mut book = book(Join::Known);
    let (management, bootstrap) = (
        book.keys(Purpose::Management),
        book.keys(Purpose::Bootstrap),
    );
    book.add(Record {
        bootstrap_psk: psk("bs1"),
        ..record("sec1", "id1")
    })
    .unwrap();
    assert_eq!(management.psk(b"id1").unwrap().expose(), b"key of id1");
    assert_eq!(bootstrap.psk(b"bs1").unwrap().expose(), b"key of bs1");
    assert!(management.psk(b"bs1").is_none() && bootstrap.psk(b"id1").is_none());
    assert_eq!(&*book.remove("sec1").unwrap(), "sec1");
    assert!(management.psk(b"id1").is_none() && bootstrap.psk(b"bs1").is_none());
    assert_eq!(
        events(&mut book),
        [
            ended("sec1", false, &[]),
            ended("sec1", true, &["id1", "bs1"])
        ]
    );
    assert!(matches!(book.remove("sec1"), Err(Refused::Unknown(_))));
}

#[test]
fn a_granted_key_counts_beside_the_record_and_goes_with_it() {
    let mut book = book(Join::Known);
    book.add(Record {
        psk: None,
        bootstrap_psk: psk("bs1"),
        ..record("sec1", "")
    })
    .unwrap();
    book.grant(NOW, "sec1", psk("gen1").unwrap(), None).unwrap();
    book.grant(NOW, "sec1", psk("gen2").unwrap(), None).unwrap();
    let keys = book.keys(Purpose::Management);
    assert!(keys.psk(b"gen1").is_none() && keys.psk(b"gen2").is_some());
    assert_eq!(
        ask(&mut book, Some(&is("gen2")), "sec1"),
        Ok(Admitted::Proven)
    );
    let taken = book.grant(NOW, "sec2", psk("gen2").unwrap(), None);
    assert!(matches!(taken, Err(Refused::Conflict(_))), "{taken:?}");
    changes(&mut book);
    book.remove("sec1").unwrap();
    assert!(keys.psk(b"gen2").is_none());
    assert_eq!(
        changes(&mut book),
        [Change::Remove("sec1".into()), Change::Revoke("sec1".into())]
    );
}

#[test]
fn a_grant_in_the_place_of_the_records_own_key_gives_it_back_when_it_ends() {
    let mut book = book(Join::Window);
    book.add(record("sec1", "id1")).unwrap();
    let other = Psk::new(*b"id1", Secret::new(*b"other"));
    let expires = NOW.unix + Duration::from_secs(60);
    book.grant(NOW, "sec1", other, Some(expires)).unwrap();
    let keys = book.keys(Purpose::Management);
    assert_eq!(keys.psk(b"id1").unwrap().expose(), b"other");
    book.timeout(NOW + Duration::from_secs(60));
    assert_eq!(keys.psk(b"id1").unwrap().expose(), b"key of id1");
}

#[test]
fn a_key_given_without_security_ends_with_the_window_unless_it_is_approved() {
    let mut book = book(Join::Window);
    assert_eq!(book.grant_until(NOW), None);
    book.open_window(NOW, Duration::from_secs(60));
    let until = book.grant_until(NOW);
    for (endpoint, identity) in [("dev1", "gen1"), ("dev2", "gen2")] {
        let admitted = book.admit(NOW, Purpose::Bootstrap, None, HERE, endpoint);
        assert_eq!(admitted, Ok(Admitted::Anyone));
        book.grant(NOW, endpoint, psk(identity).unwrap(), until)
            .unwrap();
        // Whoever has a key does not come without it, but may come for another one.
        assert!(ask(&mut book, None, endpoint).is_err());
        assert!(
            book.admit(NOW, Purpose::Bootstrap, None, HERE, endpoint)
                .is_ok()
        );
    }
    book.approve(NOW, "dev2", None).unwrap();
    let later = NOW + Duration::from_secs(60);
    book.timeout(later);
    let keys = book.keys(Purpose::Management);
    assert!(keys.psk(b"gen1").is_none() && keys.psk(b"gen2").is_some());
    assert!(events(&mut book).contains(&ended("dev1", false, &["gen1"])));
    assert_eq!(book.next_timeout(), None);
}

#[test]
fn what_ended_while_the_gateway_was_off_does_not_come_back() {
    let mut book = book(Join::Window);
    let grant = Grant {
        endpoint: "dev1".into(),
        psk: psk("gen1").unwrap(),
        expires: Some(NOW.unix),
        added: NOW.unix,
    };
    let stored = Stored {
        records: vec![record("sec1", "id1")],
        grants: vec![grant],
    };
    assert_eq!(book.restore(NOW, stored), []);
    assert!(book.keys(Purpose::Management).psk(b"gen1").is_none());
    assert_eq!(changes(&mut book), [Change::Revoke("dev1".into())]);
    assert_eq!(book.len(), 1);
}

#[test]
fn a_lost_credential_is_recognised_in_the_sessions_that_it_let_in() {
    assert_eq!(Lost::of(&is("id1")), Some(Lost::Psk(b"id1"[..].into())));
    assert_eq!(
        Lost::of(&certificate(b"leaf", &[], None)),
        Some(Lost::Certificate(fingerprint(b"leaf")))
    );
}

#[test]
fn files_are_taken_as_they_are_now() {
    let mut book = book(Join::Known);
    book.add(record("sec0", "id0")).unwrap();
    let found = replace(
        &mut book,
        vec![
            file("a", vec![record("sec1", "id1"), record("sec2", "id2")]),
            file("b", vec![record("sec3", "id3")]),
        ],
    );
    assert_eq!(found, []);
    assert_eq!(book.len(), 4);
    changes(&mut book);
    events(&mut book);
    assert!(matches!(book.remove("sec1"), Err(Refused::InFile(..))));
    // One moves to another file, one gets another key, one is gone.
    let found = replace(
        &mut book,
        vec![
            file("a", vec![record("sec3", "id3"), record("sec2", "new2")]),
            file("b", vec![]),
        ],
    );
    assert_eq!(found, []);
    let keys = book.keys(Purpose::Management);
    assert!(keys.psk(b"id1").is_none() && keys.psk(b"id2").is_none());
    assert!(
        keys.psk(b"id0").is_some() && keys.psk(b"id3").is_some() && keys.psk(b"new2").is_some()
    );
    assert_eq!(
        events(&mut book),
        [
            ended("sec1", true, &["id1"]),
            ended("sec2", false, &["id2"])
        ]
    );
    assert_eq!(changes(&mut book), []);
}

#[test]
fn a_file_with_a_conflict_leaves_what_it_held() {
    let mut book = book(Join::Known);
    book.add(record("sec0", "id0")).unwrap();
    replace(&mut book, vec![file("a", vec![record("sec1", "id1")])]);
    events(&mut book);
    let found = replace(
        &mut book,
        vec![
            file("a", vec![record("sec2", "id2"), record("sec0", "id3")]),
            file("b", vec![record("sec4", "id4")]),
        ],
    );
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&*found[0].file, found[0].hint.as_str()),
        ("a", "remove one of the two")
    );
    assert!(
        found[0].message.contains("\"sec0\""),
        "{}",
        found[0].message
    );
    let names: Vec<String> = book
        .records()
        .iter()
        .map(|it| it.name.to_string())
        .collect();
    assert_eq!(names, ["sec0", "sec1", "sec4"]);
    // An unreadable file leaves what it held too; a file that is gone does not.
    let unreadable = File {
        name: "a".into(),
        content: None,
    };
    replace(&mut book, vec![unreadable]);
    assert_eq!(events(&mut book), [ended("sec4", true, &["id4"])]);
    assert!(book.keys(Purpose::Management).psk(b"id1").is_some());
}

#[test]
fn a_folder_that_cannot_be_looked_into_puts_nobody_out() {
    let mut book = book(Join::Known);
    let both = vec![
        file("a", vec![record("sec1", "id1")]),
        file("b", vec![record("sec2", "id2")]),
    ];
    replace(&mut book, both);
    let found = vec![file("b", vec![record("sec2", "new2")])];
    book.replace_files(Files {
        found,
        partial: true,
    });
    assert_eq!(events(&mut book), [ended("sec2", false, &["id2"])]);
    assert_eq!(book.len(), 2);
}

#[test]
fn nothing_that_is_said_or_shown_has_a_key_in_it() {
    let mut book = book(Join::Known);
    let secret = Psk::new(*b"id1", Secret::new(*b"correct horse"));
    let record = Record {
        psk: Some(secret.clone()),
        ..Record::new("sec1", NOW.unix)
    };
    let shown = [
        format!("{record:?}"),
        record.credentials(),
        format!("{:?}", book.add(record.clone())),
        format!("{:?}", book.add(record)),
        format!("{:?}", book.grant(NOW, "x", secret, None)),
        format!("{:?}", changes(&mut book)),
        format!("{:?}", ask(&mut book, Some(&is("id1")), "other")),
    ];
    for text in shown {
        assert!(
            !text.contains("correct horse") && !text.contains("99, 111, 114"),
            "{text}"
        );
    }
}

#[test]
fn a_hundred_thousand_devices_are_found_at_once() {
    let mut book = book(Join::Known);
    let many = (0..100_000).map(|n| record(&format!("dev{n}"), &format!("id{n}")));
    let stored = Stored {
        records: many.collect(),
        grants: Vec::new(),
    };
    assert_eq!(book.restore(NOW, stored), []);
    let keys = book.keys(Purpose::Management);
    assert!(keys.psk(b"id99999").is_some() && keys.psk(b"id100000").is_none());
    assert_eq!(
        ask(&mut book, Some(&is("id77777")), "dev77777"),
        Ok(Admitted::Proven)
    );
}
