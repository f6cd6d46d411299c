//! Tables and values of a TOML text: what is expected of them, and what is said when it is not so.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::reader::{At, Reader};
use super::{nearest, suggestion};

/// One table of the text. Keys that nobody took are reported by [`Table::finish`].
pub struct Table<'a> {
    reader: &'a Reader,
    entries: &'a DeTable<'a>,
    at: At,
    /// For messages: `mqtt.spool`, or nothing for the root.
    name: String,
    known: Vec<&'static str>,
    elsewhere: Vec<(&'static str, String)>,
    /// Where keys are looked for that do not stand in it, the first first.
    under: Vec<Under<'a>>,
}

/// A table that another one is laid over.
struct Under<'a> {
    reader: &'a Reader,
    entries: &'a DeTable<'a>,
    /// Keys that the one above speaks of in another way.
    hidden: &'static [&'static str],
}

impl<'a> Table<'a> {
    pub(super) fn new(reader: &'a Reader, entries: &'a DeTable<'a>, at: At, name: String) -> Self {
        Self {
            reader,
            entries,
            at,
            name,
            known: Vec::new(),
            elsewhere: Vec::new(),
            under: Vec::new(),
        }
    }

    /// Lays it over `base`, below all that it lies over already: what does not stand in it is taken
    /// from there, but for the keys `hidden`. Mistakes are reported where they stand; keys of `base`
    /// that nobody knows are not.
    pub fn lay_over(&mut self, base: &Self, hidden: &'static [&'static str]) {
        self.under.push(Under {
            reader: base.reader,
            entries: base.entries,
            hidden,
        });
    }

    /// It and what it lies over, as far as they hold `key`.
    fn holding(&self, key: &str) -> impl Iterator<Item = (&'a Reader, &'a DeTable<'a>)> {
        let under = self.under.iter();
        let under = under.filter(move |under| !under.hidden.contains(&key));
        std::iter::once((self.reader, self.entries))
            .chain(under.map(|under| (under.reader, under.entries)))
            .filter(move |(_, entries)| entries.contains_key(key))
    }

    /// Where the table begins.
    pub fn at(&self) -> &At {
        &self.at
    }

    /// Where mistakes go.
    pub fn reader(&self) -> &'a Reader {
        self.reader
    }

    /// What a table at `key` is called in messages.
    pub fn name_of(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    /// Whether the key stands in it, or is taken from what it lies over.
    pub fn has(&self, key: &str) -> bool {
        self.holding(key).next().is_some()
    }

    /// Whether nothing stands in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The text that stands at `key`, and no mistake if none does: a look before it is read.
    pub fn peek_text(&self, key: &str) -> Option<&'a str> {
        self.entries.get(key)?.get_ref().as_str()
    }

    /// The value of `key`, which is known from now on.
    pub fn take(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.known.push(key);
        let (reader, entries) = self.holding(key).next()?;
        item_in(reader, entries, key)
    }

    /// The same, and after it those of the tables that it lies over.
    pub fn take_all(&mut self, key: &'static str) -> Vec<Item<'a>> {
        self.known.push(key);
        self.holding(key)
            .filter_map(|(reader, entries)| item_in(reader, entries, key))
            .collect()
    }

    /// The value of `key`, which must be there.
    pub fn require(&mut self, key: &'static str, hint: &str) -> Option<Item<'a>> {
        let item = self.take(key);
        // A misspelt one is reported by its own name.
        let misspelt = || {
            let mut words = self.entries.keys().map(|word| word.get_ref());
            words.any(|word| nearest(word, [key]).is_some())
        };
        if item.is_none() && !self.reader.is_broken() && !misspelt() {
            let inside = if self.name.is_empty() {
                "the file".to_owned()
            } else {
                format!("[{}]", self.name)
            };
            self.reader.error(
                "missing-key",
                &self.at,
                format!("{inside} needs `{key}`"),
                hint,
            );
        }
        item
    }

    /// The elements of `[[key]]`; none where there are none.
    pub fn items(&mut self, key: &'static str) -> Vec<Item<'a>> {
        let Some(item) = self.take(key) else {
            return Vec::new();
        };
        if item.is_table() {
            item.error(
                "bad-type",
                format!("there may be several of `{key}`"),
                format!("write `[[{key}]]` with two brackets"),
            );
            return Vec::new();
        }
        item.list("[{ … }]").unwrap_or_default()
    }

    /// Those of them that are tables.
    pub fn tables(&mut self, key: &'static str) -> Vec<Self> {
        self.items(key)
            .into_iter()
            .filter_map(|item| item.table(key, "{ … }"))
            .collect()
    }

    /// The `schema = 1` at the top of a file of `subject`, mappings for instance.
    pub fn schema(&mut self, subject: &str) {
        let Some(item) = self.require("schema", "begin the file with `schema = 1`") else {
            return;
        };
        if let Some(version) = item.integer(0..=i64::MAX)
            && version != 1
        {
            item.error(
                "bad-schema",
                format!("this version reads {subject} of schema 1, not {version}"),
                "write `schema = 1`",
            );
        }
    }

    /// Every entry, in the order of its keys; all are known from now on.
    ///
    /// For tables whose keys are chosen by the author.
    pub fn entries(&self) -> Vec<Item<'a>> {
        self.entries
            .iter()
            .map(|(key, value)| Item::new(self.reader, key.get_ref(), key.span(), value))
            .collect()
    }

    /// Takes keys of parts that are not built: named in a warning, their form not judged.
    pub fn not_built(&mut self, keys: &[&'static str]) {
        for &key in keys {
            if let Some(item) = self.take(key) {
                item.not_built();
            }
        }
    }

    /// Tells where a key belongs that people write here by mistake.
    pub fn belongs_elsewhere(&mut self, keys: &[&'static str], hint: &str) {
        self.elsewhere
            .extend(keys.iter().map(|&key| (key, hint.to_owned())));
    }

    /// Reports each key that nobody took, with the nearest known one.
    pub fn finish(self) {
        for (key, value) in self.entries {
            if self.known.iter().any(|known| known == key.get_ref()) {
                continue;
            }
            let word = key.get_ref().as_ref();
            let text = self.reader.written(value.span());
            if self.reader.is_telling(word, Some(text)) {
                self.reader.hide(value.span());
            }
            let hint = self
                .elsewhere
                .iter()
                .find(|(known, _)| *known == word)
                .map_or_else(|| suggestion(word, &self.known), |(_, hint)| hint.clone());
            let message = if self.name.is_empty() {
                format!("unknown key `{word}`")
            } else {
                format!("unknown key `{word}` in [{}]", self.name)
            };
            let at = At {
                key: key.span(),
                wrong: key.span(),
            };
            self.reader.error("unknown-key", &at, message, hint);
        }
    }
}

fn item_in<'a>(
    reader: &'a Reader,
    entries: &'a DeTable<'a>,
    key: &'static str,
) -> Option<Item<'a>> {
    let (name, value) = entries.get_key_value(key)?;
    Some(Item::new(reader, key, name.span(), value))
}

/// A value and the key it stands at.
#[derive(Clone, Copy)]
pub struct Item<'a> {
    reader: &'a Reader,
    key: &'a str,
    key_start: usize,
    key_end: usize,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Item<'a> {
    fn new(
        reader: &'a Reader,
        key: &'a str,
        key_span: Range<usize>,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Self {
        Self {
            reader,
            key,
            key_start: key_span.start,
            key_end: key_span.end,
            value,
        }
    }

    /// Where mistakes go.
    pub fn reader(&self) -> &'a Reader {
        self.reader
    }

    /// Its key.
    pub fn key(&self) -> &'a str {
        self.key
    }

    /// The key, with the value underlined.
    pub fn at(&self) -> At {
        At {
            key: self.key_start..self.key_end,
            wrong: self.value.span(),
        }
    }

    /// The key alone.
    pub fn at_key(&self) -> At {
        let key = self.key_start..self.key_end;
        At {
            wrong: key.clone(),
            key,
        }
    }

    /// The key, with that part of the value underlined where it stands there word for word.
    pub fn at_part(&self, part: &str) -> At {
        let value = self.value.span();
        let found = self.reader.written(value.clone()).find(part);
        let wrong = match found {
            Some(start) if !part.is_empty() => {
                value.start + start..value.start + start + part.len()
            }
            _ => value,
        };
        At {
            key: self.key_start..self.key_end,
            wrong,
        }
    }

    /// These bytes of a text, so that line and column are those of the mistake in it; the whole
    /// value where the text is not written on one line.
    pub fn at_bytes(&self, bytes: Range<usize>) -> At {
        let value = self.value.span();
        let written = self.reader.written(value.clone());
        let whole = self.at();
        let Some(text) = self.as_text() else {
            return whole;
        };
        // What is written without an escape stands there word for word.
        let place = |at| match written.find(text) {
            Some(start) => Some(start + at),
            None => written_place(written, at),
        };
        let (Some(start), Some(end)) = (place(bytes.start), place(bytes.end)) else {
            return whole;
        };
        let wrong = value.start + start..value.start + end;
        At {
            key: wrong.clone(),
            wrong,
        }
    }

    /// Collects an error at this value.
    pub fn error(&self, code: &'static str, message: impl Into<String>, hint: impl Into<String>) {
        self.reader.error(code, &self.at(), message, hint);
    }

    /// Collects a warning at this value.
    pub fn warning(&self, code: &'static str, message: impl Into<String>, hint: impl Into<String>) {
        self.reader.warning(code, &self.at(), message, hint);
    }

    /// Says that this key is known and its part not built yet.
    pub fn not_built(&self) {
        self.reader.warning(
            "not-built",
            &self.at_key(),
            format!(
                "`{}` is not built in this version and has no effect",
                self.key
            ),
            "remove it, or leave it for a later version",
        );
    }

    /// Says that a value of another type is needed.
    pub fn wrong_type(&self, expected: &str, example: &str) {
        let found = match self.value.get_ref() {
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
            DeValue::String(_) => "text",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
        };
        self.error(
            "bad-type",
            format!("`{}` must be {expected}, not {found}", self.key),
            format!("write it like `{} = {example}`", self.key),
        );
    }

    /// Keeps the value out of everything that is shown.
    pub fn hide(&self) {
        self.reader.hide(self.value.span());
    }

    /// Whether it is text, and no mistake if not.
    pub fn as_text(&self) -> Option<&'a str> {
        self.value.get_ref().as_str()
    }

    /// True or false, and no mistake if it is neither.
    pub fn as_boolean(&self) -> Option<bool> {
        self.value.get_ref().as_bool()
    }

    /// An integer, and no mistake if it is none of 64 bits.
    pub fn as_integer(&self) -> Option<i64> {
        match self.value.get_ref() {
            DeValue::Integer(integer) => integer_of(integer),
            _ => None,
        }
    }

    /// Whether it is a table, and no mistake if not.
    pub fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    /// Whether it is a list, and no mistake if not.
    pub fn is_list(&self) -> bool {
        self.value.get_ref().is_array()
    }

    /// Text.
    pub fn text(&self, example: &str) -> Option<&'a str> {
        let text = self.as_text();
        if text.is_none() {
            self.wrong_type("text", &format!("\"{example}\""));
        }
        text
    }

    /// A duration within bounds, `"30s"`, `"1h 30m"`.
    pub fn duration(&self, least: Duration, most: Duration) -> Option<Duration> {
        let text = self.text("30s")?;
        match humantime::parse_duration(text) {
            Ok(duration) if (least..=most).contains(&duration) => Some(duration),
            Ok(_) => {
                let bounds =
                    [least, most].map(|bound| humantime::format_duration(bound).to_string());
                self.error(
                    "bad-value",
                    format!("`{}` of {text} is out of range", self.key),
                    format!("write a duration from {} to {}", bounds[0], bounds[1]),
                );
                None
            }
            Err(_) => {
                self.error(
                    "bad-duration",
                    format!("`{text}` is no duration"),
                    "write a number and a unit: \"30s\", \"10m\", \"1h 30m\", \"7d\"",
                );
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        let value = self.value.get_ref().as_bool();
        if value.is_none() {
            self.wrong_type("true or false", "true");
        }
        value
    }

    /// A finite number.
    pub fn number(&self) -> Option<f64> {
        let number = match self.value.get_ref() {
            DeValue::Integer(integer) => integer_of(integer).map(|integer| integer as f64),
            DeValue::Float(float) => float.as_str().parse().ok().filter(|n: &f64| n.is_finite()),
            _ => {
                self.wrong_type("a number", "0.5");
                return None;
            }
        };
        if number.is_none() {
            self.error(
                "bad-value",
                format!("`{}` is out of range", self.key),
                "write a finite number",
            );
        }
        number
    }

    /// An integer in `range`.
    pub fn integer(&self, range: RangeInclusive<i64>) -> Option<i64> {
        let DeValue::Integer(integer) = self.value.get_ref() else {
            let example = 0.clamp(*range.start(), *range.end());
            self.wrong_type("an integer", &example.to_string());
            return None;
        };
        let integer = integer_of(integer).filter(|integer| range.contains(integer));
        if integer.is_none() {
            self.error(
                "bad-value",
                format!("`{}` is out of range", self.key),
                format!("write an integer from {} to {}", range.start(), range.end()),
            );
        }
        integer
    }

    /// One word of a closed list.
    pub fn one_of<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let word = self.text(choices.first().map_or("", |(name, _)| name))?;
        let choice = choices.iter().find(|(name, _)| *name == word);
        if choice.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.error(
                "bad-value",
                format!("`{word}` is no value of `{}`", self.key),
                suggestion(word, &names),
            );
        }
        choice.map(|(_, value)| *value)
    }

    /// A table, called `name` in messages.
    pub fn table(&self, name: impl Into<String>, example: &str) -> Option<Table<'a>> {
        let DeValue::Table(entries) = self.value.get_ref() else {
            self.wrong_type("a table", example);
            return None;
        };
        Some(Table::new(self.reader, entries, self.at_key(), name.into()))
    }

    /// The elements of a list; their mistakes are shown at the list's key, or, where an element is
    /// a `[[table]]` of its own, at that.
    pub fn list(&self, example: &str) -> Option<Vec<Item<'a>>> {
        let DeValue::Array(array) = self.value.get_ref() else {
            self.wrong_type("a list", example);
            return None;
        };
        Some(
            array
                .iter()
                .map(|value| {
                    let header = self.reader.written(value.span()).starts_with("[[");
                    let key = if header {
                        value.span()
                    } else {
                        self.key_start..self.key_end
                    };
                    Item::new(self.reader, self.key, key, value)
                })
                .collect(),
        )
    }

    /// A list of texts; elements of another type are reported and left out.
    pub fn texts(&self, example: &str) -> Option<Vec<(Item<'a>, &'a str)>> {
        let items = self.list(&format!("[\"{example}\"]"))?;
        Some(
            items
                .into_iter()
                .filter_map(|item| {
                    if item.as_text().is_none() {
                        item.error(
                            "bad-type",
                            format!("the elements of `{}` are texts", item.key),
                            format!("write it like `{} = [\"{example}\"]`", item.key),
                        );
                    }
                    Some((item, item.as_text()?))
                })
                .collect(),
        )
    }
}

fn integer_of(integer: &toml::de::DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// Where the byte `at` of a text stands in its basic string, `"…"` with escapes, on one line.
fn written_place(written: &str, at: usize) -> Option<usize> {
    let inside = written.strip_prefix('"').filter(|rest| {
        let one_line = !rest.starts_with("\"\"");
        one_line && !rest.contains('\n')
    })?;
    let mut text = 0;
    let mut characters = inside.char_indices();
    while let Some((place, c)) = characters.next() {
        if text >= at {
            return Some(1 + place);
        }
        if c != '\\' {
            text += c.len_utf8();
            continue;
        }
        let digits = match characters.next()?.1 {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        let code: String = characters.by_ref().take(digits).map(|(_, c)| c).collect();
        let code = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
        text += code.map_or(1, char::len_utf8);
    }
    None
}
