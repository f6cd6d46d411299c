//! Byte vectors of the specifications, corrected where those are wrong, and more of their kind.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// Bytes that mean these records, and that the records are written as again.
#[test]
fn vectors_in_both_directions() {
    use ContentFormat as F;
    for (format, base, payload, records) in [
        (
            F::CBOR,
            "/3303/0/5700",
            "fb403619999999999a",
            "/3303/0/5700 22.1",
        ),
        (F::CBOR, "/42000/0/1", "3902ed", "/42000/0/1 -750"),
        (F::CBOR, "/42000/0/1", "12", "/42000/0/1 18"),
        (F::CBOR, "/3311/0/5850", "f5", "/3311/0/5850 true"),
        (F::CBOR, "/1/0/7", "6155", "/1/0/7 \"U\""),
        (
            F::CBOR,
            "/42000/0/5",
            "450102030405",
            "/42000/0/5 h'0102030405'",
        ),
        (F::CBOR, "/66/0/2", "6436363a30", "/66/0/2 66:0"),
        (F::CBOR, "/3/0/13", "1a5182428f", "/3/0/13 time 1367491215"),
        (
            F::CBOR,
            "/42000/0/2",
            "1bffffffffffffffff",
            "/42000/0/2 18446744073709551615u",
        ),
        (F::TEXT, "/42000/0/1", "2d373530", "/42000/0/1 -750"),
        (
            F::TEXT,
            "/42000/0/5",
            "415149444241553d",
            "/42000/0/5 h'0102030405'",
        ),
        (F::TEXT, "/66/0/2", "36363a30", "/66/0/2 66:0"),
        (F::TEXT, "/3311/0/5850", "31", "/3311/0/5850 true"),
        (
            F::OPAQUE,
            "/42000/0/5",
            "0102030405",
            "/42000/0/5 h'0102030405'",
        ),
        (
            F::TLV,
            "/3303/0",
            "e8164408403619999999999a",
            "/3303/0/5700 22.1",
        ),
        (
            F::TLV,
            "/3303/0/5700",
            "e8164408403619999999999a",
            "/3303/0/5700 22.1",
        ),
        (F::TLV, "/3303/0", "e4164441b08000", "/3303/0/5700 22.0625"),
        (F::TLV, "/42000/0", "c10101", "/42000/0/1 1"),
        (F::TLV, "/42000/0", "c2010080", "/42000/0/1 128"),
        (F::TLV, "/42000/0", "c101ff", "/42000/0/1 -1"),
        (F::TLV, "/42000/0", "c40100015180", "/42000/0/1 86400"),
        (
            F::TLV,
            "/42000/0",
            "c801080000000080000000",
            "/42000/0/1 2147483648",
        ),
        (F::TLV, "/42000/0", "c102c8", "/42000/0/2 200u"),
        (
            F::TLV,
            "/42000/0",
            "c80208ffffffffffffffff",
            "/42000/0/2 18446744073709551615u",
        ),
        (F::TLV, "/1/0", "c10601", "/1/0/6 true"),
        (F::TLV, "/1/0", "c10755", "/1/0/7 \"U\""),
        (
            F::TLV,
            "/42000/0",
            "c8000841636d65204c7464",
            "/42000/0/0 \"Acme Ltd\"",
        ),
        (F::TLV, "/66/0", "c40200420000", "/66/0/2 66:0"),
        (F::TLV, "/3/0", "c40d5182428f", "/3/0/13 time 1367491215"),
        (F::TLV, "/3/0", "830b410000", "/3/0/11/0 0"),
        (F::TLV, "/3/0/11", "830b410000", "/3/0/11/0 0"),
        (F::TLV, "/2/0/2/310", "61013601", "/2/0/2/310 1"),
        (
            F::TLV,
            "/1/0",
            "c10001c40100015180c10601c10755",
            "/1/0/0 1|/1/0/1 86400|/1/0/6 true|/1/0/7 \"U\"",
        ),
        (
            F::TLV,
            "/1",
            "08000fc10001c40100015180c10601c10755",
            "/1/0/0 1|/1/0/1 86400|/1/0/6 true|/1/0/7 \"U\"",
        ),
        (
            F::TLV,
            "/3/0",
            "c800144f70656e204d6f62696c6520416c6c69616e6365c801164c69676874776569676874204d324d20436c69656e74c80209333435303030313233c303312e30860641000141010588070842000ed842011388870841007d42010384c10964c10a0f830b410000c40d5182428fc60e2b30323a3030c11055",
            "/3/0/0 \"Open Mobile Alliance\"|/3/0/1 \"Lightweight M2M Client\"|/3/0/2 \"345000123\"|/3/0/3 \"1.0\"|/3/0/6/0 1|/3/0/6/1 5|/3/0/7/0 3800|/3/0/7/1 5000|/3/0/8/0 125|/3/0/8/1 900|/3/0/9 100|/3/0/10 15|/3/0/11/0 0|/3/0/13 time 1367491215|/3/0/14 \"+02:00\"|/3/0/16 \"U\"",
        ),
        (
            F::TLV,
            "/2",
            "08000ec10001c101008302417f07c1037f080212c10003c101008702417f0761013601c1037f",
            "/2/0/0 1|/2/0/1 0|/2/0/2/127 7|/2/0/3 127|/2/2/0 3|/2/2/1 0|/2/2/2/127 7|/2/2/2/310 1|/2/2/3 127",
        ),
        (
            F::TLV,
            "/66",
            "080026c8000b6d79536572766963652031c8010f496e7465726e65742e31352e323334c40200430000080126c8000b6d79536572766963652032c8010f496e7465726e65742e31352e323335c402ffffffff",
            "/66/0/0 \"myService 1\"|/66/0/1 \"Internet.15.234\"|/66/0/2 67:0|/66/1/0 \"myService 2\"|/66/1/1 \"Internet.15.235\"|/66/1/2 65535:65535",
        ),
        (
            F::TLV,
            "/65/0",
            "88000c440000420000440100420001c8010d38363133383030373535353030c40212345678",
            "/65/0/0/0 66:0|/65/0/0/1 66:1|/65/0/1 \"8613800755500\"|/65/0/2 305419896",
        ),
        (
            F::TLV,
            "/1/0",
            "c10265c20303f2c20507d0c10601c10755",
            "/1/0/2 101|/1/0/3 1010|/1/0/5 2000|/1/0/6 true|/1/0/7 \"U\"",
        ),
        (
            F::TLV,
            "/3/0",
            "c40d5182428fc60e2b30323a3030c80f0c4575726f70652f5061726973",
            "/3/0/13 time 1367491215|/3/0/14 \"+02:00\"|/3/0/15 \"Europe/Paris\"",
        ),
        (
            F::TLV,
            "/16",
            "08012e88002b480011486f737420446576696365204944202332480114486f737420446576696365204d6f64656c202332",
            "/16/1/0/0 \"Host Device ID #2\"|/16/1/0/1 \"Host Device Model #2\"",
        ),
        (
            F::SENML_CBOR,
            "/3303/0/5700",
            "81a2006c2f333330332f302f3537303002fb403619999999999a",
            "/3303/0/5700 22.1",
        ),
        (
            F::SENML_CBOR,
            "/3303/0",
            "82a321682f333330332f302f00643537303002fb403619999999999aa2006435373031036343656c",
            "/3303/0/5700 22.1|/3303/0/5701 \"Cel\"",
        ),
        (
            F::SENML_CBOR,
            "/",
            "81a2006c2f333331312f302f3538353004f5",
            "/3311/0/5850 true",
        ),
        (
            F::SENML_CBOR,
            "/19/0",
            "81a200692f31392f302f302f300843010203",
            "/19/0/0/0 h'010203'",
        ),
        (
            F::SENML_CBOR,
            "/65",
            "81a200692f36352f302f302f3063766c6f6436363a30",
            "/65/0/0/0 66:0",
        ),
        (
            F::SENML_CBOR,
            "/",
            "83a321612f0065312f302f32021865a20065312f302f3604f5a20066332f302f31330200",
            "/1/0/2 101|/1/0/6 true|/3/0/13 time 0",
        ),
        (
            F::LWM2M_CBOR,
            "/3303/0/5700",
            "a183190ce700191644fb403619999999999a",
            "/3303/0/5700 22.1",
        ),
        (
            F::LWM2M_CBOR,
            "/3/0/6",
            "a183030006a200010105",
            "/3/0/6/0 1|/3/0/6/1 5",
        ),
        (
            F::LWM2M_CBOR,
            "/2",
            "a1820205a4000501008202186600031865",
            "/2/5/0 5|/2/5/1 0|/2/5/2/102 0|/2/5/3 101",
        ),
        (
            F::LWM2M_CBOR,
            "/",
            "a2830100011a00015180820300a2006141091864",
            "/1/0/1 86400|/3/0/0 \"A\"|/3/0/9 100",
        ),
        (F::LWM2M_CBOR, "/", "", ""),
    ] {
        let (context, payload) = (context(base), bytes(payload));
        assert_eq!(decoded(format, &payload, &context).join("|"), records);
        let mut read = Vec::new();
        decode(format, &payload, &context, &mut read)
            .unwrap()
            .complete()
            .unwrap();
        let written = encode(format, &read, &context).unwrap();
        assert_eq!(hex(&written), hex(&payload), "{format} {records}");
    }
}

