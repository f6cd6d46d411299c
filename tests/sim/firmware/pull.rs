//! Images that devices fetch.

use super::*;

/// The device fetches the place that it was told.
fn fetch(rig: &mut Rig, device: usize) -> Response {
    let uri = updater(rig, device).uri.clone();
    let path = uri.strip_prefix("coap://10.0.0.254:5683/").unwrap();
    let request = Request::new(Code::GET, path.split('/'));
    rig.request(device, request);
    rig.run(5 * SECOND);
    rig.devices[device].responses.pop().unwrap()
}

// conformance: 1.1-int-756, 1.1-int-771
#[test]
fn a_device_that_pulls_fetches_the_image_from_the_gateway_by_coap() {
    let mut rig = serving();
    let pulling = Updater {
        delivery: 0,
        state: 2,
        ..Updater::default()
    };
    let device = device(&mut rig, "dev1", pulling);
    start(&mut rig, "dev1", "auto");
    rig.run(2 * SECOND);
    assert_eq!(updater(&mut rig, device).resets, 1);
    let response = fetch(&mut rig, device);
    assert_eq!(response.code, Code::CONTENT);
    assert_eq!(response.payload, image(&rig));
    let told = rig.broker.json(FW);
    assert_eq!(
        (&told["state"], &told["method"]),
        (&"downloading".into(), &"pull".into())
    );
    updater(&mut rig, device).state = 2;
    rig.run(60 * SECOND);
    assert_eq!(updater(&mut rig, device).updates, 1);
    restart_device(&mut rig, device, "dev1", 1);
    assert_eq!(rig.broker.json(FW)["state"], "done");
    // What is done is served no more.
    assert_eq!(fetch(&mut rig, device).code, Code::NOT_FOUND);
}

#[test]
fn what_a_device_was_told_to_fetch_is_there_after_a_restart() {
    let mut rig = serving();
    let device = device(&mut rig, "dev1", Updater::default());
    start(&mut rig, "dev1", "pull");
    rig.run(2 * SECOND);
    rig.stop();
    let mut setup = Rig::setup(Plan::unmapped("lwm2mqtt"));
    setup.settings.firmware.places.coap = Some("coap://10.0.0.254:5683".to_owned());
    rig.start(setup);
    tell_images(&mut rig);
    rig.run(10 * SECOND);
    let response = fetch(&mut rig, device);
    assert_eq!(response.payload, image(&rig));
}

#[test]
fn a_sleeper_finds_what_it_was_told_to_fetch_after_a_restart_however_early_it_comes() {
    let mut rig = serving_with(|setup| setup.settings.server.awake_window = 10 * SECOND);
    let device = sleeper(&mut rig, "dev1", Updater::default());
    start(&mut rig, "dev1", "pull");
    rig.run(2 * SECOND);
    sleep(&mut rig, device, 60 * SECOND);
    rig.stop();
    let mut setup = Rig::setup(Plan::unmapped("lwm2mqtt"));
    setup.settings.firmware.places.coap = Some("coap://10.0.0.254:5683".to_owned());
    rig.start(setup);
    tell_images(&mut rig);
    rig.run(600 * SECOND);
    rig.devices[device].dead = false;
    let response = fetch(&mut rig, device);
    assert_eq!(response.payload, image(&rig));
}

// conformance: 1.1-int-775, 1.1-int-778
#[test]
fn a_pull_that_fails_is_told_and_one_that_lost_its_connection_begins_again() {
    let mut rig = serving();
    let device = device(&mut rig, "dev1", Updater::default());
    start(&mut rig, "dev1", "pull");
    for attempt in 1..=3 {
        rig.run(120 * SECOND);
        assert_eq!(rig.broker.json(FW)["attempt"], attempt);
        (
            updater(&mut rig, device).state,
            updater(&mut rig, device).result,
        ) = (0, 4);
    }
    rig.run(120 * SECOND);
    let told = rig.broker.json(FW);
    assert_eq!(
        (&told["state"], &told["result"], &told["reason"]),
        (
            &"failed".into(),
            &4.into(),
            &"connection lost while downloading".into()
        )
    );
    start(&mut rig, "dev1", "pull");
    rig.run(10 * SECOND);
    (
        updater(&mut rig, device).state,
        updater(&mut rig, device).result,
    ) = (0, 7);
    rig.run(120 * SECOND);
    assert_eq!(rig.broker.json(FW)["reason"], "invalid URI");
}

#[test]
fn the_protocol_is_one_that_the_device_has() {
    for (protocols, scheme) in [
        (vec![0, 2], "http://"),
        (vec![0], "coap://"),
        (vec![], "coap://"),
    ] {
        let mut rig = serving();
        let pulling = Updater {
            protocols: protocols.clone(),
            ..Updater::default()
        };
        let device = device(&mut rig, "dev1", pulling);
        start(&mut rig, "dev1", "pull");
        rig.run(2 * SECOND);
        let uri = updater(&mut rig, device).uri.clone();
        assert!(uri.starts_with(scheme), "{protocols:?} {uri}");
        assert_eq!(rig.served.len(), usize::from(scheme == "http://"));
    }
    let mut rig = serving();
    let exotic = Updater {
        protocols: vec![4, 5],
        ..Updater::default()
    };
    device(&mut rig, "dev1", exotic);
    start(&mut rig, "dev1", "pull");
    rig.run(2 * SECOND);
    let told = rig.broker.json(FW);
    assert!(told["reason"].as_str().unwrap().contains("by no protocol"));
}
