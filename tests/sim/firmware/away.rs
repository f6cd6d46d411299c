//! Devices that sleep over an update, and gateways that are killed over one.

use super::*;

#[test]
fn a_sleeper_is_sent_the_rest_when_it_wakes() {
    let mut rig = with_window(500_000, 1, Duration::from_secs(10));
    let device = sleeper(&mut rig, "dev1", Updater::default());
    start(&mut rig, "dev1", "push");
    rig.run(3 * SECOND);
    assert_eq!(rig.broker.json(FW)["state"], "downloading");
    sleep(&mut rig, device, 12 * SECOND);
    let sent = rig.sent;
    sleep(&mut rig, device, 60 * SECOND);
    assert_eq!(rig.sent, sent, "nothing goes to a device that sleeps");
    wake(&mut rig, device);
    rig.run(20 * SECOND);
    let whole = image(&rig);
    assert_eq!(updater(&mut rig, device).package, whole);
    assert_eq!(updater(&mut rig, device).updates, 1);
    // 489 blocks; had it begun again, there would be 140 more.
    assert!(rig.sent < 540, "{}", rig.sent);
}

#[test]
fn a_sleeper_that_wakes_after_hours_is_sent_the_rest_or_all_of_it() {
    let mut rig = with_window(500_000, 1, Duration::from_secs(10));
    let device = sleeper(&mut rig, "dev1", Updater::default());
    start(&mut rig, "dev1", "push");
    rig.run(3 * SECOND);
    sleep(&mut rig, device, Duration::from_secs(7200));
    let told = rig.broker.json(FW);
    assert_eq!(
        (&told["state"], &told["waiting"]),
        (&"downloading".into(), &"asleep".into())
    );
    wake(&mut rig, device);
    rig.run(30 * SECOND);
    let whole = image(&rig);
    assert_eq!(updater(&mut rig, device).package, whole);
    assert_eq!(updater(&mut rig, device).updates, 1);
}

#[test]
fn an_update_that_begins_while_the_device_sleeps_waits_for_it() {
    let mut rig = with_window(3000, 1, Duration::from_secs(10));
    let device = sleeper(&mut rig, "dev1", Updater::default());
    sleep(&mut rig, device, 3600 * SECOND);
    let sent = rig.sent;
    start(&mut rig, "dev1", "push");
    rig.run(3600 * SECOND);
    assert_eq!(rig.sent, sent);
    assert_eq!(rig.broker.json(FW)["waiting"], "asleep");
    wake(&mut rig, device);
    rig.run(5 * SECOND);
    assert_eq!(updater(&mut rig, device).updates, 1);
}

#[test]
fn one_that_fell_asleep_before_its_turn_came_does_not_get_it() {
    let mut rig = with_window(100_000, 1, Duration::from_secs(2));
    device(&mut rig, "dev1", Updater::default());
    let slow = sleeper(&mut rig, "dev2", Updater::default());
    for name in ["dev1", "dev2"] {
        start(&mut rig, name, "push");
    }
    sleep(&mut rig, slow, 5 * SECOND);
    let other = device(&mut rig, "dev3", Updater::default());
    start(&mut rig, "dev3", "push");
    rig.run(10 * SECOND);
    assert_eq!(updater(&mut rig, other).updates, 1);
    assert_eq!(rig.broker.json("lwm2mqtt/d/dev2/fw")["waiting"], "asleep");
    wake(&mut rig, slow);
    rig.run(10 * SECOND);
    assert_eq!(updater(&mut rig, slow).updates, 1);
}

#[test]
fn one_that_falls_asleep_while_it_fetches_does_not_keep_the_turn() {
    let mut rig = serving_with(|setup| {
        setup.settings.firmware.parallel = 1;
        setup.settings.server.awake_window = 10 * SECOND;
    });
    let slow = sleeper(&mut rig, "dev1", Updater::default());
    let other = device(&mut rig, "dev2", Updater::default());
    start(&mut rig, "dev1", "pull");
    rig.run(SECOND);
    start(&mut rig, "dev2", "push");
    rig.run(SECOND);
    assert_eq!(rig.broker.json("lwm2mqtt/d/dev2/fw")["waiting"], "turn");
    sleep(&mut rig, slow, 200 * SECOND);
    assert_eq!(updater(&mut rig, other).updates, 1);
    updater(&mut rig, slow).state = 2;
    wake(&mut rig, slow);
    rig.run(5 * SECOND);
    assert_eq!(updater(&mut rig, slow).updates, 1);
}

#[test]
fn what_a_sleeper_has_installed_is_seen_when_it_wakes_even_if_it_does_not_register_anew() {
    let mut rig = with_window(3000, 1, Duration::from_secs(10));
    let device = sleeper(&mut rig, "dev1", Updater::default());
    start(&mut rig, "dev1", "push");
    rig.run(5 * SECOND);
    assert_eq!(rig.broker.json(FW)["state"], "updating");
    sleep(&mut rig, device, 3600 * SECOND);
    let updater = updater(&mut rig, device);
    (updater.state, updater.result) = (0, 1);
    wake(&mut rig, device);
    rig.run(5 * SECOND);
    assert_eq!(rig.broker.json(FW)["state"], "done");
}

/// Runs until the position of the update is stored once more, and has not left since.
fn run_until_stored(rig: &mut Rig) -> u64 {
    let before = stored(rig)["offset"].as_u64().unwrap();
    loop {
        rig.run(Duration::from_millis(1));
        let now = stored(rig)["offset"].as_u64().unwrap();
        if now != before {
            return now;
        }
    }
}

fn begin_again(rig: &mut Rig) {
    rig.start(Rig::setup(Plan::unmapped("lwm2mqtt")));
    tell_images(rig);
}

#[test]
fn after_a_crash_it_goes_on_with_the_block_that_was_stored_before_it_left() {
    let mut rig = rig(1_000_000, 4);
    let device = device(&mut rig, "dev1", Updater::default());
    start(&mut rig, "dev1", "push");
    rig.run(10 * SECOND);
    let offset = run_until_stored(&mut rig);
    assert!(offset > 400_000, "{offset}");
    rig.crash();
    rig.run(SECOND);
    begin_again(&mut rig);
    rig.run(30 * SECOND);
    let whole = image(&rig);
    assert_eq!(updater(&mut rig, device).package, whole);
    // 977 blocks; had it begun again, there would be 400 more.
    assert!(rig.sent < 1050, "{}", rig.sent);
    assert_eq!(updater(&mut rig, device).updates, 1);
}

#[test]
fn after_a_crash_a_device_that_is_further_than_is_stored_gets_all_of_it_again() {
    let mut rig = rig(1_000_000, 4);
    let device = device(&mut rig, "dev1", Updater::default());
    start(&mut rig, "dev1", "push");
    rig.run(10 * SECOND);
    run_until_stored(&mut rig);
    rig.run(SECOND / 2);
    rig.crash();
    begin_again(&mut rig);
    rig.run(60 * SECOND);
    let whole = image(&rig);
    assert_eq!(updater(&mut rig, device).package, whole);
    assert_eq!(updater(&mut rig, device).updates, 1);
    let told = rig.broker.json(FW);
    assert_eq!(
        (&told["state"], &told["attempt"]),
        (&"updating".into(), &1.into())
    );
}
