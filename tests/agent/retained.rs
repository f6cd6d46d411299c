//! What a broker retains and nobody answers for, found and deleted by the program itself.

use std::time::Duration;

use serde_json::json;

use crate::broker::{Broker, Subscriber};
use crate::home::Home;

#[tokio::test]
async fn ghosts_are_shown_and_deleted_and_everything_else_stands() {
    let broker = Broker::start();
    let home = Home::new("retained", broker.port, "join = \"open\"");
    let ghost = "lwm2mqtt/d/gone/v/temperature-0/sensor-value";
    let mut consumer = Subscriber::connect(broker.port, "lwm2mqtt/d/#").await;
    consumer.retain(ghost, r#"{"value":1}"#).await;
    consumer.retain("elsewhere", "x").await;
    let agent = home.start();
    let device = home.simulate("sim-");
    let birth = |got: &crate::broker::Received| got.topic == "lwm2mqtt/d/sim-0";
    consumer.wait_for(birth).await;

    let found = home.json(&["retained", "audit"]);
    let expected =
        json!({ "count": 1, "topics": [ghost], "of_other_gateways": 0, "complete": true });
    assert_eq!(found, expected);
    // Nobody is there to be asked.
    let said = home.fails(64, &["retained", "clean"]);
    assert!(said.contains("--yes"), "{said}");
    assert_eq!(home.ok(&["retained", "audit"]).trim(), ghost);
    assert_eq!(
        home.ok(&["retained", "clean", "--yes"]).trim(),
        "deleted: 1"
    );
    consumer
        .wait_for(|got| got.topic == ghost && got.payload.is_empty())
        .await;
    assert_eq!(home.json(&["retained", "audit"])["count"], 0);
    drop(device);
    let mut late = Subscriber::connect(broker.port, "#").await;
    let mut stands = Vec::new();
    while let Ok(Some(got)) = tokio::time::timeout(Duration::from_secs(1), late.next()).await {
        stands.push(got.topic);
    }
    assert!(stands.iter().any(|topic| topic == "elsewhere"));
    assert!(stands.iter().any(|topic| topic == "lwm2mqtt/d/sim-0"));
    assert!(!stands.iter().any(|topic| topic == ghost));
    drop(agent);
    let said = home.fails(1, &["retained", "audit"]);
    assert!(said.contains("no agent"), "{said}");
}
