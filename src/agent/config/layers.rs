//! The sources of the configuration, one laid over the other: file, drop-ins, environment, flags.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::files::in_folder;
use super::sections::{self, Draft};
use super::{Config, DEFAULT_FILE, Join, Loaded};
use crate::agent::mqtt::{Address, Part};
use crate::diagnostic::{Diagnostic, Reader, Severity};

/// Variables of the environment that are configuration begin with it.
const PREFIX: &str = "LWM2MQTT__";

/// Keys whose values are never shown.
const SECRET_KEYS: [&str; 2] = ["password", "key"];

/// What a configuration is loaded from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The file that was asked for; it must be there.
    pub file: Option<PathBuf>,
    /// The file to take else; it may be absent.
    pub default_file: PathBuf,
    /// Variables; others than `LWM2MQTT__…` and `CREDENTIALS_DIRECTORY` are ignored.
    pub environment: Vec<(String, String)>,
    /// Given on the command line; they count last.
    pub overrides: Vec<Override>,
    /// What a secret that cannot be read is.
    pub unreadable_secrets: Missing,
}

/// One key set on the command line.
#[derive(Clone, Debug)]
pub struct Override {
    /// The flag, for diagnostics.
    pub flag: String,
    /// The key, `mqtt.url`.
    pub key: String,
    /// A TOML value, or a text.
    pub value: String,
}

/// What to make of something that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// An error: it is needed now.
    Error,
    /// A warning: it may be there where the configuration will be used.
    Warning,
}

impl Sources {
    /// `file` or the default one, and the environment of this process.
    pub fn of_process(file: Option<&Path>) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self {
            file: file.map(Path::to_owned),
            default_file: PathBuf::from(DEFAULT_FILE),
            environment,
            overrides: Vec::new(),
            unreadable_secrets: Missing::Error,
        }
    }
}

/// The layers read so far.
#[derive(Default)]
struct Layers {
    draft: Draft,
    diagnostics: Vec<Diagnostic>,
    files: Vec<PathBuf>,
}

