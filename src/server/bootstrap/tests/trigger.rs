//! Server-initiated bootstrap.

use super::rig::Rig;
use crate::coap::{Code, Request, Response};
use crate::server::{DeviceId, Event, OperationError, OperationId};

const PROFILE: &str = r#"
schema = 1
[profile]
id = "keyed"
[match]
endpoint = "*"
[[server]]
uri = "coaps://gw.example:5684"
short_server_id = 101
"#;

fn registered(version: &str, objects: &str) -> Rig {
    let mut rig = Rig::new(PROFILE);
    rig.device.route.listener = 0;
    let mut request = Request::new(Code::POST, ["rd"]);
    request.query = vec!["ep=gw1".into(), format!("lwm2m={version}"), "lt=300".into()];
    request.content_format = Some(40);
    request.payload = objects.into();
    rig.request(request);
    rig.settle();
    rig
}

/// Operation, path and result of every completion.
fn completed(rig: &Rig) -> Vec<(OperationId, String, Result<(), OperationError>)> {
    rig.events
        .iter()
        .filter_map(|event| match event {
            Event::Completed {
                operation,
                asked,
                result,
                ..
            } => Some((
                *operation,
                format!("{} {}", asked.name(), asked.target()),
                result.clone().map(|_| ()),
            )),
            _ => None,
        })
        .collect()
}

// conformance: 5
#[test]
fn the_only_account_is_executed() {
    let mut rig = registered("1.1", "</1/3>,</3/0>");
    let operation = rig.server.bootstrap(rig.now, DeviceId(0));
    rig.settle();
    assert_eq!(rig.device.requests, ["POST /1/3/9"]);
    assert_eq!(
        completed(&rig),
        [(operation, "execute /1/3/9".into(), Ok(()))]
    );
}

#[test]
fn of_several_accounts_ours_is_found_by_its_short_server_id() {
    for (read, instance) in [
        (
            Some("[{\"n\":\"/1/0/0\",\"v\":7},{\"n\":\"/1/5/0\",\"v\":101}]"),
            5,
        ),
        (Some("[{\"n\":\"/1/0/0\",\"v\":7}]"), 0),
        (None, 0),
    ] {
        let mut rig = registered("1.1", "</>;ct=110,</1/0>,</1/5>,</3/0>");
        if let Some(read) = read {
            let response = Response {
                content_format: Some(110),
                payload: read.into(),
                ..Response::new(Code::CONTENT)
            };
            rig.device.answer_with(Code::GET, "/1", response);
        }
        let operation = rig.server.bootstrap(rig.now, DeviceId(0));
        rig.settle();
        let expected = format!("execute /1/{instance}/9");
        assert_eq!(completed(&rig), [(operation, expected, Ok(()))]);
    }
}

#[test]
fn a_device_of_1_0_has_no_trigger() {
    let mut rig = registered("1.0", "</1/0>,</3/0>");
    let operation = rig.server.bootstrap(rig.now, DeviceId(0));
    rig.settle();
    let [(id, _, Err(OperationError::NotOffered(reason)))] = &completed(&rig)[..] else {
        panic!("{:?}", completed(&rig));
    };
    assert_eq!(*id, operation);
    assert!(reason.contains("LwM2M 1.0"));
    assert!(rig.device.requests.is_empty());
}

#[test]
fn a_device_that_leaves_meanwhile_ends_the_operation() {
    let mut rig = registered("1.1", "</1/0>,</1/5>,</3/0>");
    rig.device.dead = true;
    let operation = rig.server.bootstrap(rig.now, DeviceId(0));
    rig.run(std::time::Duration::from_secs(120));
    let expected = (
        operation,
        "execute /1/0/9".into(),
        Err(OperationError::Timeout),
    );
    assert_eq!(completed(&rig), [expected]);
}
