//! Loading a configuration.

mod dtls;

use std::fs;

use super::*;
use crate::diagnostic::Severity;

/// A folder that is removed at the end of a test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("lwm2mqtt-config-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("conf.d")).unwrap();
        Self(path)
    }

    fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.0.join(file);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn sources(file: Option<PathBuf>, environment: &[(&str, &str)]) -> Sources {
    Sources {
        file,
        default_file: PathBuf::from("/nonexistent/lwm2mqtt.toml"),
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        overrides: Vec::new(),
        unreadable_secrets: Missing::Error,
    }
}

fn with_variables(environment: &[(&str, &str)]) -> Loaded {
    Config::load_from(&sources(None, environment))
}

/// `CODE LINE:COLUMN` of each diagnostic but that nobody listens.
fn codes(loaded: &Loaded) -> Vec<String> {
    loaded
        .diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.code != "no-listener")
        .map(|diagnostic| match &diagnostic.place {
            Some(place) => format!("{} {}:{}", diagnostic.code, place.line, place.column),
            None => format!("{} {}", diagnostic.code, diagnostic.file),
        })
        .collect()
}

#[test]
fn without_any_source_everything_has_its_default() {
    let loaded = with_variables(&[("HOME", "/root"), ("LWM2MQTTX", "1")]);
    assert_eq!(loaded.config, Some(Config::default()));
    assert_eq!(codes(&loaded), [""; 0]);
}

#[test]
fn a_gateway_that_nobody_can_reach_is_said() {
    let loaded = with_variables(&[("LWM2MQTT__DEVICES__COAPS", "[]")]);
    assert_eq!(loaded.diagnostics[0].code, "no-listener");
    assert_eq!(loaded.diagnostics.len(), 1);
    assert!(loaded.config.is_some());
}

#[test]
fn the_generated_file_is_the_default_configuration() {
    let folder = Folder::new("generated");
    let commented = folder.write("a.toml", template());
    let loaded = Config::load_from(&sources(Some(commented), &[]));
    assert_eq!(codes(&loaded), [""; 0]);
    assert_eq!(loaded.config, Some(Config::default()));

    let mut defaults = 0;
    let text: Vec<&str> = template()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) => {
                defaults += 1;
                key
            }
            _ => line,
        })
        .collect();
    let uncommented = folder.write("b.toml", &text.join("\n"));
    let loaded = Config::load_from(&sources(Some(uncommented), &[]));
    assert_eq!(loaded.config, Some(Config::default()));
    assert!(
        codes(&loaded)
            .iter()
            .all(|code| code.starts_with("not-built"))
    );
    assert!(defaults > 20, "{defaults} keys with their defaults");
}

