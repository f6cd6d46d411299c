//! A TOML text walked with the place of every key, and every mistake collected.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::DeTable;

use super::recover::{self, line_around};
use super::table::Table;
use super::{Diagnostic, Excerpt, MAX_EXCERPT, Place, Severity, nearest};

/// A text taken apart, to be walked by [`Reader::root`].
pub type Document<'a> = Spanned<DeTable<'a>>;

/// One text, and the mistakes found in it so far.
pub struct Reader {
    file: Arc<str>,
    text: String,
    /// The text without its broken statements: it parses, and spans hold for both.
    sound: String,
    broken: Vec<Range<usize>>,
    /// Where each line begins: a file of devices has many thousand, each with a place of its own.
    lines: Vec<usize>,
    /// Whether places in the text mean anything to the reader of the diagnostics.
    located: bool,
    /// Keys whose value is a secret; none where the text holds no secrets.
    secret_keys: Vec<String>,
    found: RefCell<Found>,
}

#[derive(Default)]
struct Found {
    diagnostics: Vec<Diagnostic>,
    secrets: Vec<Range<usize>>,
}

/// What a diagnostic points at.
#[derive(Clone, Debug)]
pub struct At {
    /// The key: it gives line and column.
    pub(super) key: Range<usize>,
    /// What is underlined.
    pub(super) wrong: Range<usize>,
}

impl At {
    /// The first byte of the key.
    pub fn start(&self) -> usize {
        self.key.start
    }
}

impl Reader {
    /// Reads `text`, the content of `file`. Syntax errors are among the mistakes.
    ///
    /// `secret_keys` name keys whose value must never be shown: a broken line that mentions one is
    /// not quoted.
    pub fn new(file: impl Into<Arc<str>>, text: impl Into<String>, secret_keys: &[&str]) -> Self {
        Self::read(file.into(), text.into(), secret_keys, true)
    }

    /// Reads a text that stands in no file, such as the value of an environment variable; its
    /// mistakes carry `name` and no place.
    pub fn unlocated(name: impl Into<Arc<str>>, text: impl Into<String>) -> Self {
        Self::read(name.into(), text.into(), &[], false)
    }

    fn read(file: Arc<str>, text: String, secret_keys: &[&str], located: bool) -> Self {
        let (sound, broken) = recover::blank_broken_statements(&text);
        let reader = Self {
            file,
            lines: [0]
                .into_iter()
                .chain(text.match_indices('\n').map(|(at, _)| at + 1))
                .collect(),
            text,
            sound,
            broken: broken.iter().map(|broken| broken.lines.clone()).collect(),
            located,
            secret_keys: secret_keys.iter().map(ToString::to_string).collect(),
            found: RefCell::default(),
        };
        for broken in broken {
            let lines = &reader.text[broken.lines.clone()];
            if reader.is_telling(lines, Some(lines)) {
                reader.hide(broken.lines.clone());
            }
            let at = At {
                key: broken.span.clone(),
                wrong: broken.span.clone(),
            };
            let hint = syntax_hint(&broken.message, lines);
            reader.push(Severity::Error, "syntax", &at, broken.message, hint);
        }
        reader
    }

