//! Loading a configuration.

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
    assert_eq!(loaded.diagnostics[0].code, "no-listener");
    assert_eq!(loaded.diagnostics.len(), 1);
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
    assert_eq!(defaults, 23);
}

#[test]
fn the_examples_of_the_generated_file_are_sound() {
    let folder = Folder::new("examples");
    let text: Vec<&str> = template()
        .lines()
        .filter_map(|line| {
            let example = line.strip_prefix("# ")?;
            let is_example = example.starts_with("[[")
                || example
                    .split_once(" = ")
                    .is_some_and(|(key, _)| !key.contains(' '));
            // The section of an example is the last one before it.
            is_example.then_some(example)
        })
        .collect();
    let mut sections = String::from("[gateway]\n");
    for line in text {
        match line.split(' ').next() {
            Some("client_id") => sections.push_str("[mqtt]\n"),
            Some("lifetime_max") => sections.push_str("[devices]\n"),
            Some("http") => sections.push_str("[admin]\n"),
            _ => {}
        }
        sections.push_str(line);
        sections.push('\n');
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
        "[mqtt]\nurl = \"mqtts://broker:8883\"\n[homeassistant]\ndiscovery = true\n[[upstream]]\nuri = \"coap://x\"\n",
    );
    let loaded = Config::load_from(&sources(Some(file), &[]));
    assert_eq!(
        codes(&loaded),
        ["not-built 2:1", "not-built 4:1", "not-built 5:3"]
    );
    let config = loaded.config.unwrap();
    // The run refuses this one, instead of connecting in clear.
    assert!(
        config
            .mqtt
            .url
            .parse::<crate::agent::mqtt::Address>()
            .is_err()
    );
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
        assert_eq!(config.mqtt.password.as_ref().unwrap().expose(), "hunter2");
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
