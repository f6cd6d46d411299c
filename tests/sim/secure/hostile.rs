//! Noise on the secured listener.

use std::net::Ipv4Addr;

use lwm2mqtt::gateway::Input;
use lwm2mqtt::route::Route;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

fn stranger(rng: &mut StdRng) -> Route {
    Route {
        listener: COAPS,
        address: (Ipv4Addr::from_bits(rng.random()), rng.random()).into(),
    }
}

#[test]
fn noise_leaves_no_session_no_event_and_a_device_that_is_served() {
    let mut rig = rig_with_sec1();
    // The hello that a device begins with, as anybody may have seen it.
    let sec1 = device(&mut rig, "id-sec1", KEY);
    let mut model = Road::new(250, "id-sec1", KEY);
    model.send(rig.now, b"x".to_vec());
    let hello = model.datagram().unwrap();
    assert_eq!(register(&mut rig, sec1, "sec1"), Some(Code::CREATED));
    let last = road(&mut rig, sec1).last.clone();
    let at_device = rig.devices[sec1].route;
    let (events, published) = (rig.events.len(), rig.broker.log.len());
    let mut rng = StdRng::seed_from_u64(8);
    for round in 0..20_000_u32 {
        let mut bytes = match round % 4 {
            0 => vec![0; rng.random_range(0..200)],
            1 => hello.clone(),
            _ => last.clone(),
        };
        match round % 4 {
            0 => rng.fill(&mut bytes[..]),
            1 => rng.fill(&mut bytes[27..59]),
            // A record of the device, changed somewhere, from itself or from elsewhere.
            _ => {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
        }
        let route = match round % 8 {
            3 => at_device,
            _ => stranger(&mut rng),
        };
        rig.input(Input::Datagram {
            route,
            bytes: &bytes,
        });
        if round % 100 == 0 {
            rig.run(Duration::from_millis(10));
        }
    }
    assert_eq!(rig.events.len(), events, "{:?}", rig.events.last());
    // Health now and then, and nothing about what came.
    let said = rig.broker.log[published..].iter();
    assert_eq!(
        said.filter(|(topic, _)| !topic.contains("/bridge/health"))
            .count(),
        0
    );
    assert_eq!(sessions(&mut rig), 1);
    assert_eq!(counter(&mut rig, "dtls_handshakes_started"), 1);
    assert!(counter(&mut rig, "dtls_hello_verify_requests") > 4_000);
    assert_eq!(counter(&mut rig, "coap_malformed"), 0);
    assert_eq!(counter(&mut rig, "dtls_moved"), 0);
    assert_eq!(measured(&mut rig, sec1, 29.5), 29.5);
    assert_eq!(switched(&mut rig), "done");
}

#[test]
fn who_keeps_failing_to_come_in_fills_neither_log_nor_topic() {
    let mut rig = rig_with_sec1();
    for number in 0..100 {
        let intruder = device(&mut rig, "nobody", KEY);
        // All behind one address.
        rig.devices[intruder].route.address = ([10, 5, 5, 5], 5000 + number).into();
        rig.register(intruder, "sec1", "lt=300", SENSOR);
        rig.run(Duration::from_millis(100));
        rig.devices[intruder].dead = true;
    }
    let told = rig.broker.messages("lwm2mqtt/bridge/event").len() as u64;
    assert!((8..=16).contains(&told), "{told}");
    let untold = counter(&mut rig, "dtls_failures_untold");
    assert_eq!(told + untold, counter(&mut rig, "dtls_handshakes_failed"));
    // A device from elsewhere comes in, and its own trouble would be told.
    let sec1 = registered(&mut rig);
    assert_eq!(measured(&mut rig, sec1, 30.5), 30.5);
    let elsewhere = device(&mut rig, "id-sec1", b"some other key !");
    register(&mut rig, elsewhere, "sec1");
    assert!(last_words(&rig).contains("is not the one we have"));
}
