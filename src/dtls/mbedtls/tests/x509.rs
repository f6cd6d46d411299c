use std::sync::Arc;
use std::time::Duration;

use super::papers::*;
use super::rig::*;
use crate::dtls::mbedtls::{Engine, Settings, SetupError, suites};
use crate::dtls::{
    CertificateProblem, Connect, Engine as _, Fatal, PeerIdentity, ServerTrust, suite_name,
};
use crate::secret::Secret;
use crate::time::UnixTime;

/// A server `gw.example`, whose authority is also the devices'.
struct World {
    authority: Authority,
    server: Papers,
    engine: Engine,
}

fn world() -> World {
    let authority = Authority::new("the owner's authority");
    let server = authority.certify(&Wish {
        dns: &["gw.example"],
        ..Wish::named("gw")
    });
    let engine = Engine::new(&Settings {
        certificate: Some(server.own()),
        authorities: vec![authority.der.clone()],
        ..Settings::default()
    })
    .unwrap();
    World {
        authority,
        server,
        engine,
    }
}

impl World {
    fn trust(&self) -> ServerTrust {
        self.authority.vouches("gw.example")
    }

    fn device(&self) -> Papers {
        self.authority.certify(&Wish::named("dev1"))
    }

    fn meet(&self, connect: &Connect) -> Pair {
        self.meet_with(connect, &suites::ECDSA, Ring::default())
    }

    fn meet_with(&self, connect: &Connect, suites: &[u16], ring: Ring) -> Pair {
        let client = self.engine.connect_with(today(), connect, suites).unwrap();
        let mut pair = Pair::begin(today(), &self.engine, client, Arc::new(ring), b"");
        pair.run();
        pair
    }

    /// The server's reason to refuse a client with these papers.
    fn refuses(&self, papers: &Papers) -> Fatal {
        let mut pair = self.meet(&papers.client(self.trust()));
        assert_eq!(pair.server.identity, None);
        assert!(matches!(pair.client.failed, Some(Fatal::Alert(_))));
        pair.server.failed.take().expect("a refusal")
    }
}

fn blamed(subject: &str, problem: CertificateProblem) -> Fatal {
    Fatal::Certificate {
        subject: subject.to_owned(),
        problem,
    }
}

// conformance: 402
#[test]
fn both_ends_prove_their_certificates_in_every_suite() {
    let world = world();
    let device = world.device();
    for suite in suites::ECDSA {
        let connect = device.client(world.trust());
        let mut pair = world.meet_with(&connect, &[suite], Ring::default());
        pair.assert_works();
        assert_eq!(Some(pair.server.session.suite()), suite_name(suite));
        let Some(PeerIdentity::X509 {
            leaf,
            chain,
            names,
            authority,
        }) = pair.server.identity.take()
        else {
            panic!("no certificate");
        };
        assert_eq!(leaf, device.der);
        assert_eq!((chain.len(), &names[..]), (0, &["dev1".to_owned()][..]));
        assert_eq!(authority, Some(world.authority.sha256()));
        let Some(PeerIdentity::X509 { leaf, .. }) = pair.client.identity.take() else {
            panic!("no certificate");
        };
        assert_eq!(leaf, world.server.der);
    }
}

#[test]
fn whichever_datagram_of_a_handshake_with_certificates_is_lost_it_is_sent_again() {
    let world = world();
    let connect = world.device().client(world.trust());
    let mut lost = 0;
    loop {
        let client = world.engine.connect(today(), &connect).unwrap();
        let mut pair = Pair::begin(today(), &world.engine, client, ring(), b"");
        let (count, seconds) = pair.run_losing(lost);
        pair.assert_works();
        if lost == count {
            assert_eq!(seconds, 0);
            break;
        }
        assert!(seconds > 0, "datagram {lost} of {count}");
        lost += 1;
    }
    assert!(lost >= 4, "{lost}");
}

#[test]
fn the_names_of_a_certificate_are_its_common_name_then_dns_names_and_uris() {
    let world = world();
    let device = world.authority.certify(&Wish {
        dns: &["dev1.example", "spare.example"],
        uri: Some("urn:dev:ops:1-2"),
        ..Wish::named("dev1")
    });
    let pair = world.meet(&device.client(world.trust()));
    let Some(PeerIdentity::X509 { names, .. }) = pair.server.identity else {
        panic!("{:?}", pair.server.failed);
    };
    let expected = ["dev1", "dev1.example", "spare.example", "urn:dev:ops:1-2"];
    assert_eq!(names, expected);
}

