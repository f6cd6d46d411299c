//! Commands to a device that sleeps, over both versions of MQTT.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lwm2mqtt::agent::mqtt::VersionChoice;
use serde_json::Value as Json;
use tokio::sync::oneshot;

use crate::broker::{Broker, Received, Subscriber};
use crate::device::Device;
use crate::outage;

const SET: &str = "lwm2mqtt/d/dev0/set/temperature-0/application-type";

/// How a user of one version asks, and is answered.
struct User {
    subscriber: Subscriber,
    version: VersionChoice,
}

impl User {
    /// Writes `value` under an id; MQTT 5 says the answer's topic and the time by properties, MQTT 3.1.1 in JSON.
    async fn write(&mut self, id: &str, value: &str) {
        let (payload, answer, correlation) = match self.version {
            VersionChoice::V5 => (
                format!(r#"{{"id":"{id}","value":"{value}"}}"#),
                Some("app/in"),
                Some(id.as_bytes()),
            ),
            _ => (
                format!(r#"{{"id":"{id}","value":"{value}","ttl":"30s"}}"#),
                None,
                None,
            ),
        };
        let asked = self.subscriber.request(SET, &payload, answer, correlation);
        asked.await;
    }

    /// The next reply about a command.
    async fn reply(&mut self, id: &str) -> (Json, String) {
        let topic = match self.version {
            VersionChoice::V5 => "app/in",
            _ => "lwm2mqtt/d/dev0/reply",
        };
        let key = format!("\"id\":\"{id}\"");
        let ours = |got: &Received| got.topic == topic && got.payload.contains(&key);
        let got = self.subscriber.wait_for(ours).await;
        assert!(!got.retain);
        if self.version == VersionChoice::V5 {
            assert_eq!(got.correlation.as_deref(), Some(id.as_bytes()));
        }
        (serde_json::from_str(&got.payload).unwrap(), got.payload)
    }

    /// The same, with this status, and when it was said.
    async fn status(&mut self, id: &str, status: &str) -> (Json, Timestamp) {
        let (reply, text) = self.reply(id).await;
        assert_eq!(reply["status"], status, "{text}");
        (reply.clone(), time(&reply["time"]))
    }
}

fn time(json: &Json) -> Timestamp {
    json.as_str().unwrap().parse().unwrap()
}

/// The payload of a write, in SenML JSON as the device asked for.
fn written(value: &str) -> String {
    format!(r#"[{{"n":"/3303/0/5750","vs":"{value}"}}]"#)
}

async fn a_sleeper_is_commanded(version: VersionChoice) {
    let broker = Broker::start();
    let agent = outage::agent_of(&broker, version, |config| {
        config.devices.awake_window = Duration::from_secs(1);
    });
    let server = agent.addresses()[0];
    let (stop, stopped) = oneshot::channel::<()>();
    let agent = tokio::spawn(agent.run(async move {
        let _ = stopped.await;
    }));
    let device = Device::register_as(server, "dev0", 20, &["b=U", "Q"]).await;
    let mut user = User {
        subscriber: Subscriber::connect(broker.port, "#").await,
        version,
    };
    let availability = "lwm2mqtt/d/dev0/availability";
    let sleeps =
        |got: &Received| got.topic == availability && got.payload.contains(r#""state":"asleep""#);
    user.subscriber.wait_for(sleeps).await;

    // Two writes of one resource wait: the newer one takes the other's place.
    user.write("a", "one").await;
    let (reply, queued_a) = user.status("a", "queued").await;
    assert_eq!(
        (&reply["why"], &reply["final"]),
        (&"asleep".into(), &false.into())
    );
    let expires = time(&reply["expires"]).duration_since(queued_a);
    assert!(
        (SignedDuration::from_secs(29)..=SignedDuration::from_secs(31)).contains(&expires),
        "{reply}"
    );
    user.write("b", "two").await;
    let (reply, superseded_a) = user.status("a", "superseded").await;
    assert_eq!((&reply["by"], &reply["final"]), (&"b".into(), &true.into()));
    let superseded = reply;
    let (_, queued_b) = user.status("b", "queued").await;
    assert!(queued_a <= superseded_a && queued_a <= queued_b);
    assert!(
        device.written().is_empty(),
        "nothing is sent while it sleeps"
    );

    // Whatever it says, it is awake.
    let wakes = Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap();
    device.notify(21).await;
    let (_, sent_b) = user.status("b", "sent").await;
    let (done, done_b) = user.status("b", "done").await;
    assert!(
        wakes <= sent_b && sent_b <= done_b,
        "{wakes} {sent_b} {done_b}"
    );
    let waited = done_b.duration_since(queued_b).as_millis();
    let ms = i128::from(done["ms"].as_i64().unwrap());
    assert!(
        (ms - waited).abs() < 1_000,
        "{waited} ms, and it says {done}"
    );
    assert_eq!(
        (&done["code"], &done["attempts"]),
        (&"2.04".into(), &1.into())
    );
    assert_eq!(device.written(), [written("two")]);

    // Asked again, both get the answers that are stored, and the device hears nothing.
    for (id, value, stored) in [("a", "one", superseded), ("b", "two", done)] {
        user.write(id, value).await;
        let (again, _) = user.reply(id).await;
        assert_eq!(again, stored);
    }
    device.notify(22).await;
    user.write("c", "three").await;
    while user.reply("c").await.0["final"] != true {}
    assert_eq!(device.written(), ["two", "three"].map(written));

    stop.send(()).unwrap();
    agent.await.unwrap();
}

#[tokio::test]
async fn a_command_to_a_sleeper_ends_once_and_is_not_done_twice_over_mqtt_5() {
    a_sleeper_is_commanded(VersionChoice::V5).await;
}

#[tokio::test]
async fn a_command_to_a_sleeper_ends_once_and_is_not_done_twice_over_mqtt_3_1_1() {
    a_sleeper_is_commanded(VersionChoice::V311).await;
}
