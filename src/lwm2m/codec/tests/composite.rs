//! Payloads of composite operations, of Send and of Create: paths of several objects, with values
//! and without.

use super::*;

// conformance: 1.1-int-257, P36
#[test]
fn one_payload_carries_several_objects() {
    let records = [
        record("/1/0/2", Value::Integer(101)),
        record("/1/0/6", Value::Boolean(true)),
        record("/3/0/13", Value::Time(0)),
    ];
    for (format, payload) in [
        (
            ContentFormat::SENML_CBOR,
            bytes("83a321612f0065312f302f32021865a20065312f302f3604f5a20066332f302f31330200"),
        ),
        (
            ContentFormat::SENML_JSON,
            br#"[{"bn":"/","n":"1/0/2","v":101},{"n":"1/0/6","vb":true},{"n":"3/0/13","v":0}]"#
                .to_vec(),
        ),
        (
            ContentFormat::LWM2M_CBOR,
            bytes("a2820100a202186506f58303000d00"),
        ),
    ] {
        let written = encode(format, &records, &context("/")).unwrap();
        assert_eq!(hex(&written), hex(&payload), "{format}");
        let found = decoded(format, &payload, &context("/")).join("|");
        assert_eq!(found, "/1/0/2 101|/1/0/6 true|/3/0/13 time 0");
    }
    // Each record with a base name of its own, and one that is no path of this device.
    let json = br#"[{"bn":"/1/0/","n":"2","v":101},{"bn":"/d01/3/0/","n":"9","v":1},{"bn":"","n":"/3/0/13","v":0}]"#;
    let found = decoded(ContentFormat::SENML_JSON, json, &context("/"));
    assert_eq!(found[..2], ["/1/0/2 101", "/3/0/13 time 0"]);
    assert!(found[2].starts_with("problem: /: the name \"/d01/3/0/9\" is no path"));
}

// conformance: P36
#[test]
fn the_alternate_path_stands_before_each_name() {
    let context = Context {
        alternate: Some("/lwm2m"),
        ..context("/")
    };
    for format in [ContentFormat::SENML_JSON, ContentFormat::SENML_CBOR] {
        for records in [
            vec![record("/3/0/9", Value::Integer(1))],
            vec![
                record("/3/0/9", Value::Integer(1)),
                record("/1/0/1", Value::Integer(2)),
            ],
            vec![
                record("/3/0/9", Value::Integer(1)),
                record("/3/0/9", Value::Integer(2)),
            ],
        ] {
            let (payload, read) = through(format, &records, &context);
            assert!(payload.windows(7).any(|part| part == b"/lwm2m/"));
            assert_eq!(read, records);
        }
    }
    // LwM2M CBOR never has it.
    let records = [record("/3/0/9", Value::Integer(1))];
    let payload = encode(ContentFormat::LWM2M_CBOR, &records, &context).unwrap();
    assert_eq!(hex(&payload), "a18303000901");
    // Some devices leave it out; and a name that only begins so is another one.
    let json = |name: &str| format!("[{{\"n\":\"{name}\",\"v\":1}}]");
    let found = |name| decoded(ContentFormat::SENML_JSON, json(name).as_bytes(), &context).join("");
    assert_eq!(found("/3/0/9"), "/3/0/9 1");
    assert!(found("/lwm2mx/3/0/9").starts_with("problem: /: the name"));
    assert!(found("/lwm2m/lwm2m/3/0/9").starts_with("problem: /: the name"));
}