#[test]
fn a_chain_over_an_authority_in_between_is_followed_and_reported() {
    let world = world();
    let (plant, plant_pem) = world.authority.below("the plant's authority");
    let device = plant.certify(&Wish::named("dev1"));
    let mut connect = device.client(world.trust());
    if let crate::dtls::Credential::X509 { chain, .. } = &mut connect.credential {
        *chain = format!("{}{plant_pem}", device.pem).into_bytes();
    }
    let mut pair = world.meet(&connect);
    pair.assert_works();
    let Some(PeerIdentity::X509 {
        chain, authority, ..
    }) = pair.server.identity.take()
    else {
        panic!("no certificate");
    };
    assert_eq!(chain, [plant.der]);
    assert_eq!(authority, Some(world.authority.sha256()));
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let world = world();
    let rogue = Authority::new("the owner's authority");
    let refusal = world.refuses(&rogue.certify(&Wish::named("dev1")));
    assert_eq!(refusal, blamed("dev1", CertificateProblem::Untrusted));
    let refusal = world.refuses(&self_signed(&Wish::named("dev1")));
    assert_eq!(refusal, blamed("dev1", CertificateProblem::Untrusted));
    assert_eq!(
        refusal.to_string(),
        "its certificate \"dev1\" is signed by no authority that we trust"
    );
}

#[test]
fn an_engine_without_authorities_refuses_every_certificate_that_is_not_pinned() {
    let world = world();
    let engine = Engine::new(&Settings {
        certificate: Some(world.server.own()),
        ..Settings::default()
    })
    .unwrap();
    let device = world.device();
    let alone = World { engine, ..world };
    let refusal = alone.refuses(&device);
    assert_eq!(refusal, blamed("dev1", CertificateProblem::Untrusted));
    let ring = Ring {
        pins: vec![device.sha256()],
        ..Ring::default()
    };
    let connect = device.client(alone.trust());
    let mut pair = alone.meet_with(&connect, &suites::ECDSA, ring);
    pair.assert_works();
    let Some(PeerIdentity::X509 { authority, .. }) = pair.server.identity else {
        panic!("no certificate");
    };
    assert_eq!(authority, None);
}

#[test]
fn dates_count_by_the_time_that_the_call_was_given() {
    let world = world();
    let wish = |years| Wish {
        years,
        ..Wish::named("dev1")
    };
    let old = world.authority.certify(&wish((2020, 2025)));
    let young = world.authority.certify(&wish((2030, 2060)));
    assert_eq!(
        world.refuses(&old),
        blamed("dev1", CertificateProblem::Expired)
    );
    assert_eq!(
        world.refuses(&young),
        blamed("dev1", CertificateProblem::Future)
    );
    // The same certificates, at other times.
    let years = |years: u64| Duration::from_secs(years * 366 * 86400);
    let mut then = today();
    for (papers, unix) in [
        (&old, UnixTime::from_millis(TODAY - 3 * 366 * 86_400_000)),
        (&young, today().unix + years(6)),
    ] {
        then.unix = unix;
        let connect = papers.client(world.trust());
        let client = world.engine.connect(then, &connect).unwrap();
        let mut pair = Pair::begin(then, &world.engine, client, Arc::new(Ring::default()), b"");
        pair.run();
        pair.assert_works();
    }
}

#[test]
fn a_pinned_certificate_is_refused_when_it_has_expired() {
    let world = world();
    let old = self_signed(&Wish {
        years: (2020, 2025),
        ..Wish::named("dev1")
    });
    let good = self_signed(&Wish::named("dev2"));
    let ring = || Ring {
        pins: vec![old.sha256(), good.sha256()],
        ..Ring::default()
    };
    let connect = old.client(world.trust());
    let pair = world.meet_with(&connect, &suites::ECDSA, ring());
    assert_eq!(
        pair.server.failed,
        Some(blamed("dev1", CertificateProblem::Expired))
    );
    let connect = good.client(world.trust());
    let mut pair = world.meet_with(&connect, &suites::ECDSA, ring());
    pair.assert_works();
}

