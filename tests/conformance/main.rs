//! Which test shows which case of conformance: `docs/conformance.md`, made from `cases.txt` and the
//! annotations in the sources, and held to them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and this one reads the sources"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const CASES: &str = include_str!("cases.txt");
const MARK: &str = "// conformance:";
const TABLE: &str = "docs/conformance.md";

/// A line of `cases.txt`.
struct Case {
    chapter: &'static str,
    id: &'static str,
    judged: &'static str,
    meaning: &'static str,
    /// What is not shown, and why.
    gap: Option<&'static str>,
}

fn cases() -> Vec<Case> {
    let mut chapter = "";
    let mut cases = Vec::new();
    for line in CASES.lines().map(str::trim) {
        if let Some(title) = line.strip_prefix("= ") {
            chapter = title;
        } else if !line.is_empty() && !line.starts_with('#') {
            let fields: Vec<_> = line.split('|').map(str::trim).collect();
            let [id, judged, meaning, gap] = fields[..] else {
                panic!("four fields: {line}");
            };
            cases.push(Case {
                chapter,
                id,
                judged,
                meaning,
                gap: Some(gap).filter(|gap| !gap.is_empty()),
            });
        }
    }
    cases
}

/// A test that says which cases it shows.
struct Shown {
    ids: Vec<String>,
    /// From the root of the repository.
    file: String,
    line: usize,
    test: String,
}

/// The annotations of one file. Each stands above a `fn`, with attributes and comments between.
fn annotations(file: &str, text: &str) -> Vec<Shown> {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(ids) = line.strip_prefix(MARK) else {
            continue;
        };
        let next = lines[index + 1..]
            .iter()
            .find(|line| !line.is_empty() && !line.starts_with("//") && !line.starts_with("#["));
        let name = next
            .and_then(|line| line.split_once("fn "))
            .and_then(|(_, rest)| rest.split(['(', '<']).next());
        found.push(Shown {
            ids: ids.split(',').map(|id| bare(id.trim())).collect(),
            file: file.to_owned(),
            line: index + 1,
            test: name
                .unwrap_or_else(|| panic!("{file}:{}: no fn follows", index + 1))
                .to_owned(),
        });
    }
    found
}

/// `1.1-int-101` is the case 101.
fn bare(id: &str) -> String {
    id.rsplit_once("int-")
        .map_or(id, |(_, number)| number)
        .to_owned()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn all_annotations() -> Vec<Shown> {
    let mut files = Vec::new();
    for folder in ["src", "tests"] {
        sources(&root().join(folder), &mut files);
    }
    files.sort();
    files
        .iter()
        .filter(|file| !file.ends_with(file!()))
        .flat_map(|file| {
            let name = file.strip_prefix(root()).unwrap().display().to_string();
            annotations(&name, &fs::read_to_string(file).unwrap())
        })
        .collect()
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
}

/// The whole document.
fn table(cases: &[Case], shown: &[Shown]) -> String {
    let mut tests: BTreeMap<&str, BTreeSet<(&str, &str)>> = BTreeMap::new();
    for it in shown {
        for id in &it.ids {
            tests.entry(id).or_default().insert((&it.file, &it.test));
        }
    }
    let count = |of: &dyn Fn(&Case) -> bool| cases.iter().filter(|case| of(case)).count();
    let shows = |case: &Case| tests.contains_key(case.id);
    let mut text = format!(
        "# Conformance\n\n\
         Made from the tests by `just conformance`; `tests/conformance` holds it to them. The cases are those of the OMA enabler test\n\
         specification for LwM2M 1.2 in our own words, then the mistakes that implementations are known for. *Judged* is whose behaviour a\n\
         case looks at: S server, B bootstrap server, C client, X codec; where it is C alone, the server has to be able to ask for it.\n\n\
         {} cases: {} shown by a test, {} not, with the reason.\n",
        cases.len(),
        count(&shows),
        count(&|case| !shows(case)),
    );
    let mut chapter = "";
    for case in cases {
        if case.chapter != chapter {
            chapter = case.chapter;
            write!(
                text,
                "\n## {chapter}\n\n| Case | Judged | What has to be seen | Shown by |\n|---|---|---|---|\n"
            )
            .unwrap();
        }
        let mut cells: Vec<_> = tests.get(case.id).map_or_else(Vec::new, |tests| {
            let link = |(file, test): &(&str, &str)| format!("[{test}](../{file})");
            tests.iter().map(link).collect()
        });
        cells.extend(case.gap.map(|gap| format!("*{gap}*")));
        let cells = cells.join("<br>");
        writeln!(
            text,
            "| {} | {} | {} | {cells} |",
            case.id, case.judged, case.meaning
        )
        .unwrap();
    }
    text
}

#[test]
fn every_annotation_names_a_case_and_stands_above_a_test() {
    let known: BTreeSet<_> = cases().iter().map(|case| case.id).collect();
    for shown in all_annotations() {
        for id in &shown.ids {
            let Shown { file, line, .. } = &shown;
            assert!(
                known.contains(id.as_str()),
                "{file}:{line}: no case {id:?} in tests/conformance/cases.txt"
            );
        }
    }
}

#[test]
fn every_case_has_a_test_or_a_reason() {
    let shown = all_annotations();
    let is_shown = |case: &Case| shown.iter().any(|it| it.ids.iter().any(|id| id == case.id));
    let cases = cases();
    let open: Vec<_> = cases
        .iter()
        .filter(|case| case.gap.is_none() && !is_shown(case))
        .map(|case| case.id)
        .collect();
    assert!(open.is_empty(), "neither a test nor a reason: {open:?}");
}

#[test]
fn no_case_is_listed_twice() {
    let mut seen = BTreeSet::new();
    for case in cases() {
        assert!(seen.insert(case.id), "{} stands twice", case.id);
        assert!(!case.chapter.is_empty() && !case.judged.is_empty() && !case.meaning.is_empty());
    }
}

/// `LWM2MQTT_BLESS=1` writes the document instead.
#[test]
fn the_document_is_what_the_tests_say() {
    let made = table(&cases(), &all_annotations());
    let path = root().join(TABLE);
    if std::env::var_os("LWM2MQTT_BLESS").is_some() {
        return fs::write(path, made).unwrap();
    }
    let stands = fs::read_to_string(path).unwrap();
    assert!(
        stands == made,
        "{TABLE} is not up to date: just conformance"
    );
}

#[test]
fn an_annotation_is_found_above_attributes_and_belongs_to_the_next_fn() {
    let text = format!(
        "{MARK} 1.1-int-101, P1\n#[test]\n// why\nfn a_b() {{}}\n    {MARK} 105\n    async fn c<T>() {{}}\n"
    );
    let found = annotations("x.rs", &text);
    let seen: Vec<_> = found
        .iter()
        .map(|it| (it.test.as_str(), it.ids.join(" ")))
        .collect();
    assert_eq!(
        seen,
        [("a_b", "101 P1".to_owned()), ("c", "105".to_owned())]
    );
}
