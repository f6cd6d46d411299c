//! Changes, and what they come to.

use super::*;
use crate::lwm2m::{ObjectList, Version};
use crate::server::Terms;

fn key(id: &str) -> DocumentKey {
    DocumentKey {
        kind: Kind::Command,
        endpoint: "dev1".into(),
        id: id.into(),
    }
}

fn document(id: &str, body: &[u8]) -> Document {
    Document {
        key: key(id),
        body: body.to_vec(),
    }
}

fn registered(standing: bool) -> Registration {
    Registration {
        location: "5a31".into(),
        route: None,
        identity: None,
        version: Version::V1_1,
        terms: Terms::default(),
        objects: ObjectList::default(),
        standing,
    }
}

#[test]
fn a_newer_change_of_the_same_key_takes_the_place_of_the_older() {
    let mut changes = Changes::default();
    for change in [
        Change::Put(document("a", b"1"), Urgency::Now),
        Change::Put(document("b", b"1"), Urgency::Soon),
        Change::Put(document("a", b"2"), Urgency::Soon),
        Change::Drop(key("b"), Urgency::Now),
    ] {
        changes.add(change);
    }
    assert_eq!(changes.len(), 2);
    assert_eq!(changes.kept().documents, [document("a", b"2")]);
    assert_eq!(changes.take().count(), 2);
    assert!(changes.is_empty());
}

#[test]
fn a_registration_that_ended_leaves_its_objects_and_no_observations() {
    let mut changes = Changes::default();
    let endpoint: Arc<str> = "dev1".into();
    changes.add(Change::Registered(
        endpoint.clone(),
        Box::new(registered(true)),
        Urgency::Now,
    ));
    let observation = Observation {
        target: Path::instance(3303, 0).into(),
        token: crate::coap::Token::default(),
        request: Vec::new(),
    };
    changes.add(Change::Observed(endpoint.clone(), Box::new(observation)));
    changes.add(Change::Ended(endpoint.clone()));
    let kept = changes.kept();
    assert_eq!(
        kept.devices,
        [Device {
            registration: Some(registered(false)),
            ..Device::new(endpoint)
        }]
    );
}

#[test]
fn an_observation_comes_and_goes_without_the_others() {
    let mut changes = Changes::default();
    let endpoint: Arc<str> = "dev1".into();
    let observation = |instance, token: u8| Observation {
        target: Path::instance(3303, instance).into(),
        token: crate::coap::Token::new(&[token]).unwrap(),
        request: Vec::new(),
    };
    for (instance, token) in [(1, 1), (0, 2), (2, 3), (1, 4)] {
        let observed = Box::new(observation(instance, token));
        changes.add(Change::Observed(endpoint.clone(), observed));
    }
    let target = Path::instance(3303, 2).into();
    changes.add(Change::Unobserved(endpoint, target));
    let kept = changes.kept();
    assert_eq!(
        kept.devices[0].observations,
        [observation(0, 2), observation(1, 4)]
    );
}

#[test]
fn of_a_forgotten_endpoint_nothing_is_left_but_its_credentials() {
    let mut changes = Changes::default();
    let endpoint: Arc<str> = "dev1".into();
    let record = credentials::Record::new("dev1", crate::time::UnixTime::from_millis(5));
    for change in [
        Change::Credential(credentials::Change::Put(Arc::new(record))),
        Change::Registered(endpoint.clone(), Box::new(registered(true)), Urgency::Now),
        Change::Put(document("a", b"1"), Urgency::Soon),
        Change::Forgotten(endpoint),
    ] {
        changes.add(change);
    }
    let kept = changes.kept();
    assert_eq!((kept.devices.len(), kept.documents.len()), (0, 0));
    assert_eq!(kept.credentials.records.len(), 1);
}
