//! The way to the broker through TLS and WebSocket, and why there is none.

use std::collections::BTreeMap;
use std::time::Duration;

use lwm2mqtt::agent::mqtt::{Key, Settings, Subscription, Tls};
use lwm2mqtt::gateway::publish::Publish;
use lwm2mqtt::secret::Secret;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::broker::{Broker, Subscriber};
use crate::front::{Authority, Files, Frames, Front, Issued, years};
use crate::mqtt::{Uplink, connected, disconnected};

fn settings(url: &str, tls: Tls) -> Settings {
    Settings {
        tls,
        ..Settings::new(url.parse().unwrap(), "gateway")
    }
}

/// Why the first attempt to connect failed.
async fn refusal(settings: Settings) -> String {
    Uplink::new(settings).until(disconnected).await
}

/// Publishes some megabytes of events, small and large, and reads them back from the broker.
async fn passes_everything(settings: Settings, broker: &Broker) {
    let mut consumer = Subscriber::connect(broker.port, "test/#").await;
    let mut uplink = Uplink::new(Settings {
        subscriptions: vec![Subscription::requests("req/#")],
        ..settings
    });
    uplink.until(connected).await;
    let mut sent = BTreeMap::new();
    for number in 0..200_usize {
        let payload = vec![b'a' + (number % 26) as u8; number * 211 % 9_000];
        let topic = format!("test/{number}");
        let event = Publish::event(topic.as_str().into(), payload.clone());
        uplink.outbox.push(event).unwrap();
        sent.insert(topic, payload.len());
    }
    uplink.drain().await;
    let mut seen = BTreeMap::new();
    while seen.len() < sent.len() {
        let received = consumer.next().await.expect("a message");
        seen.insert(received.topic, received.payload.len());
    }
    assert_eq!(seen, sent);

    // And the other way: requests, one by one and many at once.
    for number in 0..20 {
        let payload = "x".repeat(number * 500);
        let topic = format!("req/{number}");
        consumer.request(&topic, &payload, None, None).await;
    }
    let mut requests = 0;
    while requests < 20 {
        let message = uplink.until(crate::mqtt::message).await;
        assert_eq!(message.topic, format!("req/{requests}"));
        assert_eq!(message.payload.len(), requests * 500);
        requests += 1;
    }
    assert_eq!(uplink.connections, 1);
}

#[tokio::test]
async fn mqtts_trusts_the_authority_of_ca_file_and_carries_everything() {
    let (broker, files) = (Broker::start(), Files::new("mqtts"));
    let authority = Authority::new("trial");
    for version in [&TLS12, &TLS13] {
        // It takes nothing for a while, so that bytes wait in every layer.
        let front =
            Front::tls(&authority.server(), None, &[version]).deaf(Duration::from_millis(300));
        let port = front.before(broker.port).await;
        for host in ["localhost", "127.0.0.1"] {
            let url = format!("mqtts://{host}:{port}");
            passes_everything(settings(&url, files.tls(&authority, None)), &broker).await;
        }
    }
}

#[tokio::test]
async fn a_broker_that_asks_sees_our_certificate() {
    let (broker, files) = (Broker::start(), Files::new("asks"));
    let (authority, rogue) = (Authority::new("trial"), Authority::new("rogue"));
    let ours = authority.client();
    for version in [&TLS12, &TLS13] {
        let front = Front::tls(&authority.server(), Some(&authority), &[version]);
        let port = front.before(broker.port).await;
        let url = format!("mqtts://localhost:{port}");

        let reason = refusal(settings(&url, files.tls(&authority, None))).await;
        let wanted = format!(
            "localhost:{port} wants a client certificate, and the gateway has none; set [mqtt] \
             cert_file and key"
        );
        assert_eq!(reason, wanted, "{version:?}");

        for (theirs, why) in [
            (
                rogue.client(),
                "it does not know the authority that signed it",
            ),
            (
                authority.issue(&[], years(2020, 2021)),
                "it has expired; renew it",
            ),
        ] {
            let reason = refusal(settings(&url, files.tls(&authority, Some(&theirs)))).await;
            assert!(reason.contains("refuses our certificate"), "{reason}");
            assert!(
                reason.contains("gateway.pem") && reason.contains(why),
                "{reason}"
            );
        }

        passes_everything(settings(&url, files.tls(&authority, Some(&ours))), &broker).await;
    }
    // The key may also stand in the configuration itself, or in a credential.
    let port = Front::tls(&authority.server(), Some(&authority), &[&TLS13])
        .before(broker.port)
        .await;
    let tls = Tls {
        key: Some(Key::Literal(Secret::new(ours.key.as_str()))),
        ..files.tls(&authority, Some(&ours))
    };
    let mut uplink = Uplink::new(settings(&format!("mqtts://localhost:{port}"), tls));
    uplink.until(connected).await;
}