/// Bytes that mean these records, though we write them otherwise.
#[test]
fn vectors_to_be_read() {
    use ContentFormat as F;
    for (format, base, payload, records) in [
        (F::CBOR, "/3303/0/5700", "fa41b0cccd", "/3303/0/5700 22.1"),
        (F::CBOR, "/3303/0/5700", "16", "/3303/0/5700 22.0"),
        (F::CBOR, "/3303/0/5700", "f94d80", "/3303/0/5700 22.0"),
        (F::CBOR, "/3303/0/5700", "c48221190834", "/3303/0/5700 21.0"),
        (
            F::CBOR,
            "/3/0/13",
            "c11a5182428f",
            "/3/0/13 time 1367491215",
        ),
        (
            F::CBOR,
            "/3/0/13",
            "c1fb41d46090a3e00000",
            "/3/0/13 time 1367491215",
        ),
        (
            F::CBOR,
            "/3/0/13",
            "c074323031332d30352d30325431303a34303a31355a",
            "/3/0/13 time 1367491215",
        ),
        (F::CBOR, "/42000/0/1", "f94d80", "/42000/0/1 22"),
        (F::CBOR, "/1/0/7", "7f6155ff", "/1/0/7 \"U\""),
        (F::CBOR, "/42000/0/5", "5f41014102ff", "/42000/0/5 h'0102'"),
        (F::CBOR, "/9999/0/5", "18c8", "/9999/0/5 200"),
        (F::TLV, "/3303/0", "e4164441b0cccd", "/3303/0/5700 22.1"),
        // Wrapped although the path has the instance, and the resource, already.
        (
            F::TLV,
            "/1/0",
            "08000fc10001c40100015180c10601c10755",
            "/1/0/0 1|/1/0/1 86400|/1/0/6 true|/1/0/7 \"U\"",
        ),
        (
            F::TLV,
            "/3/0/11",
            "0805830b410000",
            "error: the payload is cut off at byte 0",
        ),
        (F::TLV, "/3/0/11", "0500830b410000", "/3/0/11/0 0"),
        (F::TLV, "/3/0/11/0", "830b410000", "/3/0/11/0 0"),
        (F::TLV, "/3/0/11/0", "410000", "/3/0/11/0 0"),
        (F::TLV, "/3/0/11", "410000", "/3/0/11/0 0"),
        // A multiple resource without instances, and one not wrapped.
        (F::TLV, "/3/0/11", "800b", ""),
        (F::TLV, "/3/0", "c10b00", "/3/0/11 0"),
        // Of no known type.
        (F::TLV, "/9999/0", "c20701c8", "/9999/0/7 h'01c8'"),
        (ContentFormat(1542), "/1/0", "c10601", "/1/0/6 true"),
        (
            ContentFormat(1541),
            "/3311/0/5850",
            "31",
            "/3311/0/5850 true",
        ),
        (
            F::SENML_CBOR,
            "/3303/0/5700",
            "82a4216c2f333330332f302f35373030221a6553f10002fb40366666666666660624a202fb4036e6666666666606381d",
            "/3303/0/5700 22.4 at 1699999995000|/3303/0/5700 22.9 at 1699999970000",
        ),
        // In several ways of nesting, of indefinite length, with times in all their forms.
        (
            F::LWM2M_CBOR,
            "/3303/0/5700",
            "a183190ce700191644fa41b0cccd",
            "/3303/0/5700 22.1",
        ),
        (
            F::LWM2M_CBOR,
            "/3303",
            "a1190ce7a100a2191644fa41b0cccd1916456343656c",
            "/3303/0/5700 22.1|/3303/0/5701 \"Cel\"",
        ),
        (F::LWM2M_CBOR, "/3/0", "a18303000ba10000", "/3/0/11/0 0"),
        (
            F::LWM2M_CBOR,
            "/3",
            "a184030016006436363a30",
            "/3/0/22/0 66:0",
        ),
        (
            F::LWM2M_CBOR,
            "/",
            "bf03bf00bf00644f70656effffff",
            "/3/0/0 \"Open\"",
        ),
        (
            F::LWM2M_CBOR,
            "/3/0",
            "bf9f0300ffbf9f0d01ff00097f6131ffffff",
            "/3/0/13/1 time 0|problem: /3/0/9: the text \"1\" is no Integer",
        ),
        (
            F::LWM2M_CBOR,
            "/",
            "a2820300a200744f70656e204d6f62696c6520416c6c69616e6365091864830100011a00015180",
            "/3/0/0 \"Open Mobile Alliance\"|/3/0/9 100|/1/0/1 86400",
        ),
        (
            F::LWM2M_CBOR,
            "/2/7",
            "a1820219ffffa4000501008202186600031865",
            "/2/7/0 5|/2/7/1 0|/2/7/2/102 0|/2/7/3 101",
        ),
        (
            F::LWM2M_CBOR,
            "/3/0/13",
            "a18303000dc11a5182428f",
            "/3/0/13 time 1367491215",
        ),
        (
            F::LWM2M_CBOR,
            "/3/0/13",
            "a18303000dc074323031332d30352d30325431303a34303a31355a",
            "/3/0/13 time 1367491215",
        ),
        (
            F::LWM2M_CBOR,
            "/3303",
            "a183190ce700191644f94d80",
            "/3303/0/5700 22.0",
        ),
        (
            F::LWM2M_CBOR,
            "/3303",
            "a183190ce700191644c482211908a2",
            "/3303/0/5700 22.1",
        ),
        (F::LWM2M_CBOR, "/3/0/11", "a18303000ba0", ""),
        (
            F::LWM2M_CBOR,
            "/",
            "a283636430310300a20069436f6d70616e79204109186483636430320300a20069436f6d70616e792042091841",
            "problem: /: it lies behind \"d01\", a device of its own|problem: /: it lies behind \"d02\", a device of its own",
        ),
        // Of indefinite length.
        (
            F::SENML_CBOR,
            "/3303",
            "9fbf006c2f333330332f302f3537303002fa41b0cccdffff",
            "/3303/0/5700 22.1",
        ),
        (F::SENML_CBOR, "/3303", "80", ""),
        (F::SENML_CBOR, "/3303", "", ""),
        (F::SENML_JSON, "/3303", "", ""),
        (F::TLV, "/3303", "", ""),
    ] {
        let found = decoded(format, &bytes(payload), &context(base)).join("|");
        assert_eq!(found, records, "{format} {payload}");
    }
}

