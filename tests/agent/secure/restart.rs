//! The agent restarts, in order and not, and the devices go on.

use super::*;

/// A secured device that is served by an agent.
async fn served(home: &Home, consumer: &mut Subscriber) -> (Agent, Device) {
    add(home, "sec-0");
    let agent = home.start();
    let arguments = [
        "--psk-key",
        KEY,
        "--lifetime",
        "4s",
        "--ack-timeout",
        "40ms",
    ];
    let device = Device::start(home, "sec-", &arguments);
    consumer.wait_for(|got| got.topic == VALUE).await;
    (agent, device)
}

#[tokio::test]
async fn over_an_orderly_restart_a_device_is_served_without_another_handshake() {
    let broker = Broker::start();
    let home = Home::secured("orderly", broker.port, "");
    let mut consumer = Subscriber::connect(broker.port, "lwm2mqtt/#").await;
    let (agent, device) = served(&home, &mut consumer).await;
    agent.terminate();
    let sealed = home.folder.join("store/sessions.sealed");
    assert_eq!(home.mode("store/sessions.sealed"), 0o600);
    assert_eq!(home.mode("store/sessions.key"), 0o600);

    let agent = home.start();
    assert!(
        home.log()
            .contains("1 of 1 secure sessions go on from before the restart")
    );
    assert!(!sealed.exists());
    consumer.wait_for(|got| got.topic == VALUE).await;
    let topic = "lwm2mqtt/d/sec-0/set/light-control-0/on-off";
    consumer
        .request(topic, r#"{"value":true}"#, None, None)
        .await;
    home.wait(|| !device.said("written").is_empty());
    assert_eq!(device.said("secured").len(), 1);
    assert_eq!(device.said("not_secured"), [Json::Null; 0]);
    // Its registration stands, too.
    assert_eq!(device.said("registered").len(), 1);

    // And once more, with the key of the device replaced in between.
    agent.terminate();
    home.ok(&["device", "remove", "sec-0"]);
    let other = KEY.replace("50", "51");
    home.ok(&[
        "device",
        "add",
        "sec-0",
        "--psk-identity",
        "sec-0",
        "--psk-key",
        &other,
    ]);
    let agent = home.start();
    assert!(home.log().contains("0 of 1 secure sessions go on"));
    home.wait(|| home.log().contains("is not the one we have"));
    assert_eq!(device.said("registered").len(), 1);
    drop(agent);
}

#[tokio::test]
async fn a_device_whose_session_is_lost_handshakes_again_by_itself() {
    let broker = Broker::start();
    let home = Home::secured("flipped", broker.port, "");
    let mut consumer = Subscriber::connect(broker.port, "lwm2mqtt/#").await;
    let (agent, device) = served(&home, &mut consumer).await;
    agent.terminate();
    let sealed = home.folder.join("store/sessions.sealed");
    let mut bytes = fs::read(&sealed).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&sealed, bytes).unwrap();
    let agent = home.start();
    let log = home.log();
    assert!(
        log.contains("secured devices have to handshake again"),
        "{log}"
    );
    assert!(log.contains("sessions.sealed is not what this program left: its seal is broken"));
    assert!(!sealed.exists());
    assert_eq!(home.json(&["status"])["sessions"], 0);
    home.wait(|| device.said("secured").len() == 2);
    home.wait(|| device.said("registered").len() == 2);
    consumer.wait_for(|got| got.topic == VALUE).await;

    // After a crash there is nothing to go on with.
    drop(agent);
    assert!(!sealed.exists());
    let agent = home.start();
    assert!(!home.log().contains("secure sessions go on"));
    home.wait(|| device.said("registered").len() == 3);
    assert_eq!(device.said("secured").len(), 3);
    drop(agent);
}