// conformance: 1.1-int-280
#[test]
fn paths_alone_are_read_and_written() {
    let paths: Vec<Path> = ["/3/0/16", "/3/0/11/0", "/1/0"]
        .map(|p| p.parse().unwrap())
        .into();
    for (format, payload) in [
        (
            ContentFormat::SENML_CBOR,
            bytes("83a100672f332f302f3136a100692f332f302f31312f30a100642f312f30"),
        ),
        (
            ContentFormat::SENML_JSON,
            br#"[{"n":"/3/0/16"},{"n":"/3/0/11/0"},{"n":"/1/0"}]"#.to_vec(),
        ),
    ] {
        let context = context("/");
        assert_eq!(decode_paths(format, &payload, &context).unwrap(), paths);
        assert_eq!(encode_paths(format, &paths, &context).unwrap(), payload);
        let none = encode_paths(format, &[], &context).unwrap();
        assert_eq!(decode_paths(format, &none, &context).unwrap(), []);
        let etch = match format {
            ContentFormat::SENML_CBOR => ContentFormat::SENML_ETCH_CBOR,
            _ => ContentFormat::SENML_ETCH_JSON,
        };
        assert_eq!(decode_paths(etch, &payload, &context).unwrap(), paths);
        assert_eq!(encode_paths(etch, &paths, &context).unwrap(), payload);
    }
    let root = decode_paths(ContentFormat::SENML_JSON, br#"[{"n":"/"}]"#, &context("/"));
    assert_eq!(root.unwrap(), [Path::ROOT]);
    for (json, expected) in [
        (
            r#"[{"bn":"/3/0/"},{"n":"9"},{"n":"16"}]"#,
            Ok("/3/0/9 /3/0/16"),
        ),
        (r#"[{"bn":"/"},{"n":"3/0/9"}]"#, Ok("/3/0/9")),
        (
            r#"[{"bn":"/3/0/9"},{"bn":"/3/0/16"}]"#,
            Ok("/3/0/9 /3/0/16"),
        ),
        (
            r#"[{"n":"/3","v":1}]"#,
            Err("byte 0: a list of paths has no values"),
        ),
        (
            r#"[{"n":"/3","bv":1}]"#,
            Err("byte 0: a list of paths has no values"),
        ),
        (
            r#"[{"n":"/3","v":null}]"#,
            Err("byte 0: a list of paths has no values"),
        ),
        (
            r#"[{"n":"/3","x_":1}]"#,
            Err("byte 0: the field \"x_\" must be understood and is not"),
        ),
        (
            r#"[{"n":"/3"},{"n":"4"}]"#,
            Err("the name \"4\" is no path: a path begins with '/'"),
        ),
    ] {
        let paths = decode_paths(
            ContentFormat::SENML_ETCH_JSON,
            json.as_bytes(),
            &context("/"),
        );
        let shown = paths
            .map(|paths| {
                paths
                    .iter()
                    .map(Path::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .map_err(|error| error.to_string());
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(shown, expected, "{json}");
    }
    let tlv = decode_paths(ContentFormat::TLV, b"", &context("/"));
    assert_eq!(tlv, Err(DecodeError::Unsupported(ContentFormat::TLV)));
}

#[test]
fn a_change_with_null_deletes_a_resource_instance_and_nothing_else() {
    let change = |path: &str, value| Change {
        path: path.parse().unwrap(),
        value,
    };
    let etch = [
        (
            ContentFormat::SENML_ETCH_CBOR,
            bytes("81a200692f31362f302f302f3102f6"),
        ),
        (
            ContentFormat::SENML_ETCH_JSON,
            br#"[{"n":"/16/0/0/1","v":null}]"#.to_vec(),
        ),
    ];
    let delete = [change("/16/0/0/1", None)];
    for (format, payload) in &etch {
        let written = encode_changes(*format, &delete, &context("/")).unwrap();
        assert_eq!(hex(&written), hex(payload));
        let mut changes = Vec::new();
        let decoded = decode_changes(*format, payload, &context("/"), &mut changes);
        decoded.unwrap().complete().unwrap();
        assert_eq!(changes, delete);

        let whole = [change("/16/0/0", None)];
        let refused = encode_changes(*format, &whole, &context("/")).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "/16/0/0: only resource instances can be deleted"
        );
    }
    let mut changes = Vec::new();
    let json = br#"[{"n":"/16/0/0","v":null},{"n":"/16/0/0/1","vs":"x"}]"#;
    let decoded = decode_changes(
        ContentFormat::SENML_ETCH_JSON,
        json,
        &context("/"),
        &mut changes,
    );
    let problems = decoded.unwrap().problems;
    assert_eq!(
        problems[0].to_string(),
        "/16/0/0: only resource instances can be deleted"
    );
    assert_eq!(
        changes,
        [change("/16/0/0/1", Some(Value::String("x".into())))]
    );
    // A null is no value elsewhere.
    changes.clear();
    let (_, payload) = &etch[0];
    let decoded = decode_changes(
        ContentFormat::SENML_CBOR,
        payload,
        &context("/"),
        &mut changes,
    );
    let problem = decoded.unwrap().complete().unwrap_err();
    assert_eq!(problem.to_string(), "/16/0/0/1: there is no value");
    let refused = encode_changes(ContentFormat::SENML_CBOR, &delete, &context("/"));
    assert_eq!(refused.unwrap_err().to_string(), "SenML CBOR cannot delete");
}

#[test]
fn a_new_instance_is_written_without_its_id_where_the_device_picks_it() {
    let records = [
        record("/2/0/0", Value::Integer(5)),
        record("/2/0/1", Value::Integer(0)),
    ];
    for (format, payload) in [
        (ContentFormat::TLV, "c10005c10100"),
        (ContentFormat::LWM2M_CBOR, "a1820219ffffa200050100"),
    ] {
        let written = encode_new(format, &records, &context("/2/0")).unwrap();
        assert_eq!(hex(&written), payload);
        let found = decoded(format, &written, &context("/2/9"));
        assert_eq!(found.join("|"), "/2/9/0 5|/2/9/1 0");
    }
    let refused = encode_new(ContentFormat::SENML_CBOR, &records, &context("/2/0"));
    assert_eq!(
        refused,
        Err(EncodeError::Unsupported(ContentFormat::SENML_CBOR))
    );
}
