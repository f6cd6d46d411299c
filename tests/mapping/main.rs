//! Mapping files, good and bad, and what becomes of them.
//!
//! Beside each `good/*.toml` and `bad/*.toml` stands a `.txt` with the plan and the diagnostics as
//! they are to be. After a change that is meant, `BLESS=1 cargo test --test mapping` writes them
//! anew; look at the difference before you commit it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and these read and write files"
)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path as File, PathBuf};
use std::sync::LazyLock;

use lwm2mqtt::diagnostic::Diagnostic;
use lwm2mqtt::lwm2m::{Models, Path, RegisteredObject, Version};
use lwm2mqtt::mapping::{Compiled, Destination, DeviceFacts, Plan, Profile, Source, Step};

fn folder(name: &str) -> PathBuf {
    File::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/mapping")
        .join(name)
}

/// The files of a folder with their content.
fn cases(folder: &File) -> Vec<(PathBuf, Source)> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
        .into_iter()
        .map(|path| {
            let source = Source {
                file: path.file_name().unwrap().to_string_lossy().into_owned(),
                text: fs::read_to_string(&path).unwrap(),
            };
            (path, source)
        })
        .collect()
}

fn models() -> &'static Models {
    static MODELS: LazyLock<Models> = LazyLock::new(Models::builtin);
    &MODELS
}

fn compile(source: &Source) -> Compiled {
    Plan::compile(std::slice::from_ref(source), models(), "lwm2mqtt")
}

fn render(diagnostics: &[Diagnostic]) -> String {
    diagnostics
        .iter()
        .fold(String::new(), |mut all, diagnostic| {
            let _ = writeln!(all, "{}\n", diagnostic.render(false));
            all
        })
}

/// Compares with the `.txt` beside `case`, or writes that.
fn compare(case: &File, actual: &str, failed: &mut Vec<String>) {
    let file = case.with_extension("txt");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&file, actual).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    if expected != actual {
        failed.push(format!("{} is not\n{actual}", file.display()));
    }
}