    /// The document without its broken statements, to be walked by [`Reader::root`].
    pub fn document(&self) -> Document<'_> {
        DeTable::parse_recoverable(&self.sound).0
    }

    /// The outermost table of a [`Reader::document`].
    pub fn root<'a>(&'a self, document: &'a Document<'a>) -> Table<'a> {
        Table::new(self, document.get_ref(), self.start(), String::new())
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The start of the text, for a mistake of the whole.
    pub fn start(&self) -> At {
        At {
            key: 0..0,
            wrong: 0..0,
        }
    }

    /// The bytes of `span`, as they were written.
    pub(super) fn written(&self, span: Range<usize>) -> &str {
        &self.text[span]
    }

    /// Whether a statement could not be parsed, so that what seems missing may stand there.
    pub fn is_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    /// Collects an error.
    pub fn error(
        &self,
        code: &'static str,
        at: &At,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push(Severity::Error, code, at, message.into(), hint.into());
    }

    /// Collects a warning.
    pub fn warning(
        &self,
        code: &'static str,
        at: &At,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push(Severity::Warning, code, at, message.into(), hint.into());
    }

    /// An error at a place of this text that is not collected: the caller knows later whether it
    /// is one.
    pub fn diagnostic(
        &self,
        code: &'static str,
        at: &At,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            code,
            file: Arc::clone(&self.file),
            place: self.located.then(|| self.place(at)),
            message: message.into(),
            hint: hint.into(),
        }
    }

    fn push(&self, severity: Severity, code: &'static str, at: &At, message: String, hint: String) {
        let diagnostic = Diagnostic {
            severity,
            ..self.diagnostic(code, at, message, hint)
        };
        self.found.borrow_mut().diagnostics.push(diagnostic);
    }

    /// Keeps these bytes out of everything that is shown.
    pub(super) fn hide(&self, span: Range<usize>) {
        self.found.borrow_mut().secrets.push(span);
    }

    /// Whether what stands at a key that is not known may be a secret: the key is one misspelt, or
    /// named after one, or the value has the form of a key.
    pub(super) fn is_telling(&self, key: &str, value: Option<&str>) -> bool {
        /// Hexadecimal digits in a row that are taken for a key.
        const DIGITS: usize = 16;
        let known: Vec<&str> = self.secret_keys.iter().map(String::as_str).collect();
        let key = key.to_ascii_lowercase();
        let named = |word: &&str| key.contains(*word);
        !known.is_empty()
            && (known.iter().chain(&["key", "pass", "secret"]).any(named)
                || nearest(&key, known.iter().copied()).is_some()
                || value.is_some_and(|value| {
                    let mut words = value.split(|c: char| !c.is_ascii_hexdigit());
                    words.any(|word| word.len() >= DIGITS)
                }))
    }

    fn place(&self, at: &At) -> Place {
        let text = &self.text;
        let line = line_around(text, at.key.start);
        Place {
            line: self.line_number(line.start),
            column: 1 + text[line.start..at.key.start].chars().count(),
            span: at.wrong.clone(),
            excerpt: self.excerpt(at, &line),
        }
    }

    /// The line, from 1, that the byte at `offset` is in.
    fn line_number(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    fn excerpt(&self, at: &At, line: &Range<usize>) -> Option<Excerpt> {
        let last = line_around(&self.text, at.wrong.start);
        // A value over several lines is underlined on its first one.
        let end = self.text[last.clone()].trim_end().len() + last.start;
        let (first, key) = if at.wrong.start < line.start || end - line.start > MAX_EXCERPT {
            (last.start, None)
        } else {
            (line.start, (at.key != at.wrong).then(|| at.key.clone()))
        };
        if end.saturating_sub(first) > MAX_EXCERPT {
            return None;
        }
        let text = self.text[first..end.max(first)].to_owned();
        let inside = |span: Range<usize>| {
            let start = span.start.saturating_sub(first).min(text.len());
            start..span.end.saturating_sub(first).clamp(start, text.len())
        };
        Some(Excerpt {
            first_line: self.line_number(first),
            wrong: inside(at.wrong.clone()),
            key: key.map(inside),
            text,
        })
    }

    /// Everything found, in the order of the text.
    pub fn finish(self) -> Vec<Diagnostic> {
        let Found {
            mut diagnostics,
            secrets,
        } = self.found.into_inner();
        for place in diagnostics.iter_mut().filter_map(|d| d.place.as_mut()) {
            let shown = place.excerpt.as_ref().map(|excerpt| {
                let start = self.lines.get(excerpt.first_line - 1).copied();
                let start = start.unwrap_or(self.text.len());
                start..start + excerpt.text.len()
            });
            let hidden = shown.is_some_and(|shown| {
                secrets
                    .iter()
                    .any(|secret| secret.start < shown.end && shown.start < secret.end)
            });
            if hidden {
                place.excerpt = None;
            }
        }
        diagnostics.sort_by_key(|d| d.place.as_ref().map(|place| (place.line, place.column)));
        diagnostics
    }
}