pub(super) fn load(sources: &Sources) -> Loaded {
    let mut layers = Layers::default();
    let main = sources.file.as_deref().unwrap_or(&sources.default_file);
    layers.read_file(main, sources.file.is_some());
    layers.read_folder(&main.parent().unwrap_or(Path::new("")).join("conf.d"));
    let mut variables: Vec<&(String, String)> = sources
        .environment
        .iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    variables.sort();
    for (name, value) in variables {
        let key = name[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
        layers.set(name, &key, value);
    }
    for Override { flag, key, value } in &sources.overrides {
        layers.set(flag, key, value);
    }
    layers.resolve_secrets(sources);
    let sound = !layers.diagnostics.iter().any(Diagnostic::is_error);
    if sound {
        layers.warn(main);
    }
    Loaded {
        config: sound.then(|| layers.draft.config.clone()),
        partial: layers.draft.config,
        diagnostics: layers.diagnostics,
        files: layers.files,
    }
}

impl Layers {
    fn read_file(&mut self, file: &Path, needed: bool) {
        match std::fs::read_to_string(file) {
            Ok(text) => {
                self.files.push(file.to_owned());
                let name = file.display().to_string();
                self.read(Reader::new(name, text, &SECRET_KEYS));
            }
            Err(error) if error.kind() == ErrorKind::NotFound && !needed => {}
            Err(error) => self.diagnostics.push(unreadable(file, &error)),
        }
    }

    /// Reads `*.toml` of a folder in the order of their names; it may be absent.
    fn read_folder(&mut self, folder: &Path) {
        let files = match in_folder(folder, "toml") {
            Ok(files) => files,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => return self.diagnostics.push(unreadable(folder, &error)),
        };
        for file in files {
            self.read_file(&file, true);
        }
    }

    fn read(&mut self, reader: Reader) {
        let document = reader.document();
        sections::read(reader.root(&document), &mut self.draft);
        drop(document);
        self.diagnostics.extend(reader.finish());
    }

    /// Sets one key from a variable or a flag: to the TOML value that the text is, or else to the
    /// text itself.
    fn set(&mut self, name: &str, key: &str, value: &str) {
        let bare = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if !key.split('.').all(bare) {
            self.diagnostics.push(Diagnostic::whole(
                Severity::Error,
                "unknown-key",
                name,
                "this names no key of the configuration",
                format!(
                    "write section and key with two underscores between them: {PREFIX}MQTT__URL"
                ),
            ));
            return;
        }
        let quoted = format!("{key} = {}", toml::Value::String(value.to_owned()));
        let as_text = || Reader::unlocated(name, quoted.as_str());
        let reader = match DeValue::parse(value) {
            Err(_) => as_text(),
            Ok(parsed) => {
                let as_value = || Reader::unlocated(name, format!("{key} = {value}"));
                let structured = matches!(parsed.get_ref(), DeValue::Array(_) | DeValue::Table(_));
                if is_sound(as_value()) || (structured && !is_sound(as_text())) {
                    as_value()
                } else {
                    as_text()
                }
            }
        };
        self.read(reader);
    }

    fn resolve_secrets(&mut self, sources: &Sources) {
        let credentials = sources
            .environment
            .iter()
            .find(|(name, _)| name == "CREDENTIALS_DIRECTORY")
            .map(|(_, folder)| Path::new(folder));
        let Config { mqtt, devices, .. } = &mut self.draft.config;
        let password = self.draft.password.take();
        let key = self.draft.key.take();
        let devices_key = self.draft.devices_key.take();
        let failures = [
            password.and_then(|source| {
                let resolved = source.resolve(credentials);
                resolved.map(|secret| mqtt.password = Some(secret)).err()
            }),
            key.and_then(|source| {
                let located = source.locate(credentials);
                located.map(|key| mqtt.tls.key = Some(key)).err()
            }),
            devices_key.and_then(|source| {
                let resolved = source.resolve(credentials);
                resolved.map(|secret| devices.key = Some(secret)).err()
            }),
        ];
        let key_is_missing = failures[1].is_some();
        for mut failure in failures.into_iter().flatten() {
            if sources.unreadable_secrets == Missing::Warning {
                failure.severity = Severity::Warning;
            }
            self.diagnostics.push(*failure);
        }
        self.check_tls(sources, key_is_missing);
    }

    /// Checks the files for TLS to the broker, each mistake where the file is named.
    fn check_tls(&mut self, sources: &Sources, key_is_missing: bool) {
        let Draft {
            config,
            ca_file_at,
            cert_file_at,
            key_at,
            ..
        } = &self.draft;
        let mut tls = config.mqtt.tls.clone();
        if key_is_missing {
            // Said already; without the key its certificate cannot be checked.
            tls.cert_file = None;
        }
        for problem in tls.problems() {
            let at = match problem.part {
                Part::Authorities => ca_file_at,
                Part::Certificate => cert_file_at,
                Part::Key => key_at,
            };
            let elsewhere = problem.unreadable && problem.part == Part::Key;
            let severity = if elsewhere && sources.unreadable_secrets == Missing::Warning {
                Severity::Warning
            } else {
                Severity::Error
            };
            self.diagnostics.extend(at.clone().map(|at| Diagnostic {
                severity,
                code: if elsewhere {
                    "unreadable-secret"
                } else {
                    "bad-certificate"
                },
                message: problem.message,
                hint: problem.hint,
                ..at
            }));
        }
        let secure = config
            .mqtt
            .url
            .parse::<Address>()
            .map_or(true, |address| address.transport.is_secure());
        if secure {
            return;
        }
        for at in [ca_file_at, cert_file_at, key_at].into_iter().flatten() {
            self.diagnostics.push(Diagnostic {
                severity: Severity::Warning,
                code: "unused-key",
                message: format!(
                    "this has no effect, because the connection to {} is not secured",
                    config.mqtt.url
                ),
                hint: "write `mqtts://` or `wss://` at the beginning of [mqtt] url".to_owned(),
                ..at.clone()
            });
        }
    }

    /// Says what the configuration as a whole means and its author may not expect.
    fn warn(&mut self, main: &Path) {
        let Draft { config, join, .. } = &mut self.draft;
        if config.mqtt.password.is_some() && config.mqtt.username.is_none() {
            self.diagnostics.push(Diagnostic::whole(
                Severity::Warning,
                "missing-username",
                main.display().to_string(),
                "a password without `username` is not sent to the broker",
                "add `username` under [mqtt], or remove `password`",
            ));
        }
        let devices = &config.devices;
        if devices.coap.is_empty() && devices.coaps.is_empty() {
            self.diagnostics.push(Diagnostic::whole(
                Severity::Warning,
                "no-listener",
                main.display().to_string(),
                "no device can reach the gateway: [devices] coap and coaps are empty",
                "write `coaps = [\"[::]:5684\"]` under [devices]; to try it on this host, `coap = [\"127.0.0.1:5683\"]`",
            ));
        }
        if devices.join == Join::Open
            && let Some(place) = join.take()
        {
            self.diagnostics.push(Diagnostic {
                severity: Severity::Warning,
                code: "open-join",
                message: "anyone whom the transport lets in may register, under any name that has no credential".to_owned(),
                hint: "let only a trusted network reach the addresses in `coap`, with `coap_from`"
                    .to_owned(),
                ..place
            });
        }
    }
}

/// Whether a layer can be read without an error.
fn is_sound(reader: Reader) -> bool {
    let document = reader.document();
    sections::read(reader.root(&document), &mut Draft::default());
    drop(document);
    !reader.finish().iter().any(Diagnostic::is_error)
}

/// A file or folder that cannot be read.
pub(in crate::agent) fn unreadable(path: &Path, error: &std::io::Error) -> Diagnostic {
    let hint = match error.kind() {
        ErrorKind::NotFound => {
            "check the path; `lwm2mqtt generate config` prints a file to begin with"
        }
        ErrorKind::PermissionDenied => "check who may read it",
        ErrorKind::InvalidData => "write it in UTF-8",
        ErrorKind::FileTooLarge => "divide it into several files",
        _ => "check the path",
    };
    Diagnostic::whole(
        Severity::Error,
        "unreadable",
        path.display().to_string(),
        format!("cannot be read: {error}"),
        hint,
    )
}
