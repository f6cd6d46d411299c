//! Which test shows which case of conformance, and which answers what users wish:
//! `docs/conformance.md` and `docs/wishes.md`, made from `cases.txt` and `wishes.txt` and the
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

/// A list of cases, and the document that says which test shows which.
struct List {
    /// What begins the comment above a test.
    mark: &'static str,
    source: &'static str,
    cases: &'static str,
    document: &'static str,
    /// What stands above the count.
    preface: &'static str,
    /// What the first three columns are called.
    columns: [&'static str; 3],
}

const LISTS: [List; 2] = [
    List {
        mark: "// conformance:",
        source: "tests/conformance/cases.txt",
        cases: include_str!("cases.txt"),
        document: "docs/conformance.md",
        preface: "# Conformance\n\n\
            Made from the tests by `just conformance`; `tests/conformance` holds it to them. The cases are those of the OMA enabler test\n\
            specification for LwM2M 1.2 in our own words, then the mistakes that implementations are known for. *Judged* is whose behaviour a\n\
            case looks at: S server, B bootstrap server, C client, X codec; where it is C alone, the server has to be able to ask for it.\n",
        columns: ["Case", "Judged", "What has to be seen"],
    },
    List {
        mark: "// wish:",
        source: "tests/conformance/wishes.txt",
        cases: include_str!("wishes.txt"),
        document: "docs/wishes.md",
        preface: "# What users wish\n\n\
            Complaints that stand in the trackers of servers, bridges and gateways of this kind, and what this one does about each. Made from\n\
            the tests by `just conformance`, as `docs/conformance.md` is.\n",
        columns: ["#", "What they say", "The answer"],
    },
];

/// A line of a list.
struct Case {
    chapter: &'static str,
    id: &'static str,
    second: &'static str,
    third: &'static str,
    /// What is not shown, and why.
    gap: Option<&'static str>,
}

fn cases(list: &List) -> Vec<Case> {
    let mut chapter = "";
    let mut cases = Vec::new();
    for line in list.cases.lines().map(str::trim) {
        if let Some(title) = line.strip_prefix("= ") {
            chapter = title;
        } else if !line.is_empty() && !line.starts_with('#') {
            let fields: Vec<_> = line.split('|').map(str::trim).collect();
            let [id, second, third, gap] = fields[..] else {
                panic!("four fields: {line}");
            };
            cases.push(Case {
                chapter,
                id,
                second,
                third,
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
fn annotations(mark: &str, file: &str, text: &str) -> Vec<Shown> {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(ids) = line.strip_prefix(mark) else {
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

fn all_annotations(list: &List) -> Vec<Shown> {
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
            annotations(list.mark, &name, &fs::read_to_string(file).unwrap())
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
fn table(list: &List, cases: &[Case], shown: &[Shown]) -> String {
    let mut tests: BTreeMap<&str, BTreeSet<(&str, &str)>> = BTreeMap::new();
    for it in shown {
        for id in &it.ids {
            tests.entry(id).or_default().insert((&it.file, &it.test));
        }
    }
    let all = cases.len();
    let shown = cases.iter().filter(|case| tests.contains_key(case.id));
    let shown = shown.count();
    let mut text = format!(
        "{}\n{all} cases: {shown} shown by a test, {} not, with the reason.\n",
        list.preface,
        all - shown,
    );
    let [first, second, third] = list.columns;
    let mut chapter = "";
    for case in cases {
        if case.chapter != chapter {
            chapter = case.chapter;
            write!(
                text,
                "\n## {chapter}\n\n| {first} | {second} | {third} | Shown by |\n|---|---|---|---|\n"
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
            case.id, case.second, case.third
        )
        .unwrap();
    }
    text
}

#[test]
fn every_annotation_names_a_case_and_stands_above_a_test() {
    for list in &LISTS {
        let known: BTreeSet<_> = cases(list).iter().map(|case| case.id).collect();
        for shown in all_annotations(list) {
            for id in &shown.ids {
                let Shown { file, line, .. } = &shown;
                assert!(
                    known.contains(id.as_str()),
                    "{file}:{line}: no case {id:?} in {}",
                    list.source
                );
            }
        }
    }
}

#[test]
fn every_case_has_a_test_or_a_reason() {
    for list in &LISTS {
        let shown = all_annotations(list);
        let is_shown = |case: &Case| shown.iter().any(|it| it.ids.iter().any(|id| id == case.id));
        let cases = cases(list);
        let open: Vec<_> = cases
            .iter()
            .filter(|case| case.gap.is_none() && !is_shown(case))
            .map(|case| case.id)
            .collect();
        let source = list.source;
        assert!(
            open.is_empty(),
            "neither a test nor a reason: {open:?} in {source}"
        );
    }
}

#[test]
fn no_case_is_listed_twice() {
    for list in &LISTS {
        let mut seen = BTreeSet::new();
        for case in cases(list) {
            assert!(seen.insert(case.id), "{} stands twice", case.id);
            assert!(![case.chapter, case.second, case.third].contains(&""));
        }
    }
}

/// `LWM2MQTT_BLESS=1` writes the documents instead.
#[test]
fn the_documents_are_what_the_tests_say() {
    for list in &LISTS {
        let made = table(list, &cases(list), &all_annotations(list));
        let path = root().join(list.document);
        if std::env::var_os("LWM2MQTT_BLESS").is_some() {
            fs::write(path, made).unwrap();
            continue;
        }
        let stands = fs::read_to_string(path).unwrap();
        assert!(
            stands == made,
            "{} is not up to date: just conformance",
            list.document
        );
    }
}

#[test]
fn an_annotation_is_found_above_attributes_and_belongs_to_the_next_fn() {
    let text = "// mark: 1.1-int-101, P1\n#[test]\n// why\nfn a_b() {}\n    // mark: 105\n    async fn c<T>() {}\n";
    let found = annotations("// mark:", "x.rs", text);
    let seen: Vec<_> = found
        .iter()
        .map(|it| (it.test.as_str(), it.ids.join(" ")))
        .collect();
    assert_eq!(
        seen,
        [("a_b", "101 P1".to_owned()), ("c", "105".to_owned())]
    );
}
