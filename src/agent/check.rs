//! `check`: every mistake in configuration, mappings and object files.

use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::json;
use toml::de::DeTable;

use crate::agent::cli::EXIT_CONFIG;
use crate::agent::config::{self, AttachmentFiles, Config, Missing, Sources, files};
use crate::agent::devices::{Reading, read_files};
use crate::diagnostic::{Diagnostic, Severity, Source};
use crate::lwm2m::model::Models;
use crate::mapping::Plan;
use crate::server::bootstrap::Profiles;
use crate::server::credentials::{self, Book, Policy};
use crate::time::UnixTime;

/// Sections that only a configuration has.
const CONFIGURATION: [&str; 10] = [
    "gateway",
    "mqtt",
    "devices",
    "mappings",
    "models",
    "store",
    "admin",
    "homeassistant",
    "log",
    "upstream",
];

/// Sections that only a file of devices has.
const DEVICES: [&str; 2] = ["device", "authority"];

/// What was checked, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Report {
    /// Everything found.
    pub diagnostics: Vec<Diagnostic>,
    /// How many files were read.
    pub files: usize,
}

impl Report {
    fn count(&self, severity: Severity) -> usize {
        self.diagnostics
            .iter()
            .filter(|d| d.severity == severity)
            .count()
    }
}

/// Checks `paths`, or without any the configuration with all that it names, and prints what is
/// found: for a person to standard error, or as a JSON array to standard output.
///
/// 78 when there is an error, else 0.
pub fn run(config: Option<&Path>, paths: &[PathBuf], json: bool) -> ExitCode {
    let report = if paths.is_empty() {
        check_configuration(&Sources {
            unreadable_secrets: Missing::Warning,
            ..Sources::of_process(config)
        })
    } else {
        check_paths(paths)
    };
    // Nobody listens any more when these fail; the exit code still tells.
    let _ = if json {
        print_json(&report)
    } else {
        print(&report)
    };
    match report.count(Severity::Error) {
        0 => ExitCode::SUCCESS,
        _ => EXIT_CONFIG.into(),
    }
}

/// Checks a configuration, and the object files, mappings and bootstrap profiles that it names.
pub fn check_configuration(sources: &Sources) -> Report {
    let loaded = Config::load_from(sources);
    let mut report = Report {
        diagnostics: loaded.diagnostics,
        files: loaded.files.len(),
    };
    let config = loaded.partial;
    let (models, found) = config::models(&config.models.paths);
    report.diagnostics.extend(found);
    let (sources, found) = config::toml_sources(&config.mappings.paths);
    report.diagnostics.extend(found);
    report.files += sources.len();
    let (count, found) = check_devices(&config.devices.files);
    report.diagnostics.extend(found);
    report.files += count;
    let compiled = Plan::compile(&sources, &models, &config.mqtt.base_topic);
    report.diagnostics.extend(compiled.diagnostics);
    let (sources, found) = config::toml_sources(&config.devices.bootstrap.profiles);
    report.diagnostics.extend(found);
    report.files += sources.len();
    report.diagnostics.extend(check_profiles(&sources, &models));
    report
}

/// Keys that cannot be read here may be readable where the profiles are used.
fn check_profiles(sources: &[Source], models: &Models) -> Vec<Diagnostic> {
    let attachments = AttachmentFiles::of_process(Missing::Warning);
    Profiles::compile(sources, models, &attachments).diagnostics
}

/// Checks mapping files, bootstrap profiles, object files and configuration files; of folders all that end in `.toml`
/// and `.xml`. Object files given here are known to the mappings given here.
pub fn check_paths(paths: &[PathBuf]) -> Report {
    let mut report = Report::default();
    let mut mappings = Vec::new();
    let mut models = Vec::new();
    let mut devices = Vec::new();
    for file in expand(paths, &mut report.diagnostics) {
        report.files += 1;
        if file.extension().is_some_and(|extension| extension == "xml") {
            models.push(file);
        } else if has_sections(&file, &DEVICES) {
            devices.push(file);
        } else if has_sections(&file, &CONFIGURATION) {
            let loaded = Config::load_from(&Sources {
                file: Some(file),
                environment: Vec::new(),
                unreadable_secrets: Missing::Warning,
                ..Sources::of_process(None)
            });
            report.diagnostics.extend(loaded.diagnostics);
        } else {
            mappings.push(file);
        }
    }
    report.diagnostics.extend(check_devices(&devices).1);
    let (models, found) = config::models(&models);
    report.diagnostics.extend(found);
    let (sources, found) = config::toml_sources(&mappings);
    report.diagnostics.extend(found);
    let (profiles, sources): (Vec<_>, Vec<_>) = sources.into_iter().partition(is_profile);
    report
        .diagnostics
        .extend(check_profiles(&profiles, &models));
    let base = Config::default().mqtt.base_topic;
    report
        .diagnostics
        .extend(Plan::compile(&sources, &models, &base).diagnostics);
    report
}

/// How many files of devices there are, and every mistake in and between them.
fn check_devices(paths: &[PathBuf]) -> (usize, Vec<Diagnostic>) {
    let Reading {
        files,
        mut diagnostics,
    } = read_files(paths, UnixTime::default());
    let count = files.found.len();
    let mut book = Book::new(
        Policy::default(),
        credentials::Limits::default(),
        &mut StdRng::from_seed([0; 32]),
    );
    diagnostics.extend(book.replace_files(files));
    (count, diagnostics)
}

/// The files named, and those in the folders named.
fn expand(paths: &[PathBuf], diagnostics: &mut Vec<Diagnostic>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in paths {
        let listed = if path.is_dir() {
            ["toml", "xml"].into_iter().try_for_each(|extension| {
                found.extend(files::in_folder(path, extension)?);
                Ok(())
            })
        } else {
            std::fs::metadata(path).map(|_| found.push(path.clone()))
        };
        if let Err(error) = listed {
            diagnostics.push(config::unreadable(path, &error));
        }
    }
    found
}