#[test]
fn bad_files_are_refused_with_every_mistake() {
    let mut failed = Vec::new();
    let cases = cases(&folder("bad"));
    assert!(cases.len() >= 40, "{} are left", cases.len());
    for (path, source) in cases {
        let compiled = compile(&source);
        assert!(compiled.plan.is_none(), "{} compiles", path.display());
        for diagnostic in &compiled.diagnostics {
            assert!(diagnostic.place.is_some(), "{diagnostic:?} is nowhere");
            assert!(!diagnostic.hint.is_empty(), "{diagnostic:?} has no hint");
        }
        compare(&path, &render(&compiled.diagnostics), &mut failed);
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn good_files_become_a_plan() {
    let mut failed = Vec::new();
    for (path, source) in cases(&folder("good")) {
        let compiled = compile(&source);
        let diagnostics = render(&compiled.diagnostics);
        let plan = compiled.plan.unwrap_or_else(|| panic!("{diagnostics}"));
        let profile = plan.profiles().next().unwrap();
        compare(
            &path,
            &format!("{}\n{diagnostics}", show(profile, &source.text)),
            &mut failed,
        );
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_mistake_begins_with_its_place() {
    for (_, source) in cases(&folder("bad")) {
        for diagnostic in compile(&source).diagnostics {
            let place = diagnostic.place.as_ref().unwrap();
            let line = source.text.lines().nth(place.line - 1).unwrap();
            assert!(place.column <= line.chars().count() + 1, "{diagnostic}");
            let start = format!(
                "{}:{}:{}: {}[",
                source.file, place.line, place.column, diagnostic.severity
            );
            assert!(diagnostic.render(false).starts_with(&start));
            assert!(!diagnostic.hint.is_empty() && !diagnostic.message.ends_with('.'));
        }
    }
}

#[test]
fn any_cut_of_a_file_is_answered_and_not_panicked_at() {
    for name in ["good", "bad"] {
        for (_, source) in cases(&folder(name)) {
            for end in (0..source.text.len()).step_by(11) {
                if let Some(cut) = source.text.get(..end) {
                    let text = cut.to_owned();
                    let file = source.file.clone();
                    for diagnostic in compile(&Source { file, text }).diagnostics {
                        diagnostic.render(true);
                    }
                }
            }
        }
    }
}

#[test]
fn shipped_files_are_sound() {
    let folder = File::new(env!("CARGO_MANIFEST_DIR")).join("mappings");
    let sources: Vec<Source> = cases(&folder)
        .into_iter()
        .map(|(_, source)| source)
        .collect();
    let compiled = Plan::compile(&sources, models(), "lwm2mqtt");
    assert_eq!(render(&compiled.diagnostics), "");
    // Installing the package must not change a single topic.
    let plan = compiled.plan.unwrap();
    let facts = DeviceFacts {
        endpoint: "dev1",
        lwm2m: Version::V1_1,
        objects: &[],
    };
    assert_eq!(plan.profile(&facts).id(), None);
}

/// What a profile answers for the device and paths that the head of its file names.
fn show(profile: &Profile, text: &str) -> String {
    let head = |word: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(word));
        line.unwrap().split_whitespace().collect::<Vec<_>>()
    };
    let device = head("# device:");
    let objects: Vec<RegisteredObject> = device[2..]
        .iter()
        .map(|object| {
            let (id, instances) = object.split_once(':').unwrap();
            RegisteredObject {
                id: id.parse().unwrap(),
                version: None,
                instances: instances.split(',').map(|id| id.parse().unwrap()).collect(),
            }
        })
        .collect();
    let facts = DeviceFacts {
        endpoint: device[0],
        lwm2m: device[1].parse().unwrap(),
        objects: &objects,
    };
    let models = models();
    let name = profile.device_name(&facts);
    let mut out = format!("profile  {}\ndevice   {name}\n", profile.id().unwrap());
    for desired in profile.observations(&facts, models) {
        let _ = write!(
            out,
            "observe  {} {}",
            desired.path,
            desired.attributes.to_queries().join(" ")
        );
        out.truncate(out.trim_end().len());
        for attribute in desired.dropped {
            let _ = write!(out, " ({attribute} dropped)");
        }
        out.push('\n');
    }
    for path in head("# paths:") {
        let path: Path = path.parse().unwrap();
        let (word, signal) = match profile.signal(&name, &facts, &path, models) {
            Destination::Signal(signal) => ("signal ", signal),
            Destination::Raw(signal) => ("raw    ", signal),
            Destination::Count => {
                let _ = writeln!(out, "count    {path}");
                continue;
            }
            Destination::Drop => {
                let _ = writeln!(out, "drop     {path}");
                continue;
            }
        };
        let _ = writeln!(
            out,
            "{word}  {path} {} {} {:?} {} qos {}{}{}{}{}",
            signal.topic,
            signal.kind.name(),
            signal.format,
            signal
                .data_type
                .map_or("?".into(), |data_type| format!("{data_type:?}")),
            signal.qos,
            if signal.retain { " retained" } else { "" },
            signal
                .unit
                .map_or(String::new(), |unit| format!(" in {unit}")),
            signal
                .transform
                .map_or(String::new(), |transform| match transform.shows() {
                    Some(shown) => format!(" as {shown}"),
                    None => " transformed".to_owned(),
                }),
            signal.history.map_or(String::new(), |history| format!(
                ", samples to {}",
                history.topic
            )),
        );
        if word.trim() == "signal" {
            let back = profile.path_of(&facts, &signal.instance, &signal.name, models);
            assert_eq!(back, Some(path), "{}/{}", signal.instance, signal.name);
        }
    }
    for (name, command) in profile.commands() {
        let _ = write!(out, "command  {name}");
        for (parameter, rule) in &command.parameters {
            let _ = write!(out, " {parameter}:{}", rule.type_name());
        }
        let atomic = if command.atomic { " at once" } else { "" };
        let steps: Vec<String> = command
            .steps
            .iter()
            .map(|step| match step {
                Step::Write { path, .. } => format!("writes {path}"),
                Step::Execute { path, .. } => format!("executes {path}"),
                Step::Read(path) => format!("reads {path}"),
                Step::Wait { path, timeout, .. } => format!("waits {timeout:?} for {path}"),
            })
            .collect();
        let _ = writeln!(out, " {}{atomic}", steps.join(", "));
    }
    out
}
