use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const NOW: Instant = Instant::from_micros(1_000_000);

fn source(number: u32) -> Option<IpAddr> {
    Some(IpAddr::from(number.to_be_bytes()))
}

#[test]
fn a_noisy_address_does_not_hide_a_quiet_one() {
    let mut complaints = Complaints::new(NOW, &mut StdRng::from_seed([1; 32]));
    let told = (0..1_000)
        .filter(|_| complaints.take(NOW, source(1)))
        .count();
    assert_eq!(told, 5);
    assert!(complaints.take(NOW, source(2)));
    let later = NOW + Duration::from_secs(10);
    assert!(complaints.take(later, source(1)));
    assert!(!complaints.take(later, source(1)));
}

#[test]
fn many_addresses_together_are_rationed_and_not_all_remembered() {
    let mut complaints = Complaints::new(NOW, &mut StdRng::from_seed([1; 32]));
    let told = (0..10_000)
        .filter(|number| complaints.take(NOW, source(*number)))
        .count();
    assert_eq!(told, 100);
    assert_eq!(complaints.by_source.len(), SOURCES);
    assert_eq!(complaints.sources.len(), SOURCES);
}

/// One event of each kind, whose texts are all this one.
fn every_kind(text: &str) -> Vec<Event> {
    let text = || text.to_owned();
    vec![
        Event::DeviceNew {
            device: text(),
            endpoint: text(),
        },
        Event::DeviceRegistered {
            device: text(),
            endpoint: text(),
            lwm2m: text(),
            lifetime: Some(1),
            address: text(),
        },
        Event::DeviceUpdated { device: text() },
        Event::DeviceMoved {
            device: text(),
            from: text(),
            address: text(),
        },
        Event::DeviceDeregistered { device: text() },
        Event::DeviceExpired { device: text() },
        Event::DeviceUnreachable {
            device: text(),
            detail: text(),
        },
        Event::RegistrationRefused {
            endpoint: Some(text()),
            address: text(),
            identity: Some(text()),
            code: text(),
            detail: text(),
        },
        Event::SendRefused {
            device: Some(text()),
            address: text(),
            code: text(),
            detail: text(),
        },
        Event::HandshakeFailed {
            address: text(),
            detail: text(),
        },
        Event::Undecodable {
            device: text(),
            path: text(),
            detail: text(),
        },
        Event::ObserveFailed {
            device: text(),
            path: text(),
            detail: text(),
        },
        Event::RequestMalformed {
            topic: text(),
            detail: text(),
        },
        Event::PublishRefused {
            topic: text(),
            detail: text(),
        },
        Event::SpoolDropped { samples: 1 },
        Event::SpoolFailed { detail: text() },
        Event::RetainedCleaned { topics: 1 },
        Event::MappingLoaded {
            files: 1,
            hash: text(),
            warnings: 1,
        },
        Event::MappingRejected {
            files: 1,
            hash: text(),
            mistakes: 1,
            diagnostics: vec![text()],
        },
        Event::BrokerConnected { kept: true },
        Event::OtherGateway {
            gateway: text(),
            base_topic: text(),
        },
        Event::BrokerDisconnected { detail: text() },
        Event::DeviceJoined { endpoint: text() },
        Event::DeviceBlocked { device: text() },
        Event::DeviceRemoved { device: text() },
        Event::DeviceRenamed {
            device: text(),
            was: text(),
        },
        Event::UpdateDone {
            device: text(),
            file: text(),
        },
        Event::UpdateFailed {
            device: text(),
            file: text(),
            detail: text(),
        },
        Event::JoinWindowOpened { seconds: 1 },
        Event::JoinWindowClosed,
        Event::BootstrapStarted {
            endpoint: text(),
            address: text(),
            profile: text(),
        },
        Event::BootstrapProgress {
            endpoint: text(),
            step: text(),
        },
        Event::BootstrapDone {
            endpoint: text(),
            written: 1,
            seconds: 1,
            notes: vec![text(), text()],
        },
        Event::BootstrapFailed {
            endpoint: text(),
            step: text(),
            detail: text(),
        },
        Event::BootstrapPack {
            endpoint: text(),
            address: text(),
            profile: text(),
            written: 1,
        },
        Event::BootstrapRefused {
            endpoint: Some(text()),
            address: text(),
            identity: Some(text()),
            code: text(),
            detail: text(),
        },
    ]
}

/// Fails to compile when a kind is added, so that it is put into the list above.
const fn is_in_the_list(event: &Event) {
    match event {
        Event::DeviceNew { .. }
        | Event::DeviceRegistered { .. }
        | Event::DeviceUpdated { .. }
        | Event::DeviceMoved { .. }
        | Event::DeviceDeregistered { .. }
        | Event::DeviceExpired { .. }
        | Event::DeviceUnreachable { .. }
        | Event::RegistrationRefused { .. }
        | Event::SendRefused { .. }
        | Event::HandshakeFailed { .. }
        | Event::Undecodable { .. }
        | Event::ObserveFailed { .. }
        | Event::RequestMalformed { .. }
        | Event::PublishRefused { .. }
        | Event::SpoolDropped { .. }
        | Event::SpoolFailed { .. }
        | Event::RetainedCleaned { .. }
        | Event::MappingLoaded { .. }
        | Event::MappingRejected { .. }
        | Event::BrokerConnected { .. }
        | Event::OtherGateway { .. }
        | Event::BrokerDisconnected { .. }
        | Event::DeviceJoined { .. }
        | Event::DeviceBlocked { .. }
        | Event::DeviceRemoved { .. }
        | Event::DeviceRenamed { .. }
        | Event::UpdateDone { .. }
        | Event::UpdateFailed { .. }
        | Event::JoinWindowOpened { .. }
        | Event::JoinWindowClosed
        | Event::BootstrapStarted { .. }
        | Event::BootstrapProgress { .. }
        | Event::BootstrapDone { .. }
        | Event::BootstrapFailed { .. }
        | Event::BootstrapPack { .. }
        | Event::BootstrapRefused { .. } => {}
    }
}

#[test]
fn whatever_somebody_calls_himself_an_event_is_one_line() {
    let nasty = "a\nb\r\n\u{1b}[2Jc\td\0\u{7f}\u{85}\u{9b}e\u{2028}f\u{202e}g\u{200b}h\u{feff}";
    for event in every_kind(nasty) {
        is_in_the_list(&event);
        let line = event.to_string();
        assert!(!line.contains(is_deceptive), "{line:?}");
        // On MQTT it is escaped as JSON is.
        let json = serde_json::to_string(&event).unwrap();
        assert!(!json.contains(|c: char| c < ' '), "{json:?}");
    }
}

#[test]
fn what_is_no_danger_is_written_as_it_is() {
    let name = "Zähler \"7\" — C:\\keller 温度";
    for event in every_kind(name) {
        let line = event.to_string();
        let fields = serde_json::to_string(&event).unwrap();
        let quoted = name.escape_debug().to_string();
        assert!(
            !fields.contains("温度") || line.contains(name) || line.contains(&quoted),
            "{line}"
        );
    }
}