#[test]
fn an_expired_authority_is_named() {
    let authority = Authority::for_years("an old authority", (2015, 2024));
    let World {
        server,
        authority: of_server,
        ..
    } = world();
    let engine = Engine::new(&Settings {
        certificate: Some(server.own()),
        authorities: vec![authority.der.clone()],
        ..Settings::default()
    })
    .unwrap();
    let device = authority.certify(&Wish::named("dev1"));
    let world = World {
        authority: of_server,
        server,
        engine,
    };
    assert_eq!(
        world.refuses(&device),
        blamed("an old authority", CertificateProblem::Expired)
    );
}

#[test]
fn a_certificate_with_an_ip_address_as_a_name_is_refused_whoever_vouches() {
    let world = world();
    let wish = Wish {
        ip: true,
        ..Wish::named("dev1")
    };
    let vouched = world.authority.certify(&wish);
    let unacceptable = blamed("dev1", CertificateProblem::Unacceptable);
    assert_eq!(world.refuses(&vouched), unacceptable);
    let pinned = self_signed(&wish);
    let ring = Ring {
        pins: vec![pinned.sha256()],
        ..Ring::default()
    };
    let connect = pinned.client(world.trust());
    let pair = world.meet_with(&connect, &suites::ECDSA, ring);
    assert_eq!(pair.server.failed, Some(unacceptable));
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let world = world();
    let device = world.device();
    let client = world
        .engine
        .connect_without_certificate(today(), &device.client(world.trust()));
    let mut pair = Pair::begin(
        today(),
        &world.engine,
        client,
        Arc::new(Ring::default()),
        b"",
    );
    pair.run();
    assert_eq!(pair.server.failed, Some(Fatal::NoCertificate));
    assert_eq!(pair.server.identity, None);
}

#[test]
fn a_client_refuses_a_server_of_another_name_or_authority() {
    let world = world();
    let device = world.device();
    let other = Authority::new("another");
    for (trust, problem) in [
        (
            world.authority.vouches("other.example"),
            CertificateProblem::WrongName,
        ),
        (other.vouches("gw.example"), CertificateProblem::Untrusted),
        (
            ServerTrust::Pinned(device.sha256()),
            CertificateProblem::Untrusted,
        ),
    ] {
        let pair = world.meet(&device.client(trust));
        assert_eq!(pair.client.failed, Some(blamed("gw", problem)));
        assert_eq!(pair.server.identity, None);
    }
    let mut pair = world.meet(&device.client(ServerTrust::Pinned(world.server.sha256())));
    pair.assert_works();
}

#[test]
fn a_client_asks_for_dns_names_only() {
    let world = world();
    let device = world.device();
    for name in [
        "2001:db8::1",
        "192.0.2.1",
        "",
        "gw.example\0.evil",
        "gw example",
    ] {
        let connect = device.client(world.authority.vouches(name));
        let Err(Fatal::Ours(sentence)) = world.engine.connect(today(), &connect) else {
            panic!("{name} was taken");
        };
        assert!(sentence.contains("is not the DNS name"), "{sentence}");
    }
}

#[test]
fn a_server_with_a_certificate_serves_pre_shared_keys_as_before() {
    let world = world();
    let mut pair = Pair::psk(&world.engine, &dev1());
    pair.run();
    pair.assert_works();
    assert!(world.engine.is_costly(crate::dtls::Suites(&[0xc0, 0xae])));
}

#[test]
fn settings_that_cannot_work_are_refused_in_words() {
    let World {
        authority, server, ..
    } = world();
    let other = authority.certify(&Wish::named("other"));
    let attempt = |certificate: Option<(Vec<u8>, Secret)>, authorities: Vec<Vec<u8>>| {
        let settings = Settings {
            certificate,
            authorities,
            ..Settings::default()
        };
        Engine::new(&settings).err()
    };
    let (chain, key) = server.own();
    assert_eq!(
        attempt(Some((chain.clone(), other.key.clone())), Vec::new()),
        Some(SetupError::Mismatch)
    );
    assert!(matches!(
        attempt(Some((b"no certificate".to_vec(), key)), Vec::new()),
        Some(SetupError::Chain(_))
    ));
    assert!(matches!(
        attempt(Some((chain, Secret::new(*b"no key"))), Vec::new()),
        Some(SetupError::Key(_))
    ));
    let wrong = attempt(None, vec![authority.der, vec![0x30, 0x80]]).unwrap();
    assert!(matches!(wrong, SetupError::Authority { index: 1, .. }));
    assert!(
        wrong
            .to_string()
            .starts_with("certificate 2 of the authorities")
    );
}
