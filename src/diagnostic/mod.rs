//! Mistakes in a file that a person wrote: where, what, and what to do about it.
//!
//! [`Reader`] parses one TOML text and walks it with [`Table`] and [`Item`]; every mistake is
//! collected with its place, never the first one only. Configuration and mappings share it.

mod reader;
mod recover;
mod table;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

pub use reader::{At, Document, Reader};
pub use table::{Item, Table};

/// A file that a person wrote.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its path, for diagnostics; two files are of one folder when what stands before the last `/`
    /// is the same.
    pub file: String,
    /// Its content.
    pub text: String,
}

/// Bytes of source shown of one mistake at most: a line may be long, and so may what stands between
/// a key and its value.
const MAX_EXCERPT: usize = 2_000;

/// Whether a mistake stops what it was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// It can be used, but perhaps does not do what its author believes.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One mistake.
///
/// Shown as the line `FILE:LINE:COLUMN: error[CODE]: message`; [`Diagnostic::render`] adds the
/// source line and the hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether it stops anything.
    pub severity: Severity,
    /// A short, stable name of the kind of mistake, such as `unknown-key`.
    pub code: &'static str,
    /// The file, or the environment variable or flag that holds the mistake.
    pub file: Arc<str>,
    /// Where in the file; `None` for the file as a whole, a variable or a flag.
    pub place: Option<Place>,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// A place in a file, with the piece of source that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The bytes of the file that are wrong.
    pub span: Range<usize>,
    /// What to show of the file; absent where it could show a secret.
    excerpt: Option<Excerpt>,
}

/// Whole source lines, and what to underline in them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    text: String,
    first_line: usize,
    /// The mistake itself, in bytes of `text`.
    wrong: Range<usize>,
    /// The key that it belongs to.
    key: Option<Range<usize>>,
}

impl Diagnostic {
    /// A mistake of a whole file, a variable or a flag.
    pub fn whole(
        severity: Severity,
        code: &'static str,
        file: impl Into<Arc<str>>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            code,
            file: file.into(),
            place: None,
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// A mistake at a line and column, both from 1, of a text that is not TOML.
    pub fn at(
        severity: Severity,
        code: &'static str,
        file: impl Into<Arc<str>>,
        text: &str,
        (line, column): (usize, usize),
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let start: usize = text
            .split_inclusive('\n')
            .take(line.saturating_sub(1))
            .map(str::len)
            .sum();
        let shown = text[start..].lines().next().unwrap_or_default();
        let from = shown
            .char_indices()
            .nth(column.saturating_sub(1))
            .map_or(shown.len(), |(at, _)| at);
        let until = shown[from..]
            .chars()
            .next()
            .map_or(from, |c| from + c.len_utf8());
        Self {
            place: Some(Place {
                line,
                column,
                span: start + from..start + until,
                excerpt: (shown.len() <= MAX_EXCERPT).then(|| Excerpt {
                    text: shown.to_owned(),
                    first_line: line,
                    wrong: from..until,
                    key: None,
                }),
            }),
            ..Self::whole(severity, code, file, message, hint)
        }
    }

    /// The same without the source line, which may hold a secret.
    pub fn unquoted(mut self) -> Self {
        if let Some(place) = &mut self.place {
            place.excerpt = None;
        }
        self
    }

    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The line of [`Display`](fmt::Display), the source underlined, and the hint.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        }
        .decor_style(DecorStyle::Ascii);
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let Some(excerpt) = self.place.as_ref().and_then(|place| place.excerpt.as_ref()) else {
            return format!("{self}\n  = help: {}", self.hint);
        };
        let mut snippet = Snippet::source(excerpt.text.as_str())
            .line_start(excerpt.first_line)
            .annotation(AnnotationKind::Primary.span(excerpt.wrong.clone()));
        if let Some(key) = &excerpt.key {
            snippet = snippet.annotation(AnnotationKind::Context.span(key.clone()));
        }
        let group = Group::with_level(level)
            .element(snippet)
            .element(Level::HELP.message(self.hint.as_str()));
        format!("{self}\n{}", renderer.render(&[group]))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(place) = &self.place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        write!(f, ": {}[{}]: {}", self.severity, self.code, self.message)
    }
}

/// The one of `known` that `word` was probably meant to be.
///
/// At most a third of the letters may differ; a swap of two counts as one, and `-` and `_` are the
/// same.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let fold = |text: &str| text.to_lowercase().replace('_', "-");
    let word = fold(word);
    let allowed = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&word, &fold(candidate)), candidate))
        .filter(|&(distance, candidate)| distance <= allowed && distance < candidate.len())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// "did you mean `x`?" where something is near, else the list of what there is.
pub fn suggestion(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => format!("known here: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_key() {
        let known = ["pmin", "pmax", "epmin", "con"];
        for (word, meant) in [
            ("pmxa", Some("pmax")),
            ("p_max", Some("pmax")),
            ("PMIN", Some("pmin")),
            ("cno", Some("con")),
            ("temperature", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }

    #[test]
    fn a_mistake_without_a_place_is_named_by_its_file() {
        let diagnostic = Diagnostic::whole(
            Severity::Warning,
            "open-join",
            "LWM2MQTT__DEVICES__JOIN",
            "anyone may register",
            "use \"known\"",
        );
        assert_eq!(
            diagnostic.render(false),
            "LWM2MQTT__DEVICES__JOIN: warning[open-join]: anyone may register\n  = help: use \"known\""
        );
    }
}