fn syntax_hint(message: &str, lines: &str) -> String {
    if message.contains("must be quoted") {
        "put text in double quotes".to_owned()
    } else if message.contains("duplicate key") {
        "remove or rename one of the two".to_owned()
    } else if lines.contains(['[', '{'])
        && (message.contains("comma") || message.contains("unclosed"))
    {
        "look for a missing `,`, `]` or `}` before this place".to_owned()
    } else {
        "a line is `key = value`, `[table]` or `# comment`; text stands in double quotes".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(reader: Reader) -> String {
        let rendered: Vec<String> = reader.finish().iter().map(|d| d.render(false)).collect();
        rendered.join("\n")
    }

    #[test]
    fn unknown_keys_are_named_with_the_nearest_known_one() {
        let reader = Reader::new("x.toml", "[a]\n\"lärm\" = 1\npmni = 2\n", &[]);
        let document = reader.document();
        let mut root = reader.root(&document);
        let mut table = root.take("a").unwrap().table("a", "{}").unwrap();
        assert!(table.take("pmin").is_none());
        table.finish();
        root.finish();
        drop(document);
        assert_eq!(
            render(reader),
            "x.toml:2:1: error[unknown-key]: unknown key `lärm` in [a]\n  |\n2 | \"lärm\" = 1\n  | ^^^^^^\n  |\n  = help: known here: pmin\n\
             x.toml:3:1: error[unknown-key]: unknown key `pmni` in [a]\n  |\n3 | pmni = 2\n  | ^^^^\n  |\n  = help: did you mean `pmin`?"
        );
    }

    #[test]
    fn the_place_of_a_bad_value_is_its_key_counted_in_characters() {
        let reader = Reader::new("x.toml", "a = { \"ü\" = 1, b = [\n 1,\n 2] }", &[]);
        let document = reader.document();
        let mut root = reader.root(&document);
        let mut a = root.take("a").unwrap().table("a", "{}").unwrap();
        let b = a.take("b").unwrap();
        assert!(b.boolean().is_none());
        b.list("").unwrap()[1].error("bad-value", "two", "write one");
        drop(document);
        assert_eq!(
            render(reader),
            "x.toml:1:16: error[bad-type]: `b` must be true or false, not a list\n  |\n1 | a = { \"ü\" = 1, b = [\n  |                -   ^\n  |\n  = help: write it like `b = true`\n\
             x.toml:1:16: error[bad-value]: two\n  |\n1 | a = { \"ü\" = 1, b = [\n  |                -\n2 |  1,\n3 |  2] }\n  |  ^\n  |\n  = help: write one"
        );
    }

    #[test]
    fn a_mistake_within_a_text_has_its_own_column() {
        let text = "a = \"ü x y\"\nb = 'x y'\nc = \"\\\"\\u00fc\\t x y\"\nd = \"\"\"\n\\u00fc x y\"\"\"\ne = \"\"\"\nx\ny\"\"\"\n";
        let reader = Reader::new("x.toml", text, &[]);
        let document = reader.document();
        let root = reader.root(&document);
        for item in root.entries() {
            let value = item.as_text().unwrap();
            let start = value.find('y').unwrap();
            reader.error("y", &item.at_bytes(start..start + 1), "y", "no y");
            let end = value.len();
            reader.error("end", &item.at_bytes(end..end), "end", "more");
        }
        drop(document);
        let found = reader.finish();
        let places: Vec<_> = found
            .iter()
            .map(|mistake| mistake.place.as_ref().unwrap())
            .map(|place| (place.line, place.column, &text[place.span.clone()]))
            .collect();
        assert_eq!(
            places,
            [
                (1, 10, "y"),
                (1, 11, ""),
                (2, 8, "y"),
                (2, 9, ""),
                (3, 19, "y"),
                (3, 20, ""),
                // A text over several lines with an escape in it is shown as a whole.
                (4, 1, "\"\"\"\n\\u00fc x y\"\"\""),
                (4, 1, "\"\"\"\n\\u00fc x y\"\"\""),
                (8, 1, "y"),
                (8, 2, ""),
            ]
        );
    }

    #[test]
    fn a_secret_is_never_quoted() {
        let reader = Reader::new(
            "x.toml",
            "t = { password = \"hunter2\", urk = 1 }\nkey = \"hunter2\nz = ?",
            &["password", "key"],
        );
        let document = reader.document();
        let mut root = reader.root(&document);
        let mut t = root.take("t").unwrap().table("t", "{}").unwrap();
        t.take("password").unwrap().hide();
        t.finish();
        root.finish();
        drop(document);
        let shown = render(reader);
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("x.toml:1:29: error[unknown-key]"), "{shown}");
        assert!(shown.contains("3 | z = ?"), "{shown}");
    }
}