#[test]
fn senml_json_in_both_directions() {
    for (base, payload, records) in [
        (
            "/3303/0",
            r#"[{"bn":"/3303/0/","n":"5700","v":22.1},{"n":"5701","vs":"Cel"}]"#,
            "/3303/0/5700 22.1|/3303/0/5701 \"Cel\"",
        ),
        ("/3/0/9", r#"[{"n":"/3/0/9","v":10}]"#, "/3/0/9 10"),
        (
            "/42000",
            r#"[{"n":"/42000/0/5","vd":"AQID"}]"#,
            "/42000/0/5 h'010203'",
        ),
        (
            "/42000",
            r#"[{"n":"/42000/0/5","vd":"-_8"}]"#,
            "/42000/0/5 h'fbff'",
        ),
        ("/66", r#"[{"n":"/66/0/2","vlo":"66:0"}]"#, "/66/0/2 66:0"),
        (
            "/42000",
            r#"[{"n":"/42000/0/4","vb":false}]"#,
            "/42000/0/4 false",
        ),
        (
            "/42000",
            r#"[{"n":"/42000/0/2","v":18446744073709551615}]"#,
            "/42000/0/2 18446744073709551615u",
        ),
        (
            "/42000",
            r#"[{"n":"/42000/0/1","v":-9223372036854775808}]"#,
            "/42000/0/1 -9223372036854775808",
        ),
        (
            "/3303/0/5700",
            r#"[{"bn":"/3303/0/5700","v":22.4,"t":1699999995},{"v":22.9,"t":1699999970.25}]"#,
            "/3303/0/5700 22.4 at 1699999995000|/3303/0/5700 22.9 at 1699999970250",
        ),
        (
            "/1/0/7",
            r#"[{"n":"/1/0/7","vs":"a \"b\"\né"}]"#,
            "/1/0/7 \"a \\\"b\\\"\\né\"",
        ),
        ("/", "[]", ""),
    ] {
        let context = context(base);
        let found = decoded(ContentFormat::SENML_JSON, payload.as_bytes(), &context);
        assert_eq!(found.join("|"), records);
        let mut read = Vec::new();
        let result = decode(
            ContentFormat::SENML_JSON,
            payload.as_bytes(),
            &context,
            &mut read,
        );
        result.unwrap().complete().unwrap();
        let written = encode(ContentFormat::SENML_JSON, &read, &context).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), payload);
    }
}

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
            let payload = encode(format, &records, &context).unwrap();
            assert!(payload.windows(7).any(|part| part == b"/lwm2m/"));
            let mut read = Vec::new();
            decode(format, &payload, &context, &mut read)
                .unwrap()
                .complete()
                .unwrap();
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
fn values_take_the_type_of_their_resource_when_written() {
    let unsigned = [record("/3/0/9", Value::UnsignedInteger(200))];
    let payload = encode(ContentFormat::TLV, &unsigned, &context("/3/0")).unwrap();
    assert_eq!(
        hex(&payload),
        "c20900c8",
        "with a sign, 200 needs two bytes"
    );
    let whole = [record("/3303/0/5700", Value::Integer(22))];
    let payload = encode(ContentFormat::TLV, &whole, &context("/3303/0")).unwrap();
    assert_eq!(hex(&payload), "e4164441b00000");
    let text = [record("/3303/0/5700", Value::String("22".into()))];
    let error = encode(ContentFormat::TLV, &text, &context("/3303/0")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/3303/0/5700: the text \"22\" is no Float"
    );
}