#[test]
fn the_examples_of_the_generated_file_are_sound() {
    let folder = Folder::new("examples");
    // Its sections, and in each what stands there as an example.
    let is_key = |line: &str| {
        let key = line.split_once(" = ");
        line.starts_with("[[") || key.is_some_and(|(key, _)| !key.contains(' '))
    };
    let mut sections: String = template()
        .lines()
        .filter_map(|line| match line.strip_prefix("# ") {
            Some(example) => is_key(example).then_some(example),
            None => line.starts_with('[').then_some(line),
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    // Files that are named are read.
    let [authority, ours, _] = certificates();
    for (named, content) in [
        ("ca.pem", &authority),
        ("gateway.pem", &ours),
        ("devices-ca.pem", &authority),
        ("devices.pem", &ours),
    ] {
        let path = folder.write(named, content).display().to_string();
        sections = sections.replace(&format!("/etc/lwm2mqtt/{named}"), &path);
    }
    let file = folder.write("a.toml", &sections);
    let loaded = Config::load_from(&Sources {
        unreadable_secrets: Missing::Warning,
        ..sources(Some(file), &[])
    });
    let config = loaded
        .config
        .unwrap_or_else(|| panic!("{sections}\n{:#?}", loaded.diagnostics));
    assert_eq!(config.gateway.id.as_deref(), Some("gw-12"));
    assert_eq!(config.upstream.len(), 1);
    assert_eq!(
        config.devices.lifetime_max,
        Some(Duration::from_secs(7 * 86_400))
    );
}

#[test]
fn later_layers_win_key_by_key() {
    let folder = Folder::new("layers");
    let file = folder.write(
        "main.toml",
        "[mqtt]\nurl = \"mqtt://one\"\nbase_topic = \"one\"\nkeep_alive = \"10s\"\nusername = \"one\"\n",
    );
    folder.write("conf.d/20.toml", "[mqtt]\nbase_topic = \"three\"\n");
    folder.write(
        "conf.d/10.toml",
        "[mqtt]\nbase_topic = \"two\"\nkeep_alive = \"20s\"\n",
    );
    folder.write("conf.d/ignored.bak", "?");
    let mut sources = sources(
        Some(file.clone()),
        &[
            ("LWM2MQTT__MQTT__USERNAME", "12"),
            ("LWM2MQTT__DEVICES__COAP", "[\"127.0.0.1:0\"]"),
        ],
    );
    sources.overrides = vec![Override {
        flag: "--mqtt-url".into(),
        key: "mqtt.url".into(),
        value: "mqtt://five".into(),
    }];
    let loaded = Config::load_from(&sources);
    let config = loaded.config.unwrap();
    assert_eq!(config.mqtt.url, "mqtt://five");
    assert_eq!(config.mqtt.base_topic, "three");
    assert_eq!(config.mqtt.keep_alive, Duration::from_secs(20));
    assert_eq!(config.mqtt.username.as_deref(), Some("12"));
    assert_eq!(config.devices.coap, ["127.0.0.1:0".parse().unwrap()]);
    assert_eq!(loaded.files.len(), 3);
}

#[test]
fn all_mistakes_are_found_with_their_places() {
    let folder = Folder::new("mistakes");
    let file = folder.write(
        "main.toml",
        "level = 1\n[mqtt]\nurll = \"x\"\nurl = \"http://x\"\n  keep_alive = 30\nbase_topic = \"a/+\"\n\
         version = \"4\"\n[devices]\ncoap = [\"localhost\", \"127.0.0.1:1\"]\nlifetime_grace = \"30 parsecs\"\n\
         join = open\n[log]\nlevel = \"inof\"\n[gatewy]\nid = \"x\"\n",
    );
    let loaded = Config::load_from(&sources(Some(file), &[]));
    assert!(loaded.config.is_none());
    assert_eq!(
        codes(&loaded),
        [
            "unknown-key 1:1",
            "unknown-key 3:1",
            "bad-url 4:1",
            "bad-type 5:3",
            "bad-topic 6:1",
            "bad-value 7:1",
            "bad-address 9:1",
            "bad-duration 10:1",
            "syntax 11:8",
            "bad-value 13:1",
            "unknown-key 14:2",
        ]
    );
    assert_eq!(loaded.diagnostics[0].hint, "write it under [log]");
}

#[test]
fn a_mistake_in_a_variable_is_named_by_it() {
    let loaded = with_variables(&[
        ("LWM2MQTT__MQTT__URLL", "mqtt://x"),
        ("LWM2MQTT__MQTT__KEEP_ALIVE", "30"),
        ("LWM2MQTT__DEVICES__COAP", "127.0.0.1:5683"),
        ("LWM2MQTT__X-Y", "1"),
    ]);
    assert_eq!(
        codes(&loaded),
        [
            "bad-type LWM2MQTT__DEVICES__COAP",
            "bad-duration LWM2MQTT__MQTT__KEEP_ALIVE",
            "unknown-key LWM2MQTT__MQTT__URLL",
            "unknown-key LWM2MQTT__X-Y",
        ]
    );
}

#[test]
fn only_a_file_that_was_asked_for_must_exist() {
    let loaded = Config::load_from(&sources(Some(PathBuf::from("/nonexistent/x.toml")), &[]));
    assert!(loaded.config.is_none());
    assert_eq!(codes(&loaded), ["unreadable /nonexistent/x.toml"]);
}

#[test]
fn what_is_not_built_is_checked_and_named_and_stops_nothing() {
    let folder = Folder::new("unbuilt");
    let file = folder.write(
        "main.toml",
        "[homeassistant]\ndiscovery = true\n[[upstream]]\nuri = \"coap://x\"\n",
    );
    let loaded = Config::load_from(&sources(Some(file), &[]));
    assert_eq!(codes(&loaded), ["not-built 2:1", "not-built 3:3"]);
    assert!(loaded.config.is_some());
    let wrong = folder.write("wrong.toml", "[homeassistant]\ndiscovery = \"yes\"\n");
    assert!(
        Config::load_from(&sources(Some(wrong), &[]))
            .config
            .is_none()
    );
}

#[test]
fn a_secret_comes_from_a_file_or_a_credential_and_is_never_shown() {
    let folder = Folder::new("secrets");
    folder.write("pw", "hunter2\n");
    let credentials = folder.0.display().to_string();
    let path = folder.0.join("pw").display().to_string();
    for value in [
        "hunter2".to_owned(),
        "{ credential = \"pw\" }".to_owned(),
        format!("{{ file = \"{path}\" }}"),
    ] {
        let loaded = with_variables(&[
            ("LWM2MQTT__MQTT__PASSWORD", &value),
            ("LWM2MQTT__MQTT__USERNAME", "gateway"),
            ("CREDENTIALS_DIRECTORY", &credentials),
        ]);
        let config = loaded.config.as_ref().unwrap();
        assert_eq!(config.mqtt.password.as_ref().unwrap().expose(), b"hunter2");
        assert!(!format!("{loaded:?}").contains("hunter2"));
    }
    let file = folder.write(
        "main.toml",
        "[mqtt]\nusername = \"u\"\npassword = \"hunter2\"\n",
    );
    let loaded = Config::load_from(&sources(Some(file), &[]));
    assert_eq!(codes(&loaded), ["plain-secret 3:1"]);
    assert!(
        !loaded
            .diagnostics
            .iter()
            .any(|d| d.render(false).contains("hunter2"))
    );
}

#[test]
fn a_secret_that_cannot_be_read_is_an_error_only_where_it_is_needed() {
    let value = [("LWM2MQTT__MQTT__PASSWORD", "{ credential = \"absent\" }")];
    for (missing, severity) in [
        (Missing::Error, Severity::Error),
        (Missing::Warning, Severity::Warning),
    ] {
        let loaded = Config::load_from(&Sources {
            unreadable_secrets: missing,
            ..sources(None, &value)
        });
        let found = loaded
            .diagnostics
            .iter()
            .find(|d| d.code == "unreadable-secret")
            .unwrap();
        assert_eq!(found.severity, severity);
        assert_eq!(loaded.config.is_none(), severity == Severity::Error);
    }
}

#[test]
fn an_open_door_is_said() {
    for (join, codes) in [
        ("open", &["open-join"][..]),
        ("known", &[]),
        ("window", &[]),
    ] {
        let folder = Folder::new(&format!("join-{join}"));
        let file = folder.write(
            "main.toml",
            &format!("[devices]\ncoap = [\"127.0.0.1:5683\"]\njoin = \"{join}\"\n"),
        );
        let loaded = Config::load_from(&sources(Some(file), &[]));
        let found: Vec<&str> = loaded.diagnostics.iter().map(|it| it.code).collect();
        assert_eq!(found, codes);
        assert!(loaded.diagnostics.iter().all(|it| it.place.is_some()));
    }
}

/// An authority, and a certificate with its key, in PEM.
fn certificates() -> [String; 3] {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new([]).unwrap();
    let ours = params.signed_by(&key, &issuer).unwrap().pem();
    [authority, ours, key.serialize_pem()]
}

fn only_for_the_owner(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// What is said of a configuration with these files under `[mqtt]`.
fn found_in(folder: &Folder, lines: &str) -> Vec<Diagnostic> {
    let file = folder.write("main.toml", &format!("[mqtt]\n{lines}"));
    let mut diagnostics = Config::load_from(&sources(Some(file), &[])).diagnostics;
    diagnostics.retain(|diagnostic| diagnostic.code != "no-listener");
    diagnostics
}

#[test]
fn files_for_tls_that_are_sound_leave_nothing_to_say() {
    let folder = Folder::new("tls-sound");
    let [authority, ours, key] = certificates();
    let ca = folder.write("ca.pem", &authority);
    // The chain may follow.
    let cert = folder.write("cert.pem", &format!("{ours}{authority}"));
    let key = folder.write("key.pem", &key);
    only_for_the_owner(&key);
    let lines = format!(
        "url = \"mqtts://broker.example\"\nca_file = {ca:?}\ncert_file = {cert:?}\n\
         key = {{ file = {key:?} }}\n"
    );
    assert_eq!(found_in(&folder, &lines), []);
    // In clear they would do nothing.
    let lines = lines.replace("mqtts://", "ws://");
    let found = found_in(&folder, &lines);
    let places: Vec<_> = found
        .iter()
        .map(|found| (found.code, found.place.as_ref().unwrap().line))
        .collect();
    assert_eq!(
        places,
        [("unused-key", 3), ("unused-key", 4), ("unused-key", 5)]
    );
}

#[test]
fn what_is_wrong_with_a_file_for_tls_is_said_where_the_file_is_named() {
    let folder = Folder::new("tls-wrong");
    let [authority, ours, key] = certificates();
    let [_, _, other_key] = certificates();
    for (name, content) in [
        ("ca.pem", authority.as_str()),
        ("cert.pem", &ours),
        ("key.pem", &key),
        ("other.pem", &other_key),
        ("open.pem", &key),
        ("cut.pem", &ours[..200]),
        ("cut-key.pem", &key[..60]),
        ("der.pem", "\u{30}\u{7f}"),
        ("typed.pem", &ours.replacen("MI", "M*", 1)),
        (
            "locked.pem",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        ),
        (
            "curve.pem",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ),
        ("text.pem", "hello"),
    ] {
        let path = folder.write(name, content);
        if name != "open.pem" {
            only_for_the_owner(&path);
        }
    }
    let sound = ["ca.pem", "cert.pem", "key.pem"];
    for (files, line, code, words) in [
        (
            ["absent.pem", sound[1], sound[2]],
            3,
            "bad-certificate",
            "cannot be read",
        ),
        (
            ["text.pem", sound[1], sound[2]],
            3,
            "bad-certificate",
            "has no certificate in PEM",
        ),
        (
            ["key.pem", sound[1], sound[2]],
            3,
            "bad-certificate",
            "has no certificate in PEM",
        ),
        (
            ["cut.pem", sound[1], sound[2]],
            3,
            "bad-certificate",
            "the line with -----END is missing",
        ),
        (
            ["typed.pem", sound[1], sound[2]],
            3,
            "bad-certificate",
            "is not base64",
        ),
        (
            [sound[0], "absent.pem", sound[2]],
            4,
            "bad-certificate",
            "cannot be read",
        ),
        (
            [sound[0], "der.pem", sound[2]],
            4,
            "bad-certificate",
            "has no certificate in PEM",
        ),
        (
            [sound[0], sound[1], "absent.pem"],
            5,
            "unreadable-secret",
            "cannot be read",
        ),
        (
            [sound[0], sound[1], "cert.pem"],
            5,
            "bad-certificate",
            "is no private key in PEM",
        ),
        (
            [sound[0], sound[1], "cut-key.pem"],
            5,
            "bad-certificate",
            "the line with -----END",
        ),
        (
            [sound[0], sound[1], "other.pem"],
            5,
            "bad-certificate",
            "the key is not that of the certificate",
        ),
        (
            [sound[0], sound[1], "open.pem"],
            5,
            "bad-certificate",
            "is open to every user",
        ),
        (
            [sound[0], sound[1], "locked.pem"],
            5,
            "bad-certificate",
            "has a passphrase",
        ),
        (
            [sound[0], sound[1], "curve.pem"],
            5,
            "bad-certificate",
            "this kind of private key",
        ),
    ] {
        let [ca, cert, key] = files.map(|name| folder.0.join(name));
        let lines = format!(
            "url = \"mqtts://broker.example\"\nca_file = {ca:?}\ncert_file = {cert:?}\n\
             key = {{ file = {key:?} }}\n"
        );
        let found = found_in(&folder, &lines);
        let [found] = found.as_slice() else {
            panic!("{files:?}: {found:?}");
        };
        let place = found.place.as_ref().unwrap();
        assert_eq!((found.code, place.line), (code, line), "{files:?}: {found}");
        assert!(found.message.contains(words), "{found}");
        assert!(!found.hint.is_empty() && found.is_error());
    }
    // Everything at once, and one without the other.
    let lines = "url = \"wss://x\"\nca_file = \"/absent/ca\"\ncert_file = \"/absent/cert\"\n";
    assert_eq!(found_in(&folder, lines).len(), 2);
    let lines = "url = \"wss://x\"\nkey = { file = \"/absent/key\" }\n";
    let found = found_in(&folder, lines);
    assert!(found[0].message.contains("without its certificate"));
}

#[test]
fn a_key_of_a_credential_that_is_not_here_is_a_warning_to_check_only() {
    let folder = Folder::new("tls-credential");
    let [_, ours, _] = certificates();
    let cert = folder.write("cert.pem", &ours);
    let file = folder.write(
        "main.toml",
        &format!(
            "[mqtt]\nurl = \"mqtts://x\"\ncert_file = {cert:?}\n\
             key = {{ credential = \"lwm2mqtt.mqtt-key\" }}\n"
        ),
    );
    for (missing, severity) in [
        (Missing::Error, Severity::Error),
        (Missing::Warning, Severity::Warning),
    ] {
        for credentials in [None, Some(("CREDENTIALS_DIRECTORY", "/nonexistent"))] {
            let loaded = Config::load_from(&Sources {
                unreadable_secrets: missing,
                ..sources(Some(file.clone()), credentials.as_slice())
            });
            assert_eq!(codes(&loaded), ["unreadable-secret 4:1"]);
            assert_eq!(loaded.diagnostics[0].severity, severity);
        }
    }
}

#[test]
fn reply_topics_are_topic_filters() {
    let folder = Folder::new("filters");
    let found = found_in(
        &folder,
        "reply_topics = [\"app/+/in\", \"tools/#\", \"#\"]\n",
    );
    assert_eq!(found, []);
    for filter in ["", "a+/b", "a/#/b", "#a", "$SYS/#", "a\\u0001"] {
        let found = found_in(&folder, &format!("reply_topics = [\"{filter}\"]\n"));
        assert_eq!(found.len(), 1, "{filter}");
        assert_eq!(found[0].code, "bad-topic", "{filter}");
    }
    let file = folder.write(
        "main.toml",
        "[mqtt]\nreply_topics = [\"app/#\"]\n[homeassistant]\nprefix = \"ha\"\n",
    );
    let loaded = Config::load_from(&sources(Some(file), &[]));
    assert_eq!(codes(&loaded), [""; 0]);
    let config = loaded.config.unwrap();
    assert_eq!(config.mqtt.reply_topics, ["app/#"]);
    assert_eq!(config.homeassistant.prefix, "ha");
}

#[test]
fn the_wait_for_an_acknowledgement_has_bounds() {
    let wait = |text| with_variables(&[("LWM2MQTT__DEVICES__ACK_TIMEOUT", text)]);
    let slow = wait("10s").config.unwrap();
    assert_eq!(slow.devices.ack_timeout, Duration::from_secs(10));
    for text in ["10ms", "2m"] {
        assert!(wait(text).config.is_none(), "{text}");
    }
}
