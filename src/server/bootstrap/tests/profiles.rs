//! Profile files, good and bad.

use super::rig::{Files, certificate, models, profiles};
use crate::diagnostic::{Diagnostic, Severity, Source};
use crate::dtls::PeerIdentity;
use crate::lwm2m::{Path, Value};
use crate::server::bootstrap::{Compiled, Key, Profiles, Security};

const DOCUMENT: &str = include_str!("../../../../docs/bootstrap.md");

const SERVER: &str = "[[server]]\nuri = \"coaps://gw.example\"\nshort_server_id = 1\n";

fn source(file: &str, text: impl Into<String>) -> Source {
    Source {
        file: file.into(),
        text: text.into(),
    }
}

fn compile_all(sources: &[Source], unreadable: Severity) -> Compiled {
    Profiles::compile(sources, models(), &Files(unreadable))
}

fn compile(text: &str) -> Compiled {
    compile_all(&[source("a.toml", text)], Severity::Error)
}

/// `[profile]` and `[match]`, and then this.
fn file(rest: &str) -> String {
    format!("schema = 1\n[profile]\nid = \"a\"\n[match]\nendpoint = \"*\"\n{rest}")
}

/// Line and code of each mistake.
fn mistakes(text: &str) -> Vec<(usize, &'static str)> {
    let found = compile(text).diagnostics;
    found
        .iter()
        .map(|diagnostic| (diagnostic.place.as_ref().unwrap().line, diagnostic.code))
        .collect()
}

#[test]
fn the_profiles_of_the_document_are_sound() {
    let blocks: Vec<&str> = DOCUMENT
        .split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        let compiled = compile_all(&[source("a.toml", block)], Severity::Warning);
        let codes: Vec<&str> = compiled.diagnostics.iter().map(|d| d.code).collect();
        // The files that the examples name are not there; nothing else is wrong.
        assert!(
            codes.iter().all(|code| *code == "unreadable-secret"),
            "{:?}",
            compiled.diagnostics
        );
        assert_eq!(compiled.profiles.is_some(), codes.is_empty());
    }
}

#[test]
fn an_account_is_what_its_table_says() {
    let text = file(
        r#"[[server]]
uri = "coaps://[2001:db8::1]:5684"
short_server_id = 102
identity = "cold"
key = { file = "/keys/foreign.psk" }
hold_off = 3
default_pmax = 60
priority = 2
binding = "UT"
[[object]]
path = "/3/0"
resources = { 14 = "+02:00", 13 = "2026-01-01T00:00:00Z" }
[[object]]
path = "/16/0"
resources = { 0 = { 3 = "x", 1 = "y" } }
"#,
    );
    let profiles = profiles(&text);
    let profile = profiles.iter().next().unwrap();
    let account = &profile.accounts[0];
    assert_eq!(account.short_server_id, 102);
    let Security::Psk {
        identity: Some(identity),
        key: Key::Given(key),
    } = &account.security
    else {
        panic!("{account:?}");
    };
    assert_eq!((identity.as_str(), key.expose().len()), ("cold", 16));
    let server: Vec<String> = account
        .server_records(0)
        .iter()
        .map(|record| format!("{} {:?}", record.path, record.value))
        .collect();
    assert_eq!(
        server,
        [
            "/1/0/0 Integer(102)",
            "/1/0/1 Integer(86400)",
            "/1/0/3 Integer(60)",
            "/1/0/6 Boolean(true)",
            "/1/0/7 String(\"UT\")",
            "/1/0/13 UnsignedInteger(2)"
        ]
    );
    assert_eq!(profile.delete, [Path::object(0), Path::object(1)]);
    let objects: Vec<String> = profile
        .objects
        .iter()
        .flat_map(|object| &object.records)
        .map(|record| format!("{} {:?}", record.path, record.value))
        .collect();
    assert_eq!(
        objects,
        [
            "/3/0/13 Time(1767225600)",
            "/3/0/14 String(\"+02:00\")",
            "/16/0/0/1 String(\"y\")",
            "/16/0/0/3 String(\"x\")"
        ]
    );
    // No form of it shows the key.
    let shown = format!("{profiles:?}");
    assert!(
        shown.contains("[secret]") && !shown.contains("13, 14, 15"),
        "{shown}"
    );
}

// conformance: 2
#[test]
fn a_server_certificate_goes_with_the_account() {
    let text = file(
        "[[server]]\nuri = \"coaps://gw.example\"\nshort_server_id = 1\nsecurity = \"x509\"\n\
         server_cert_file = \"/keys/server.der\"\ncertificate_usage = \"ca\"\n",
    );
    let profiles = profiles(&text);
    let account = &profiles.iter().next().unwrap().accounts[0];
    let records = account.security_records(1, "gw", None);
    let value = |resource| {
        let path = Path::resource(0, 1, resource);
        let found = records.iter().find(|record| record.path == path);
        found.map(|record| record.value.clone())
    };
    assert_eq!(value(2), Some(Value::Integer(2)));
    assert_eq!(value(3), Some(Value::Opaque(vec![])));
    assert_eq!(value(5), Some(Value::Opaque(vec![])));
    assert_eq!(value(15), Some(Value::UnsignedInteger(0)));
    assert_eq!(value(4), Some(Value::Opaque(certificate())));
}