#[tokio::test]
async fn a_wrong_certificate_is_explained_in_a_sentence() {
    let (broker, files) = (Broker::start(), Files::new("wrong"));
    let (authority, rogue) = (Authority::new("trial"), Authority::new("rogue"));
    // Of the same name as the one that we trust, but with another key.
    let impostor = Authority::new("trial");
    let names = ["localhost"];
    let of_the_authority = Issued {
        certificate: authority.pem.clone(),
        key: authority.key.clone(),
    };
    let client_only = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    for (server, sentence) in [
        (
            authority.issue(&names, years(2020, 2021)),
            "expired on 2021-01-01 00:00:00 UTC; renew it at the broker, or set this machine's clock",
        ),
        (
            authority.issue(&names, years(2090, 2091)),
            "is not valid before 2090-01-01 00:00:00 UTC; wait or make another",
        ),
        (rogue.issue(&names, |_| {}), "is signed by no authority in "),
        (
            impostor.issue(&names, |_| {}),
            "is signed by no authority in ",
        ),
        (
            authority.issue(&["broker.example", "192.0.2.1"], |_| {}),
            "is for broker.example, 192.0.2.1, not for localhost; give the broker",
        ),
        (
            authority.issue(&[], |_| {}),
            "is for no name at all (it has no subjectAltName), not for localhost",
        ),
        (
            of_the_authority,
            "is that of an authority (CA:TRUE); make one for the broker",
        ),
        (
            authority.issue(&names, client_only),
            "is not one for a server; make one",
        ),
    ] {
        let port = Front::tls(&server, None, &[&TLS12, &TLS13])
            .before(broker.port)
            .await;
        for scheme in ["mqtts", "wss"] {
            let url = format!("{scheme}://localhost:{port}");
            let reason = refusal(settings(&url, files.tls(&authority, None))).await;
            let begin = format!("the certificate of localhost:{port} {sentence}");
            assert!(reason.starts_with(&begin), "{reason}\n{begin}");
        }
    }
    // What the system trusts, a certificate of our own never is.
    let port = Front::tls(&authority.server(), None, &[&TLS13])
        .before(broker.port)
        .await;
    let reason = refusal(settings(
        &format!("mqtts://localhost:{port}"),
        Tls::default(),
    ))
    .await;
    assert!(reason.contains("set [mqtt] ca_file"), "{reason}");
}

#[tokio::test]
async fn what_is_no_tls_at_all_is_explained_too() {
    let broker = Broker::start();
    let files = Files::new("no-tls");
    let authority = Authority::new("trial");
    let tls = files.tls(&authority, None);
    let mqtts = |port: u16| settings(&format!("mqtts://localhost:{port}"), tls.clone());

    let reason = refusal(mqtts(broker.port)).await;
    assert!(
        reason.contains("closed the connection instead of answering in TLS"),
        "{reason}"
    );
    assert!(
        reason.contains("take the broker's port for TLS, 8883 as a rule"),
        "{reason}"
    );

    // Alerts are those that OpenSSL sends: protocol_version, handshake_failure.
    for (answer, sentence) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            "is no TLS server; take the broker's port",
        ),
        (
            &[0x20, 3, 0, 0, 0],
            "is no TLS server; take the broker's port",
        ),
        (
            &[0x15, 3, 1, 0, 2, 2, 70],
            "speaks no TLS version that the gateway does; permit TLS 1.2 or 1.3 at the broker",
        ),
        (
            &[0x15, 3, 3, 0, 2, 2, 40],
            "and the gateway have no cipher suite in common; permit TLS 1.3, or TLS 1.2 with",
        ),
        (&[0x15, 3, 3, 0, 2, 2, 112], "says that it is not localhost"),
    ] {
        let reason = refusal(mqtts(answers(answer).await)).await;
        assert!(reason.contains(sentence), "{reason}");
    }

    // The other way round: in clear to a listener with TLS.
    let port = answers(&[0x15, 3, 3, 0, 2, 2, 10]).await;
    let reason = refusal(settings(
        &format!("mqtt://localhost:{port}"),
        Tls::default(),
    ))
    .await;
    assert!(
        reason.ends_with("it speaks TLS; write mqtts:// into [mqtt] url"),
        "{reason}"
    );
}

