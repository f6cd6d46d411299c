//! What formats do to values: numbers, bytes, times, and what devices make of them.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

// conformance: P4
#[test]
fn integers_of_every_size_and_sign_come_through_every_format() {
    let signed = [
        0,
        -1,
        127,
        128,
        -128,
        -129,
        32_768,
        -32_769,
        1 << 31,
        -(1 << 31) - 1,
        i64::MAX,
        i64::MIN,
    ];
    let unsigned = [
        0,
        127,
        128,
        200,
        255,
        256,
        65_535,
        65_536,
        1 << 32,
        u64::MAX,
    ];
    let records = signed
        .map(|number| record("/42000/0/1", Value::Integer(number)))
        .into_iter()
        .chain(unsigned.map(|number| record("/42000/0/2", Value::UnsignedInteger(number))))
        .chain(signed.map(|number| record("/42000/0/6", Value::Time(number))));
    for record in records {
        let context = context(&record.path.to_string());
        for format in FOR_ONE_VALUE {
            let (payload, read) = through(format, std::slice::from_ref(&record), &context);
            assert_eq!(
                read,
                std::slice::from_ref(&record),
                "{format} {}",
                hex(&payload)
            );
        }
    }
    // TLV has 1, 2, 4 and 8 bytes and nothing between.
    for payload in [
        "c301010203",
        "c5010102030405",
        "c001",
        "c80109010203040506070809",
    ] {
        let found = decoded(ContentFormat::TLV, &bytes(payload), &context("/42000/0"));
        assert!(found[0].starts_with("problem: /42000/0/1: "), "{found:?}");
    }
}