#[test]
fn an_inconsistent_profile_is_refused_with_every_mistake() {
    let text = r#"schema = 1
[profile]
id = "a"
[match]
endpoint = "*"
[bootstrap]
delete = ["/0/0/1", "0"]
[[server]]
uri = "coaps://gw.example"
short_server_id = 0
security = "none"
lifetime = 0
[[server]]
uri = "mqtt://gw.example"
short_server_id = 65535
key = "xyz"
[[server]]
uri = "coap://gw.example"
short_server_id = 3
security = "psk"
key = { credential = "long" }
[[server]]
uri = "coaps://{host}:5684"
short_server_id = 3
identity = "shared"
lifetme = 5
[[acl]]
object = 3303
rights = { 1 = "RX" }
[[object]]
path = "/3/0"
resources = { 14 = 2, 99 = 1, 4 = true, utc-offset = "x" }
[[object]]
path = "/3/1"
resources = {}
[[object]]
path = "/1/0"
resources = {}
[[object]]
path = "/29999/0"
resources = {}
"#;
    assert_eq!(
        mistakes(text),
        [
            (7, "bad-path"),
            (7, "bad-path"),
            (10, "bad-server-id"),
            (11, "security-mismatch"),
            (12, "bad-lifetime"),
            (14, "uri-scheme"),
            (15, "bad-server-id"),
            (16, "plain-secret"),
            (16, "bad-key"),
            (20, "security-mismatch"),
            (21, "long-key"),
            (23, "bad-uri"),
            (25, "shared-identity"),
            (26, "unknown-key"),
            (29, "bad-rights"),
            (32, "bad-type"),
            (32, "unknown-resource"),
            (32, "not-writable"),
            (32, "bad-resource"),
            (34, "single-instance"),
            (37, "reserved-object"),
            (40, "unknown-object"),
        ]
    );
    assert!(compile(text).profiles.is_none());
}

#[test]
fn accounts_are_compared_with_each_other_and_with_the_rules() {
    let text = file(&format!(
        "{SERVER}{SERVER}[[acl]]\nobject = 3303\nowner = 9\nrights = {{ 1 = \"RW\", 7 = \"R\", 0 = \"\" }}\n\
         [[acl]]\nobject = 3303\nrights = {{}}\n[[acl]]\nobject = 3303\ninstance = 1\nrights = {{ 0 = \"C\" }}\n"
    ));
    assert_eq!(
        mistakes(&text),
        [
            (9, "two-generated"),
            (11, "duplicate-server-id"),
            (14, "unknown-server"),
            (15, "unknown-server"),
            (16, "duplicate-acl"),
            (19, "bad-rights"),
        ]
    );
}

#[test]
fn what_is_missing_is_named() {
    for (text, expected) in [
        (
            "",
            vec!["missing-key", "missing-key", "no-match", "no-server"],
        ),
        (
            &file("[[server]]\n[[object]]\n[[acl]]\n"),
            vec!["missing-key"; 6],
        ),
        (
            &file("[[server]]\nurl = \"coap://x\"\nshort_server_id = 1\n"),
            vec!["unknown-key"],
        ),
        (&file("[server]\n"), vec!["bad-type"]),
        (&format!("server = []\n{}", file("")), vec!["no-server"]),
        (
            &file(&format!("{SERVER}security = \"x509\"\nidentity = \"x\"\n")),
            vec!["missing-key", "unused-key"],
        ),
        (
            &file(&format!(
                "{SERVER}[[object]]\npath = \"/5/0\"\nresources = {{ 1 = \"coap://x\" }}\n"
            )),
            vec!["missing-resource"],
        ),
        (
            &file("[[server]]\nuri = \"coap://x\"\nshort_server_id = 1\nbinding = \"X\"\n"),
            vec!["bad-binding"],
        ),
    ] {
        let codes: Vec<&str> = mistakes(text).into_iter().map(|(_, code)| code).collect();
        assert_eq!(codes, expected, "{text}");
    }
}

#[test]
fn an_identity_has_up_to_128_bytes() {
    let text = |len: usize| {
        let server = SERVER.to_owned() + "identity = \"" + &"x".repeat(len) + "\"\n";
        file(&server).replace("endpoint = \"*\"", "endpoint = \"gw1\"")
    };
    assert_eq!(mistakes(&text(0)), [(9, "bad-identity")]);
    assert_eq!(mistakes(&text(128)), []);
    assert_eq!(mistakes(&text(129)), [(9, "bad-identity")]);
}