/// Whether a file is a bootstrap profile and not a mapping, by its tables.
fn is_profile(source: &Source) -> bool {
    let (document, _) = DeTable::parse_recoverable(&source.text);
    let has = |key| document.get_ref().contains_key(key);
    ["server", "bootstrap", "acl", "object"]
        .into_iter()
        .any(has)
}

/// Whether a file is no mapping, and has one of these sections.
fn has_sections(file: &Path, sections: &[&str]) -> bool {
    let Ok(text) = std::fs::read_to_string(file) else {
        return false;
    };
    let (document, _) = DeTable::parse_recoverable(&text);
    let has = |key: &str| document.get_ref().contains_key(key);
    // A mapping may have a `[device]`; of devices there are several.
    let is_meant = |key: &str| {
        let value = document.get_ref().get(key);
        value.is_some_and(|value| !DEVICES.contains(&key) || value.get_ref().is_array())
    };
    !has("schema") && !has("profile") && !has("signal") && sections.iter().copied().any(is_meant)
}

fn print(report: &Report) -> std::io::Result<()> {
    let mut stderr = std::io::stderr().lock();
    let colour = stderr.is_terminal();
    for diagnostic in &report.diagnostics {
        writeln!(stderr, "{}\n", diagnostic.render(colour))?;
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "{}, {} in {}",
        counted(report.count(Severity::Error), "error"),
        counted(report.count(Severity::Warning), "warning"),
        counted(report.files, "file"),
    )
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

fn print_json(report: &Report) -> std::io::Result<()> {
    let array: Vec<serde_json::Value> = report
        .diagnostics
        .iter()
        .map(|diagnostic| {
            let place = diagnostic.place.as_ref();
            json!({
                "file": &*diagnostic.file,
                "line": place.map(|place| place.line),
                "column": place.map(|place| place.column),
                "severity": diagnostic.severity.to_string(),
                "code": diagnostic.code,
                "message": diagnostic.message,
                "hint": diagnostic.hint,
            })
        })
        .collect();
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut stdout, &array)?;
    writeln!(stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    fn codes(report: &Report) -> Vec<&str> {
        report
            .diagnostics
            .iter()
            .map(|diagnostic| diagnostic.code)
            .collect()
    }

    #[test]
    fn a_mapping_with_five_mistakes_has_five_errors() {
        let report = check_paths(&[file("tests/mapping/bad/five-mistakes.toml")]);
        assert_eq!(
            codes(&report),
            [
                "version-in-path",
                "unknown-key",
                "bad-type",
                "bad-name",
                "bad-value"
            ]
        );
    }

    #[test]
    fn a_file_with_sections_of_the_configuration_is_checked_as_one() {
        let report = check_paths(&[file("src/agent/config/template.toml")]);
        assert_eq!(codes(&report), [""; 0]);
        assert_eq!(report.files, 1);
    }

    #[test]
    fn a_file_with_accounts_is_checked_as_a_bootstrap_profile() {
        let folder = std::env::temp_dir().join(format!("lwm2mqtt-profile-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let profile = folder.join("a.toml");
        let text = "schema = 1\n[profile]\nid = \"a\"\n[match]\nendpoint = \"*\"\n[[server]]\n\
                    uri = \"coaps://gw.example\"\nshort_server_id = 0\nkey = { file = \"/no/such\" }\n";
        std::fs::write(&profile, text).unwrap();
        let named = folder.join("lwm2mqtt.toml");
        let text = format!("[devices.bootstrap]\nprofiles = [{profile:?}]\n");
        std::fs::write(&named, text).unwrap();
        let alone = check_paths(std::slice::from_ref(&profile));
        let with_configuration = check_configuration(&Sources {
            file: Some(named),
            environment: Vec::new(),
            ..Sources::of_process(None)
        });
        std::fs::remove_dir_all(&folder).unwrap();
        // The key may be there where the profile is used; the number will not be another one.
        assert_eq!(codes(&alone), ["bad-server-id", "unreadable-secret"]);
        assert_eq!(alone.count(Severity::Error), 1);
        assert_eq!(codes(&with_configuration), codes(&alone));
    }

    #[test]
    fn of_a_folder_every_file_is_checked() {
        let report = check_paths(&[file("mappings"), file("no-such-folder")]);
        assert_eq!(codes(&report), ["unreadable"]);
        assert_eq!(report.files, 3);
    }

    #[test]
    fn a_configuration_is_checked_with_the_mappings_that_it_names() {
        let folder = std::env::temp_dir().join(format!("lwm2mqtt-check-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let main = folder.join("lwm2mqtt.toml");
        let text = format!(
            "[mqtt]\nurl = 5\n[mappings]\npaths = [{:?}, {:?}]\n[models]\npaths = [{:?}]\n",
            file("tests/mapping/bad/keys.toml"),
            folder.join("absent"),
            folder,
        );
        std::fs::write(&main, text).unwrap();
        std::fs::write(folder.join("bad.xml"), "<LWM2M>\n  <Object>\n").unwrap();
        let report = check_configuration(&Sources {
            file: Some(main),
            environment: Vec::new(),
            ..Sources::of_process(None)
        });
        std::fs::remove_dir_all(&folder).unwrap();
        let codes = codes(&report);
        assert_eq!(codes[..3], ["bad-type", "bad-model", "missing-key"]);
        assert_eq!(report.files, 2);
        let model = &report.diagnostics[1];
        assert!(model.place.is_some() && model.render(false).contains("bad.xml:"));
    }
}