#[test]
fn a_32_bit_number_is_the_decimal_that_was_meant() {
    for (number, wide) in [
        (22.1_f32, 22.1_f64),
        (0.1, 0.1),
        (-0.3, -0.3),
        (1e-45, 1e-45),
        (3.402_823_5e38, 3.402_823_5e38),
        (16_777_217.0, 16_777_216.0),
        (22.5, 22.5),
        (0.0, 0.0),
    ] {
        assert_eq!(widened(number), wide);
    }
    let mut rng = StdRng::seed_from_u64(32);
    for _ in 0..20_000 {
        let number = f32::from_bits(rng.random());
        if number.is_finite() {
            assert_eq!(
                (widened(number) as f32).to_bits(),
                number.to_bits(),
                "{number}"
            );
        }
    }
    assert!(widened(f32::NAN).is_nan() && widened(f32::INFINITY).is_infinite());
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

#[test]
fn json_of_1_0_is_read() {
    let now = NOW.as_millis();
    for (base, payload, records) in [
        (
            "/3/0",
            r#"{"bn":"/3/0/","e":[{"n":"0","sv":"Open Mobile Alliance"},{"n":"6/0","v":1},{"n":"9","v":100,"t":-5}]}"#,
            format!("/3/0/0 \"Open Mobile Alliance\"|/3/0/6/0 1|/3/0/9 100 at {}", now - 5000),
        ),
        // The base behind the entries, and times that count from it.
        (
            "/3303/0/5700",
            r#"{"e":[{"n":"","v":22.4,"t":-5},{"v":22.9,"t":-30}],"bt":1700000000,"bn":"/3303/0/5700"}"#,
            "/3303/0/5700 22.4 at 1699999995000|/3303/0/5700 22.9 at 1699999970000".to_owned(),
        ),
        ("/3/0/9", r#"{"bn":"/3/0/9","e":[{"v":100}]}"#, "/3/0/9 100".to_owned()),
        // Without a base the path of the request is it.
        ("/3/0/9", r#"{"e":[{"n":"","v":100}]}"#, "/3/0/9 100".to_owned()),
        ("/3/0", r#"{"e":[{"n":"9","v":100},{"n":"/3/0/10","v":5}]}"#, "/3/0/9 100|/3/0/10 5".to_owned()),
        ("/3", r#"{"e":[{"n":"0/9","v":100}]}"#, "/3/0/9 100".to_owned()),
        // "bv" is a boolean here; bytes and link-format are texts.
        (
            "/42000/0",
            r#"{"bn":"/42000/0/","e":[{"n":"4","bv":true},{"n":"5","sv":"AQIDBAU="},{"n":"7","ov":"66:0"},{"n":"8","sv":"</3>"},{"n":"0","sv":"AQID"},{"n":"2","v":18446744073709551615},{"n":"6","v":1367491215}]}"#,
            "/42000/0/4 true|/42000/0/5 h'0102030405'|/42000/0/7 66:0|/42000/0/8 corelnk \"</3>\"|/42000/0/0 \"AQID\"|/42000/0/2 18446744073709551615u|/42000/0/6 time 1367491215".to_owned(),
        ),
        ("/3/0", r#"{"bn":"/3/0/","e":[],"more":{"x":[1]}}"#, String::new()),
        ("/3/0", "", String::new()),
    ] {
        for format in [ContentFormat::OMA_JSON, ContentFormat(1543)] {
            let found = decoded(format, payload.as_bytes(), &context(base)).join("|");
            assert_eq!(found, records, "{payload}");
        }
    }
    for payload in [
        "[]",
        "{}",
        r#"{"e":1}"#,
        r#"{"e":[],"e":[]}"#,
        r#"{"e":[]} x"#,
        r#"{"bn":1,"e":[]}"#,
    ] {
        let found = decoded(
            ContentFormat::OMA_JSON,
            payload.as_bytes(),
            &context("/3/0"),
        );
        assert!(
            found.join("").starts_with("error: not OMA JSON: "),
            "{payload} {found:?}"
        );
    }
}