/// A server that answers whatever it is told by these bytes.
async fn answers(bytes: &[u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let bytes = bytes.to_vec();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 4096];
            let _ = stream.read(&mut hello).await;
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut hello).await;
        }
    });
    port
}

#[tokio::test]
async fn renewed_files_count_from_the_next_attempt_on() {
    let (broker, files) = (Broker::start(), Files::new("renewed"));
    let authority = Authority::new("trial");
    let server = authority.server();
    let port = Front::tls(&server, Some(&authority), &[&TLS13])
        .before(broker.port)
        .await;
    let ours = authority.client();
    let tls = files.tls(&Authority::new("former"), Some(&ours));
    let mut uplink = Uplink::new(settings(&format!("mqtts://localhost:{port}"), tls));
    let reason = uplink.until(disconnected).await;
    assert!(reason.contains("is signed by no authority in "), "{reason}");

    // Half written, as a renewal that is under way.
    files.write("ca.pem", &authority.pem[..100]);
    let reason = uplink.until(disconnected).await;
    assert!(
        reason.contains("ca.pem is damaged: the line with -----END is missing"),
        "{reason}"
    );

    files.write("ca.pem", &authority.pem);
    uplink.until(connected).await;
}

#[tokio::test]
async fn mqtt_goes_in_websocket_frames_however_they_are_cut() {
    let (broker, files) = (Broker::start(), Files::new("frames"));
    let authority = Authority::new("trial");
    let port = Front::clear()
        .web_socket(Frames::Good)
        .before(broker.port)
        .await;
    let url = format!("ws://localhost:{port}");
    passes_everything(settings(&url, Tls::default()), &broker).await;

    let ours = authority.client();
    let front = Front::tls(&authority.server(), Some(&authority), &[&TLS13]);
    let front = front
        .web_socket(Frames::Good)
        .deaf(Duration::from_millis(300));
    let port = front.before(broker.port).await;
    let url = format!("wss://localhost:{port}/mqtt");
    passes_everything(settings(&url, files.tls(&authority, Some(&ours))), &broker).await;
    let reason = refusal(settings(&url, files.tls(&authority, None))).await;
    assert!(reason.contains("wants a client certificate"), "{reason}");
}

#[tokio::test]
async fn why_there_is_no_websocket_is_explained() {
    let broker = Broker::start();
    let good = Front::clear()
        .web_socket(Frames::Good)
        .before(broker.port)
        .await;
    let bare = Front::clear()
        .web_socket(Frames::Bare)
        .before(broker.port)
        .await;
    let text = Front::clear()
        .web_socket(Frames::Text)
        .before(broker.port)
        .await;
    let not_http = answers(&[0x20, 3, 0, 0, 0]).await;
    let web = answers(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let plain = broker.port;
    for (url, sentence) in [
        (
            format!("ws://localhost:{good}/other"),
            "answers 404 Not Found and no WebSocket at /other; write the path of the broker's",
        ),
        (
            format!("ws://localhost:{bare}"),
            "does not speak MQTT; write the path of the broker's into [mqtt] url",
        ),
        (
            format!("ws://localhost:{text}"),
            "the broker sent text where MQTT has binary frames",
        ),
        (
            format!("ws://localhost:{not_http}"),
            "is no web server; take the broker's port",
        ),
        (
            format!("ws://localhost:{plain}"),
            "closed the connection instead of answering in HTTP",
        ),
        (
            format!("mqtt://localhost:{web}"),
            "it is a web server; write ws:// into [mqtt] url",
        ),
    ] {
        let reason = refusal(settings(&url, Tls::default())).await;
        assert!(reason.contains(sentence), "{url}: {reason}");
    }
}