// conformance: P7
#[test]
fn bytes_and_links_are_read_in_every_dialect_and_written_in_one() {
    for vd in ["-_8", "-_8=", "+/8", "+/8="] {
        let json = format!(r#"[{{"n":"/42000/0/5","vd":"{vd}"}}]"#);
        let found = decoded(ContentFormat::SENML_JSON, json.as_bytes(), &context("/"));
        assert_eq!(found, ["/42000/0/5 h'fbff'"], "{vd}");
        let found = decoded(ContentFormat::TEXT, vd.as_bytes(), &context("/42000/0/5"));
        assert_eq!(found, ["/42000/0/5 h'fbff'"], "{vd}");
        let json = format!(r#"{{"bn":"/42000/0/5","e":[{{"sv":"{vd}"}}]}}"#);
        let found = decoded(ContentFormat::OMA_JSON, json.as_bytes(), &context("/"));
        assert_eq!(found, ["/42000/0/5 h'fbff'"], "{vd}");
    }
    let bytes_of = |format, base: &str| {
        let records = [record("/42000/0/5", Value::Opaque(vec![0xFB, 0xFF]))];
        encode(format, &records, &context(base)).unwrap()
    };
    assert_eq!(
        bytes_of(ContentFormat::SENML_JSON, "/"),
        br#"[{"n":"/42000/0/5","vd":"-_8"}]"#
    );
    assert_eq!(bytes_of(ContentFormat::TEXT, "/42000/0/5"), b"+/8=");
    // A link under the text key, as it should be, or under that of texts.
    for payload in [
        "81a200672f36362f302f3263766c6f6436363a30",
        "81a200672f36362f302f32036436363a30",
    ] {
        let payload = bytes(payload);
        let found = decoded(ContentFormat::SENML_CBOR, &payload, &context("/"));
        assert_eq!(found, ["/66/0/2 66:0"]);
    }
    // "bv" is a boolean in the one and a base value in the other.
    let oma = br#"{"bn":"/42000/0/4","e":[{"bv":true}]}"#;
    let found = decoded(ContentFormat::OMA_JSON, oma, &context("/"));
    assert_eq!(found, ["/42000/0/4 true"]);
    let senml = br#"[{"bn":"/42000/0/","bv":18446744073709551610,"n":"2","v":5}]"#;
    let found = decoded(ContentFormat::SENML_JSON, senml, &context("/"));
    assert_eq!(found, ["/42000/0/2 18446744073709551615u"]);
}

// conformance: P6
#[test]
fn every_sample_of_a_resource_comes_out_with_its_time_and_in_order() {
    let json = r#"[{"bn":"/3303/0/5700","bt":1700000000,"v":1,"t":3},{"v":2,"t":1.5},{"v":3,"t":1.5},{"v":4},{"n":"","v":5,"t":-10}]"#;
    let expected = [
        "/3303/0/5700 1.0 at 1700000003000",
        "/3303/0/5700 2.0 at 1700000001500",
        "/3303/0/5700 3.0 at 1700000001500",
        "/3303/0/5700 4.0 at 1700000000000",
        "/3303/0/5700 5.0 at 1699999990000",
    ];
    let context = context("/3303/0/5700");
    let found = decoded(ContentFormat::SENML_JSON, json.as_bytes(), &context);
    assert_eq!(found, expected);
    let mut records = Vec::new();
    let result = decode(
        ContentFormat::SENML_JSON,
        json.as_bytes(),
        &context,
        &mut records,
    );
    result.unwrap().complete().unwrap();
    for format in [ContentFormat::SENML_JSON, ContentFormat::SENML_CBOR] {
        let payload = encode(format, &records, &context).unwrap();
        assert_eq!(decoded(format, &payload, &context), expected, "{format}");
    }
    // A device without a clock, in both forms of JSON.
    let now = NOW.as_millis();
    let relative = format!("/3303/0/5700 1.0 at {}", now - 5000);
    for (format, json) in [
        (
            ContentFormat::SENML_JSON,
            r#"[{"n":"/3303/0/5700","v":1,"t":-5}]"#,
        ),
        (
            ContentFormat::OMA_JSON,
            r#"{"bn":"/3303/0/5700","e":[{"v":1,"t":-5}]}"#,
        ),
    ] {
        assert_eq!(decoded(format, json.as_bytes(), &context), [&*relative]);
    }
    let cbor = bytes("81a3006c2f333330332f302f3537303002010624");
    assert_eq!(
        decoded(ContentFormat::SENML_CBOR, &cbor, &context),
        [&*relative]
    );
}

#[test]
fn a_number_may_be_of_any_width_or_a_decimal_fraction() {
    for (item, value) in [
        ("f94d80", "22.0"),
        ("fa41b00000", "22.0"),
        ("fb4036000000000000", "22.0"),
        ("16", "22.0"),
        ("35", "-22.0"),
        ("1b0000000000000016", "22.0"),
        ("c4822018dd", "22.1"),
        ("c49f2018ddff", "22.1"),
        ("c4820016", "22.0"),
        ("c482011602", "error"),
        ("c4830016", "error"),
        ("c2420116", "error"),
    ] {
        let payload = bytes(item);
        let found = decoded(ContentFormat::CBOR, &payload, &context("/3303/0/5700")).join("|");
        let good = found == format!("/3303/0/5700 {value}");
        assert!(
            good || (value == "error" && found.starts_with("error: byte ")),
            "{item} {found}"
        );
    }
    // Whole decimal fractions stay exact.
    let payload = bytes("c4 82 01 1b 1999999999999999".replace(' ', "").as_str());
    let found = decoded(ContentFormat::CBOR, &payload, &context("/42000/0/2"));
    assert_eq!(found, ["/42000/0/2 18446744073709551610u"]);
}

#[test]
fn nesting_without_end_is_refused_without_harm() {
    const DEEP: usize = 200_000;
    for (format, before, unit) in [
        (ContentFormat::CBOR, "", "81"),
        (ContentFormat::CBOR, "", "c1"),
        (ContentFormat::CBOR, "", "9f"),
        (ContentFormat::SENML_CBOR, "", "81"),
        (ContentFormat::SENML_CBOR, "81a102", "81"),
        (ContentFormat::SENML_CBOR, "81a102", "9f"),
        (ContentFormat::SENML_CBOR, "81a1617a", "bf00"),
        (ContentFormat::LWM2M_CBOR, "", "a103"),
        (ContentFormat::LWM2M_CBOR, "", "bf03"),
        (ContentFormat::LWM2M_CBOR, "", "a180"),
        (ContentFormat::LWM2M_CBOR, "a1", "81"),
        (ContentFormat::LWM2M_CBOR, "a1", "9f"),
    ] {
        let mut payload = bytes(before);
        payload.extend(bytes(unit).repeat(DEEP));
        let found = decoded(format, &payload, &context("/3/0/9"));
        assert!(found[0].starts_with("error: "), "{format} {unit}");
    }
    for unit in [
        r#"[{"v":["#,
        r#"[{"x":{"y":"#,
        "[",
        r#"{"e":[{"v":["#,
        r#"{"bn":{"a":"#,
    ] {
        for format in [ContentFormat::SENML_JSON, ContentFormat::OMA_JSON] {
            let payload = unit.repeat(DEEP);
            let found = decoded(format, payload.as_bytes(), &context("/3/0/9"));
            assert!(found[0].starts_with("error: "), "{format} {unit}");
        }
    }
}

// conformance: 204
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