#[test]
fn addresses_that_no_device_can_reach_are_refused() {
    for (uri, sound) in [
        ("coaps://gw.example", true),
        ("coaps://gw.example:5684/path", true),
        ("coaps+tcp://gw.example", true),
        ("coaps://[::1]:5684", true),
        ("coaps://gw.example:", false),
        ("coaps://gw.example:0", false),
        ("coaps://gw.example:70000", false),
        ("coaps://", false),
        ("coaps://[gw]:5684", false),
        ("coaps://0.0.0.0:5684", false),
        ("coaps://[::]:5684", false),
        ("coaps://gw example", false),
        ("gw.example:5684", false),
        ("COAPS://gw.example", false),
    ] {
        let text = file(&format!(
            "[[server]]\nuri = \"{uri}\"\nshort_server_id = 1\n"
        ));
        assert_eq!(compile(&text).profiles.is_some(), sound, "{uri}");
    }
}

#[test]
fn a_mistake_is_shown_with_place_and_hint_and_no_key_is() {
    let text = file(&format!(
        "{SERVER}key = \"00112233445566778899aabbccddeef\"\nuri2 = 1\n"
    ));
    let shown: Vec<String> = compile(&text)
        .diagnostics
        .iter()
        .map(|diagnostic| diagnostic.render(false))
        .collect();
    let shown = shown.join("\n");
    assert!(!shown.contains("001122"), "{shown}");
    assert!(
        shown.contains("a.toml:9:1: error[bad-key]: `key` is no key"),
        "{shown}"
    );
    assert!(
        shown.contains("  = help: write it in hexadecimal digits, two a byte, or \"generate\"")
    );
    // A line that cannot even be parsed is not quoted either.
    let broken = file(&format!("{SERVER}key = \"00112233"));
    let shown = compile(&broken).diagnostics[0].render(false);
    assert!(
        shown.contains("error[syntax]") && !shown.contains("001122"),
        "{shown}"
    );
}

#[test]
fn a_short_key_is_a_warning() {
    let text = file(&format!("{SERVER}key = {{ credential = \"short\" }}\n"));
    let compiled = compile(&text);
    assert_eq!(compiled.diagnostics.len(), 1);
    assert_eq!(compiled.diagnostics[0].code, "short-key");
    assert!(compiled.profiles.is_some());
}

#[test]
fn an_id_stands_once_in_all_folders() {
    let text = file(SERVER);
    let compiled = compile_all(
        &[source("b/a.toml", text.clone()), source("c/a.toml", text)],
        Severity::Error,
    );
    let codes: Vec<&Diagnostic> = compiled.diagnostics.iter().collect();
    assert_eq!(codes.len(), 1);
    assert_eq!(codes[0].code, "duplicate-profile");
    assert!(codes[0].message.contains("b/a.toml"));
    assert!(compiled.profiles.is_none());
}

#[test]
fn a_key_that_is_elsewhere_is_an_error_only_where_it_is_needed() {
    let text = file(&format!("{SERVER}key = {{ credential = \"other\" }}\n"));
    for severity in [Severity::Error, Severity::Warning] {
        let compiled = compile_all(&[source("a.toml", text.clone())], severity);
        assert!(compiled.profiles.is_none());
        let [diagnostic] = &compiled.diagnostics[..] else {
            panic!("{:?}", compiled.diagnostics);
        };
        assert_eq!(
            (diagnostic.code, diagnostic.severity),
            ("unreadable-secret", severity)
        );
    }
}

#[test]
fn the_profile_of_a_device_is_the_highest_and_then_the_most_specific() {
    let profile = |id: &str, rest: &str| {
        let text = format!("schema = 1\n[profile]\nid = \"{id}\"\n{rest}\n{SERVER}");
        source(&format!("{id}.toml"), text)
    };
    let compiled = compile_all(
        &[
            profile("all", "[match]\nendpoint = \"*\""),
            profile("acme", "[match]\nendpoint = \"acme-*\""),
            profile("one", "[match]\nendpoint = \"acme-1\""),
            profile("vip", "priority = 5\n[match]\nidentity = \"vip*\""),
            profile("never", "priority = 9\n[match]"),
        ],
        Severity::Error,
    );
    let profiles = compiled.profiles.unwrap();
    let psk = PeerIdentity::Psk(b"vip1".to_vec());
    let certificate = PeerIdentity::X509 {
        leaf: vec![],
        chain: vec![],
        names: vec!["acme-2".into(), "vip2".into()],
        authority: None,
    };
    for (endpoint, identity, id) in [
        ("x", None, "all"),
        ("acme-2", None, "acme"),
        ("acme-1", None, "one"),
        ("acme-1", Some(&psk), "vip"),
        ("acme-2", Some(&certificate), "vip"),
    ] {
        let chosen = profiles.choose(endpoint, identity).unwrap();
        assert_eq!(chosen.id, id, "{endpoint}");
    }
}

#[test]
fn any_cut_of_a_profile_is_answered_and_not_panicked_at() {
    let block = DOCUMENT.split("```toml\n").nth(2).unwrap();
    let block = block.split("```").next().unwrap();
    for end in (0..block.len())
        .step_by(7)
        .filter(|end| block.is_char_boundary(*end))
    {
        for diagnostic in compile(&block[..end]).diagnostics {
            assert!(!diagnostic.hint.is_empty() && !diagnostic.message.ends_with('.'));
        }
    }
}
