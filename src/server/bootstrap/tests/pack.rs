//! Bootstrap-Pack.

use super::rig::{Rig, decode};
use crate::coap::{Code, Request, Response};
use crate::lwm2m::{Path, Value};
use crate::server::bootstrap::News;

const PROFILE: &str = r#"
schema = 1
[profile]
id = "packed"
[match]
endpoint = "*"
[[server]]
uri = "coaps://gw.example:5684"
short_server_id = 101
[[object]]
path = "/3/0"
resources = { 14 = "+02:00" }
"#;

fn fetch(rig: &mut Rig, query: &[&str], accept: Option<u16>) -> Response {
    let mut request = Request::new(Code::GET, ["bspack"]);
    request.query = query.iter().map(ToString::to_string).collect();
    request.accept = accept;
    rig.request(request);
    rig.settle();
    rig.device.responses.pop().unwrap()
}

// conformance: 12
#[test]
fn a_pack_has_everything_and_a_key_that_was_kept() {
    for (accept, format) in [(None, 112), (Some(112), 112), (Some(110), 110)] {
        let mut rig = Rig::with_window(PROFILE);
        let response = fetch(&mut rig, &["ep=gw1", "acc=</0/0>"], accept);
        assert_eq!(
            (response.code, response.content_format),
            (Code::CONTENT, Some(format))
        );
        let records = decode(format, Path::ROOT, &response.payload);
        let value = |path: &str| {
            let path: Path = path.parse().unwrap();
            let found = records.iter().find(|record| record.path == path);
            found.map(|record| record.value.clone())
        };
        let key = rig.kept()[0].2.clone();
        assert_eq!(value("/0/1/5"), Some(Value::Opaque(key)));
        assert_eq!(value("/1/0/0"), Some(Value::Integer(101)));
        assert_eq!(value("/3/0/14"), Some(Value::String("+02:00".into())));
        assert_eq!(
            rig.last(),
            News::Packed {
                profile: "packed".into(),
                written: 3
            }
        );
        // There is no Finish, and nothing that is waited for.
        assert!(rig.device.requests.is_empty());
    }
}

#[test]
fn the_account_of_the_device_is_where_it_says() {
    let mut rig = Rig::with_window(PROFILE);
    let response = fetch(&mut rig, &["ep=gw1", "acc=</0/4>,</21/0>"], Some(110));
    let text = String::from_utf8(response.payload).unwrap();
    assert!(text.contains(r#""0/0/10""#), "{text}");
}

#[test]
fn what_a_pack_cannot_say_is_left_to_a_run() {
    for change in [
        "delete = []",
        "delete = [\"/\"]",
        "delete = [\"/0\", \"/1\", \"/5\"]",
        "hold_off = 3",
    ] {
        let profile = PROFILE.replace("[[server]]", &format!("[bootstrap]\n{change}\n[[server]]"));
        let mut rig = Rig::with_window(&profile);
        let response = fetch(&mut rig, &["ep=gw1"], None);
        assert_eq!(response.code, Code::METHOD_NOT_ALLOWED, "{change}");
        assert!(rig.kept().is_empty());
        rig.bootstrap(&["ep=gw1", "pct=112"]);
        assert!(matches!(rig.last(), News::Done { .. }), "{change}");
    }
}

#[test]
fn a_pack_in_another_format_is_refused() {
    let mut rig = Rig::with_window(PROFILE);
    for (query, accept, code) in [
        (&["ep=gw1"][..], Some(11543), Code::NOT_ACCEPTABLE),
        (&["ep=gw1"], Some(11542), Code::NOT_ACCEPTABLE),
        (&["ep=stranger"], None, Code::FORBIDDEN),
        (&[], None, Code::BAD_REQUEST),
    ] {
        assert_eq!(fetch(&mut rig, query, accept).code, code, "{query:?}");
        assert!(matches!(rig.last(), News::Refused(_)));
    }
}
