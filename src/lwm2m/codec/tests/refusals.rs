//! How names and times are resolved, and what is refused with which words.

use super::*;

// conformance: P5, P6, P36
#[test]
fn senml_names_and_times_are_put_together_as_the_rfc_says() {
    let now = NOW.as_millis();
    for (payload, records) in [
        (r#"[{"bn":"/3/0","n":"/9","v":1}]"#, "/3/0/9 1".to_owned()),
        // The base name stays in force until it changes.
        (
            r#"[{"bn":"/3/0/","n":"9","v":1},{"n":"10","v":2},{"bn":"/1/","n":"0/1","v":3},{"n":"0/6","vb":true}]"#,
            "/3/0/9 1|/3/0/10 2|/1/0/1 3|/1/0/6 true".to_owned(),
        ),
        (r#"[{"n":"9","bn":"/3/0/","v":1}]"#, "/3/0/9 1".to_owned()),
        (r#"[{"bn":"/3/0/"},{"n":"9","v":1}]"#, "/3/0/9 1".to_owned()),
        (r#"[{"n":"9","v":1}]"#, "problem: /: the name \"9\" is no path: a path begins with '/'".to_owned()),
        (
            r#"[{"n":"/3/0/","v":1}]"#,
            "problem: /: the name \"/3/0/\" is no path: a path has no empty segment and no '/' at its end".to_owned(),
        ),
        (
            r#"[{"bn":"/d01/3/0/","n":"/9","v":1}]"#,
            "problem: /: the name \"/d01/3/0//9\" is no path: each segment of a path is a number from 0 to 65534 without leading zeros".to_owned(),
        ),
        (
            r#"[{"bn":"/3/0/","n":"/9","v":1}]"#,
            "problem: /: the name \"/3/0//9\" is no path: a path has no empty segment and no '/' at its end".to_owned(),
        ),
        // Relative, absolute, and with a base.
        (r#"[{"n":"/3/0/9","v":1,"t":-5}]"#, format!("/3/0/9 1 at {}", now - 5000)),
        (r#"[{"n":"/3/0/9","v":1,"t":321}]"#, format!("/3/0/9 1 at {}", now + 321_000)),
        (r#"[{"n":"/3/0/9","v":1,"t":1700000000.25}]"#, "/3/0/9 1 at 1700000000250".to_owned()),
        (
            r#"[{"bn":"/3/0/9","bt":1700000000,"v":1},{"v":2,"t":-30},{"bt":0,"v":3}]"#,
            format!("/3/0/9 1 at 1700000000000|/3/0/9 2 at 1699999970000|/3/0/9 3 at {now}"),
        ),
        (r#"[{"bn":"/3/0/9","bt":268435455,"t":1,"v":1}]"#, "/3/0/9 1 at 268435456000".to_owned()),
        (
            r#"[{"n":"/3/0/9","v":1},{"n":"/3/0/10","v":2,"t":0}]"#,
            format!("/3/0/9 1|/3/0/10 2 at {now}"),
        ),
        // A base value counts for numbers only.
        (
            r#"[{"bn":"/3/0/","bv":100,"n":"9","v":-5},{"n":"10"},{"n":"16","vs":"U"}]"#,
            "/3/0/9 95|/3/0/10 100|/3/0/16 \"U\"".to_owned(),
        ),
        (r#"[{"n":"/3/0/9","v":1,"u":"%","bu":"m","ut":5,"zz":{"a":[1]}}]"#, "/3/0/9 1".to_owned()),
        (
            r#"[{"n":"/3/0/9","v":1,"zz_":0}]"#,
            "problem: /3/0/9: the field \"zz_\" must be understood and is not".to_owned(),
        ),
        (r#"[{"bver":11,"n":"/3/0/9","v":1}]"#, "error: byte 0: this version of SenML is unknown".to_owned()),
        (r#"[{"n":"/3/0/9","v":1,"vs":"1"}]"#, "problem: /3/0/9: the field \"vs\" is a second value".to_owned()),
        (r#"[{"n":"/3/0/9"}]"#, "problem: /3/0/9: there is no value".to_owned()),
        (r#"[{"n":"/3/0/9","v":null}]"#, "problem: /3/0/9: there is no value".to_owned()),
        (r#"[{"n":"/3/0","v":1}]"#, "problem: /3/0: only resources have values".to_owned()),
    ] {
        let found = decoded(ContentFormat::SENML_JSON, payload.as_bytes(), &context("/"));
        assert_eq!(found.join("|"), records, "{payload}");
    }
}

// conformance: P39
#[test]
fn one_wrong_value_does_not_lose_the_others() {
    use ContentFormat as F;
    for (format, base, payload, records) in [
        (
            F::SENML_JSON,
            "/3/0",
            r#"[{"bn":"/3/0/","n":"9","vs":"full"},{"n":"16","vs":"U"}]"#.as_bytes().to_vec(),
            "/3/0/16 \"U\"|problem: /3/0/9: the text \"full\" is no Integer",
        ),
        (
            F::SENML_JSON,
            "/3/0",
            r#"[{"n":"/3/0/9","v":22.5},{"n":"/3/0/11/0","v":1e30},{"n":"/3/0/16","v":1},{"n":"/4/0/1","v":2}]"#.as_bytes().to_vec(),
            "problem: /3/0/9: the number 22.5 is no Integer|problem: /3/0/11/0: the number 1e30 is no Integer|problem: /3/0/16: the number 1 is no String|problem: /4/0/1: it is not beneath /3/0",
        ),
        (
            F::SENML_JSON,
            "/42000/0",
            r#"[{"n":"/42000/0/5","vd":"!"},{"n":"/42000/0/7","vlo":"66"},{"n":"/42000/0/2","v":-1}]"#.as_bytes().to_vec(),
            "problem: /42000/0/5: the text \"!\" is no Opaque|problem: /42000/0/7: the text \"66\" is no Objlnk|problem: /42000/0/2: the number -1 is no Unsigned Integer",
        ),
        (
            F::TLV,
            "/3/0",
            bytes("c309010203c11055e3270fa1a2a3c10d00"),
            "/3/0/16 \"U\"|/3/0/9999 h'a1a2a3'|/3/0/13 time 0|problem: /3/0/9: a value of 3 bytes is no Integer",
        ),
        (F::TLV, "/3/0", bytes("c009c110ff"), "problem: /3/0/9: a value of 0 bytes is no Integer|problem: /3/0/16: a value of 1 bytes is no String"),
        (F::TLV, "/3/0", bytes("0301c10955"), "problem: /3/1/9: it is not beneath /3/0"),
        (F::TLV, "/3303/0", bytes("e416447fc00000"), "problem: /3303/0/5700: the number is not finite"),
        // One broken record of each kind between two good ones.
        (
            F::SENML_CBOR,
            "/3/0",
            bytes("88 a20067 2f332f302f313002 05 a20066 332f302f2f3902 01 a1627a5f01 a30066 2f332f302f39 0201 036131 a20066 2f332f302f39 0281 01 a20001 0201 a30066 2f332f302f39 0201 06 6178 a20066 2f332f302f39 021864".replace(' ', "").as_str()),
            "/3/0/10 5|/3/0/9 100|problem: /3/0: the name \"3/0//9\" is no path: a path begins with '/'|problem: /3/0: the name \"\" is no path: a path begins with '/'|problem: /3/0/9: the field \"v\" is a second value|problem: /3/0/9: there is no value|problem: /3/0: the name \"\" is no path: a path begins with '/'|problem: /3/0/9: the field \"t\" is no number",
        ),
        (
            F::SENML_JSON,
            "/3/0",
            br#"[{"n":"/3/0/10","v":5},{"n":1,"v":1},{"n":"/3/0/9","v":[1]},{"n":"/3/0/9","v":"1"},{"n":"/3/0/9","v":1,"t":"now"},{"n":"/3/0/9","vs":100}]"#.to_vec(),
            "/3/0/10 5|/3/0/9 100|problem: /3/0: the name \"\" is no path: a path begins with '/'|problem: /3/0/9: there is no value|problem: /3/0/9: the text \"1\" is no Integer|problem: /3/0/9: the field \"t\" is no number",
        ),
        (
            F::OMA_JSON,
            "/3/0",
            br#"{"bn":"/3/0/","e":[{"n":"10","v":5},{"n":"9/","v":1},{"n":"9","sv":"full"},{"n":"9","v":1,"sv":"1"},{"n":"9","v":100}]}"#.to_vec(),
            "/3/0/10 5|/3/0/9 100|problem: /3/0: the name \"/3/0/9/\" is no path: a path has no empty segment and no '/' at its end|problem: /3/0/9: the text \"full\" is no Integer|problem: /3/0/9: the field \"sv\" is a second value",
        ),
        (
            F::LWM2M_CBOR,
            "/3/0",
            bytes("a1820300a70a05 09 6466756c6c 19ffff01 20 01 8501020304 0501 0681 01 8000".replace(' ', "").as_str()),
            "/3/0/10 5|problem: /3/0/9: the text \"full\" is no Integer|problem: /3/0: the name \"/3/0/65535\" is no path: each segment of a path is a number from 0 to 65534 without leading zeros|problem: /3/0: the name \"/3/0\" is no path: each segment of a path is a number from 0 to 65534 without leading zeros|problem: /3/0: the name \"/3/0/1/2/3\" is no path: a path has at most four segments|problem: /3/0/6: there is no value|problem: /3/0: the name \"\" is no path: a path has no empty segment and no '/' at its end",
        ),
        (
            F::LWM2M_CBOR,
            "/",
            bytes("a2 84 63643031 190ce7 00 191644 fa41b0cccd 83 03 00 09 1864".replace(' ', "").as_str()),
            "/3/0/9 100|problem: /: it lies behind \"d01\", a device of its own",
        ),
        (F::TEXT, "/3/0/9", b"full".to_vec(), "problem: /3/0/9: the text \"full\" is no Integer"),
        (F::TEXT, "/3303/0/5700", b"NaN".to_vec(), "problem: /3303/0/5700: the text \"NaN\" is no Float"),
        (F::TEXT, "/3311/0/5850", b"true".to_vec(), "problem: /3311/0/5850: the text \"true\" is no Boolean"),
        (F::OPAQUE, "/3/0/9", b"12".to_vec(), "problem: /3/0/9: a value of 2 bytes is no Integer"),
        (F::CBOR, "/3/0/9", bytes("f6"), "problem: /3/0/9: there is no value"),
        (F::CBOR, "/3/0/9", bytes("3bffffffffffffffff"), "problem: /3/0/9: the number -1.8446744073709552e19 is no Integer"),
        (F::CBOR, "/3303/0/5700", bytes("f97e00"), "problem: /3303/0/5700: the number is not finite"),
    ] {
        let found = decoded(format, &payload, &context(base)).join("|");
        assert_eq!(found, records, "{format} {}", hex(&payload));
    }
}

// conformance: P3
#[test]
fn a_payload_that_is_broken_as_a_whole_is_refused_with_its_place() {
    use ContentFormat as F;
    for (format, base, payload, error) in [
        // The examples as the specification prints them, with wrong lengths.
        (
            F::TLV,
            "/1",
            "08000dc10001c40100015180c10601c10755",
            "the payload is cut off at byte 15",
        ),
        (
            F::TLV,
            "/66",
            "080023c8000b6d79536572766963652031c8010f496e7465726e65742e31352e323334c40200430000",
            "the payload is cut off at byte 35",
        ),
        (F::TLV, "/3/0", "c8", "the payload is cut off at byte 0"),
        (
            F::TLV,
            "/3/0",
            "c10901c802",
            "the payload is cut off at byte 3",
        ),
        (
            F::TLV,
            "/3/0",
            "e2ffff0001",
            "byte 0: 65535 is no identifier",
        ),
        (
            F::TLV,
            "/3",
            "c10901",
            "byte 0: a resource cannot be directly in /3",
        ),
        (
            F::TLV,
            "/3/0",
            "410000",
            "byte 0: a resource instance cannot be directly in /3/0",
        ),
        (
            F::TLV,
            "/3/0",
            "8306c10901",
            "byte 2: a resource cannot be in a multiple resource",
        ),
        (
            F::TLV,
            "/",
            "c10901",
            "byte 0: a resource cannot be directly in /",
        ),
        (
            F::TEXT,
            "/3/0",
            "31",
            "text is for one resource, and /3/0 is none",
        ),
        (F::TEXT, "/3/0/16", "55ff", "byte 1: this is not UTF-8"),
        (
            F::CBOR,
            "/3/0",
            "01",
            "CBOR is for one resource, and /3/0 is none",
        ),
        (F::CBOR, "/3/0/9", "", "the payload is cut off at byte 0"),
        (
            F::CBOR,
            "/3/0/9",
            "1901",
            "the payload is cut off at byte 0",
        ),
        (
            F::CBOR,
            "/3/0/9",
            "0101",
            "byte 1: there is something behind the end of the payload",
        ),
        (
            F::CBOR,
            "/3/0/9",
            "80",
            "byte 0: a value is expected, not array",
        ),
        (
            F::CBOR,
            "/3/0/9",
            "c1c101",
            "byte 0: the tag 1 has no meaning here",
        ),
        (
            F::CBOR,
            "/3/0/9",
            "d82a01",
            "byte 0: the tag 42 has no meaning here",
        ),
        (
            F::SENML_CBOR,
            "/3/0/9",
            "82a20060",
            "the payload is cut off at byte 4",
        ),
        (
            F::SENML_CBOR,
            "/3/0/9",
            "9fa0",
            "the payload is cut off at byte 2",
        ),
        (
            F::SENML_CBOR,
            "/3/0/9",
            "9bffffffffffffffff",
            "the payload is cut off at byte 9",
        ),
        (
            F::LWM2M_CBOR,
            "/",
            "a20301",
            "the payload is cut off at byte 3",
        ),
        (F::LWM2M_CBOR, "/", "bf", "the payload is cut off at byte 1"),
        (
            F::LWM2M_CBOR,
            "/",
            "83030009",
            "byte 0: not as CBOR should be: unexpected type array at position 0: expected map",
        ),
        (
            F::LWM2M_CBOR,
            "/",
            "a0a0",
            "byte 1: there is something behind the end of the payload",
        ),
        (
            F::LWM2M_CBOR,
            "/",
            "a28303000901820300a10902",
            "/3/0/9 is there twice",
        ),
        (
            F::LWM2M_CBOR,
            "/",
            "a18203 00a20b00820b0000",
            "/3/0/11/0 is there twice",
        ),
        (
            F::SENML_ETCH_CBOR,
            "/",
            "80",
            "SenML-ETCH CBOR is not supported",
        ),
        (F::LINK_FORMAT, "/3/0/9", "", "link-format is not supported"),
    ] {
        let found = decoded(format, &bytes(payload), &context(base)).join("|");
        assert_eq!(found, format!("error: {error}"), "{format} {payload}");
    }
    for payload in [
        "{}",
        "[1]",
        "[{}",
        "[{\"bn\":1}]",
        "[{\"bt\":\"1\"}]",
        "[] []",
        "\u{1}",
    ] {
        let found = decoded(F::SENML_JSON, payload.as_bytes(), &context("/")).join("|");
        assert!(found.starts_with("error: not SenML: "), "{payload} {found}");
    }
}

#[test]
fn records_before_an_error_are_taken_back() {
    let mut records = vec![record("/3/0/9", Value::Integer(1))];
    let payload = br#"[{"n":"/3/0/9","v":1},{"n":"/3/0/10","v":1]"#;
    let result = decode(
        ContentFormat::SENML_JSON,
        payload,
        &context("/"),
        &mut records,
    );
    assert!(matches!(result, Err(DecodeError::Json(_))));
    assert_eq!(records.len(), 1);
}

#[test]
fn a_payload_with_too_many_records_is_refused() {
    let many = MAX_RECORDS + 1;
    let json = format!(
        "[{}{{\"n\":\"/3/0/9\",\"v\":1}}]",
        "{\"n\":\"/3/0/9\",\"v\":1},".repeat(MAX_RECORDS)
    );
    let found = decoded(ContentFormat::SENML_JSON, json.as_bytes(), &context("/"));
    assert_eq!(found, ["error: the payload has more than 16384 records"]);
    let found = decoded(
        ContentFormat::TLV,
        &bytes("c10901").repeat(many),
        &context("/3/0"),
    );
    assert_eq!(found, ["error: the payload has more than 16384 records"]);
    let found = decoded(
        ContentFormat::TLV,
        &bytes("c10901").repeat(MAX_RECORDS),
        &context("/3/0"),
    );
    assert_eq!(found.len(), MAX_RECORDS);
}

#[test]
fn formats_that_are_read_as_a_whole_have_the_same_bound() {
    for (count, refused) in [(MAX_RECORDS, false), (MAX_RECORDS + 1, true)] {
        let entries = vec![r#"{"n":"9","v":1}"#; count].join(",");
        let json = format!(r#"{{"bn":"/3/0/","e":[{entries}]}}"#);
        let found = decoded(ContentFormat::OMA_JSON, json.as_bytes(), &context("/"));
        assert_eq!(found.len() == 1, refused);

        let rows = vec![r#"{"n":"/3/0/9"}"#; count].join(",");
        let json = format!("[{rows}]");
        let paths = decode_paths(
            ContentFormat::SENML_ETCH_JSON,
            json.as_bytes(),
            &context("/"),
        );
        assert_eq!(paths == Err(DecodeError::TooMany), refused);

        // A map of one resource with so many instances, and broken keys count as well.
        let mut cbor = bytes("a1830300 06 bf".replace(' ', "").as_str());
        for index in 0..count {
            cbor.push(0x19);
            cbor.extend((index as u16).to_be_bytes());
            cbor.push(1);
        }
        cbor.push(0xFF);
        let found = decoded(ContentFormat::LWM2M_CBOR, &cbor, &context("/"));
        assert_eq!(found.len() == 1, refused);
    }
}

#[test]
fn what_a_format_cannot_carry_is_refused() {
    use ContentFormat as F;
    let one = || record("/3/0/9", Value::Integer(1));
    let node = record("/3/0", Value::Integer(1));
    let endless = record("/3303/0/5700", Value::Float(f64::INFINITY));
    for (format, base, records, error) in [
        (
            F::TEXT,
            "/3/0",
            vec![one()],
            "text carries the value of one resource",
        ),
        (
            F::TEXT,
            "/3/0/9",
            vec![one(), one()],
            "text carries the value of one resource",
        ),
        (
            F::CBOR,
            "/3/0/9",
            vec![],
            "CBOR carries the value of one resource",
        ),
        (
            F::OPAQUE,
            "/3/0/9",
            vec![one()],
            "/3/0/9: opaque carries bytes only, not the number 1",
        ),
        (F::TLV, "/", vec![one()], "TLV cannot carry several objects"),
        (
            F::TLV,
            "/3",
            vec![one(), one()],
            "/3/0/9 is there twice, which TLV cannot carry",
        ),
        (F::TLV, "/1", vec![one()], "/3/0/9: it is not beneath /1"),
        (
            F::TLV,
            "/3",
            vec![node.clone()],
            "/3/0: only resources have values",
        ),
        (
            F::SENML_CBOR,
            "/3",
            vec![node],
            "/3/0: only resources have values",
        ),
        (
            F::SENML_JSON,
            "/",
            vec![endless],
            "/3303/0/5700: the number is not finite",
        ),
        (
            F::LWM2M_CBOR,
            "/",
            vec![one(), one()],
            "/3/0/9 is there twice, which LwM2M CBOR cannot carry",
        ),
        (F::OMA_JSON, "/", vec![], "OMA JSON cannot be written"),
        (
            F::SENML_ETCH_CBOR,
            "/",
            vec![],
            "SenML-ETCH CBOR cannot be written",
        ),
    ] {
        let refused = encode(format, &records, &context(base)).unwrap_err();
        assert_eq!(refused.to_string(), error);
    }
}
