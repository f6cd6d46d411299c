//! Reading on after a syntax error.
//!
//! The TOML parser recovers by itself, but one unclosed bracket then swallows the rest of the file
//! and is reported a dozen times. Here the statement with the first error is blanked out and the
//! text is read again, so that each broken statement is named once and the rest is still checked.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue, Error};

/// Broken statements sought in one file; more help nobody, and each costs a pass over the file.
const MAX_SYNTAX_ERRORS: usize = 50;

/// A syntax error.
pub(super) struct Broken {
    /// Where the parser noticed.
    pub(super) span: Range<usize>,
    /// The lines of the broken statement.
    pub(super) lines: Range<usize>,
    /// What the parser said.
    pub(super) message: String,
}

/// The text with every broken statement replaced by spaces, and the errors in their order.
///
/// Lengths and line ends are kept, so that spans hold for both texts. The result always parses.
pub(super) fn blank_broken_statements(text: &str) -> (String, Vec<Broken>) {
    let mut current = text.to_owned();
    let mut broken = Vec::new();
    while broken.len() < MAX_SYNTAX_ERRORS {
        let (table, errors) = DeTable::parse_recoverable(&current);
        let Some((span, message)) = first(&current, errors) else {
            return (current, broken);
        };
        let lines = broken_lines(table.get_ref(), &current, span.start);
        current = blank(&current, &lines);
        broken.push(Broken {
            span,
            lines,
            message,
        });
    }
    (blank(text, &(0..text.len())), broken)
}

fn first(text: &str, errors: Vec<Error>) -> Option<(Range<usize>, String)> {
    errors
        .into_iter()
        .map(|error| {
            let span = error.span().unwrap_or(0..0);
            let start = boundary_before(text, span.start);
            let end = boundary_before(text, span.end).max(start);
            (start..end, error.message().to_owned())
        })
        .min_by_key(|(span, _)| span.start)
}

fn boundary_before(text: &str, offset: usize) -> usize {
    let offset = offset.min(text.len());
    (0..=offset)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0)
}

/// The lines to blank for an error at `offset`.
fn broken_lines(table: &DeTable<'_>, text: &str, offset: usize) -> Range<usize> {
    // An error at the start of an empty line, or at the end of the file, belongs to what precedes.
    let offset = text[..offset]
        .trim_end()
        .len()
        .max(line_around(text, offset).start);
    let mut line = line_around(text, offset);
    if text[line.clone()].trim().is_empty() {
        line = line_around(text, text[..offset].trim_end().len());
    }
    let mut value = line.clone();
    visit(table, &mut |span, found| {
        let spans_lines = match found {
            DeValue::Array(_) | DeValue::Table(_) => {
                text[span.clone()].starts_with(['[', '{'])
                    && !is_header(&text[line_around(text, span.start)])
            }
            DeValue::String(_) => true,
            _ => false,
        };
        if spans_lines && span.start < value.start && line.start <= span.end {
            value = span;
        }
    });
    let start = line_around(text, value.start);
    let end = if is_header(&text[start.clone()]) {
        following_lines(text, start.end)
            .find(|line| is_header(&text[line.clone()]))
            .map_or(text.len(), |line| line.start)
    } else {
        let last = line_around(text, value.end.max(line.start)).end;
        following_lines(text, start.end)
            .find(|line| is_header(&text[line.clone()]) || is_pair(&text[line.clone()]))
            .map_or(text.len(), |line| line.start)
            .min(last)
    };
    start.start..end.max(start.end)
}

fn visit(table: &DeTable<'_>, see: &mut impl FnMut(Range<usize>, &DeValue<'_>)) {
    for (_, value) in table {
        visit_value(value, see);
    }
}

fn visit_value(value: &Spanned<DeValue<'_>>, see: &mut impl FnMut(Range<usize>, &DeValue<'_>)) {
    see(value.span(), value.get_ref());
    match value.get_ref() {
        DeValue::Table(table) => visit(table, see),
        DeValue::Array(array) => array.iter().for_each(|item| visit_value(item, see)),
        _ => {}
    }
}

/// Whether a line is, or was meant as, `[table]` or `[[table]]`.
fn is_header(line: &str) -> bool {
    let inner = line.trim_start().trim_start_matches('[');
    line.trim_start().starts_with('[')
        && inner.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && !inner.contains(',')
}

/// Whether a line begins with `key =`.
fn is_pair(line: &str) -> bool {
    line.split_once('=').is_some_and(|(key, _)| {
        let key = key.trim();
        !key.is_empty()
            && key
                .chars()
                .all(|c| c.is_alphanumeric() || "_-.\"'/* ".contains(c))
    })
}

/// The line that `offset` is on, with its end.
pub(super) fn line_around(text: &str, offset: usize) -> Range<usize> {
    let start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
    let end = text[offset..]
        .find('\n')
        .map_or(text.len(), |at| offset + at + 1);
    start..end
}

fn following_lines(text: &str, mut from: usize) -> impl Iterator<Item = Range<usize>> {
    std::iter::from_fn(move || {
        (from < text.len()).then(|| {
            let line = line_around(text, from);
            from = line.end;
            line
        })
    })
}

/// `text` with spaces for everything in `range` except line ends.
fn blank(text: &str, range: &Range<usize>) -> String {
    let spaces = text[range.clone()]
        .bytes()
        .map(|byte| {
            if matches!(byte, b'\n' | b'\r') {
                byte
            } else {
                b' '
            }
        })
        .map(char::from);
    let mut blanked = String::with_capacity(text.len());
    blanked.push_str(&text[..range.start]);
    blanked.extend(spaces);
    blanked.push_str(&text[range.end..]);
    blanked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of_errors(text: &str) -> Vec<usize> {
        let (rest, broken) = blank_broken_statements(text);
        assert_eq!(rest.len(), text.len());
        assert!(DeTable::parse(&rest).is_ok(), "{rest}");
        broken
            .iter()
            .map(|broken| 1 + text[..broken.lines.start].matches('\n').count())
            .collect()
    }

    #[test]
    fn each_broken_statement_is_named_once() {
        for (text, lines) in [
            ("", vec![]),
            ("a = 1\nb = \nc = 3", vec![2]),
            (
                "a = \"x\nb = [1, 2\nc = 3\nd = {x = 1\ne = 5",
                vec![1, 2, 4],
            ),
            ("a = [\n 1,\n x y,\n 3\n]\nb = ?", vec![1, 6]),
            ("a = 1\na = 2\n[t\nb = 1\n[u]\nb = 2 2", vec![2, 3, 6]),
            ("a = \"\"\"never\nclosed\n", vec![1]),
            ("a = [1,\n", vec![1]),
            ("x", vec![1]),
            ("\n\n]\n", vec![3]),
        ] {
            assert_eq!(lines_of_errors(text), lines, "{text}");
        }
    }

    #[test]
    fn any_cut_of_a_file_is_read_to_its_end() {
        let text =
            "[a]\nb = [1, { c = \"ü\" }]\n'd e' = \"\"\"\nx\"\"\"\n[[f]]\ng.h = 1979-05-27\n";
        for (end, _) in text.char_indices() {
            let _ = lines_of_errors(&text[..end]);
            let _ = lines_of_errors(&text[end..]);
        }
    }
}
