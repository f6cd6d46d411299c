//! What SenML is in JSON and CBOR alike (RFC 8428; LwM2M Core 1.1 §7.4.4, §7.4.5).

use std::borrow::Cow;
use std::fmt::Write;

use super::error::{EncodeError, shortened};
use super::text::from_base64;
use super::{Context, DecodeError, Detail, MAX_RECORDS, Problem, Row, Sink, typed};
use crate::lwm2m::path::{Path, PathError};
use crate::lwm2m::value::{DataType, Value};
use crate::time::UnixTime;

/// Seconds below this count from now, all others from 1970 (RFC 8428 §4.5.3).
const ABSOLUTE: f64 = 268_435_456.0;

/// The newest version of SenML there is (RFC 8428 §4.4).
const MAX_VERSION: f64 = 10.0;

/// The fields of one record, as they stand in the payload.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) base_name: Option<Cow<'a, str>>,
    pub(super) base_time: Option<f64>,
    pub(super) base_value: Option<Value>,
    pub(super) version: Option<f64>,
    pub(super) name: Option<Cow<'a, str>>,
    pub(super) time: Option<f64>,
    pub(super) value: Option<Field>,
    /// What makes the record unusable, while the others still count.
    pub(super) fault: Option<Detail>,
}

impl Fields<'_> {
    /// Takes in the value; there is one at most.
    pub(super) fn set_value(&mut self, label: &str, value: Field) {
        if self.value.replace(value).is_some() {
            self.break_off(label, "is a second value");
        }
    }

    /// Passes over a field that is unknown, unless it must be understood (RFC 8428 §4.4).
    pub(super) fn ignore(&mut self, label: &str) {
        if label.ends_with('_') {
            self.break_off(label, "must be understood and is not");
        }
    }

    pub(super) fn break_off(&mut self, label: &str, reason: &'static str) {
        self.fault
            .get_or_insert_with(|| Detail::field(label, reason));
    }
}

/// The field that has the value.
pub(super) enum Field {
    /// `v`, `vs`, `vb`, `vd`, `vlo`
    Value(Value),
    /// A text, or the base64 of bytes: `sv` of OMA JSON. The type of the resource tells which.
    Text(String),
    /// A text that is not what its label says.
    Bad { expected: DataType, found: String },
    /// `"v": null`
    Null,
    /// Something that is no value at all.
    Other,
}

impl Field {
    /// `vd`: base64url without padding, though devices send others as well.
    pub(super) fn of_base64(text: &str) -> Self {
        match from_base64(text) {
            Some(bytes) => Self::Value(Value::Opaque(bytes)),
            None => Self::bad(DataType::Opaque, text),
        }
    }

    /// `vlo`: `66:0`
    pub(super) fn of_link(text: &str) -> Self {
        match text.parse() {
            Ok(link) => Self::Value(Value::ObjectLink(link)),
            Err(_) => Self::bad(DataType::ObjectLink, text),
        }
    }

    fn bad(expected: DataType, text: &str) -> Self {
        let found = format!("the text {:?}", shortened(text));
        Self::Bad { expected, found }
    }
}

/// What holds on from record to record while a payload is read.
#[derive(Default)]
pub(super) struct Pack {
    base_name: String,
    /// The base name and the name of a record.
    joined: String,
    base_time: Option<f64>,
    base_value: Option<Value>,
    /// In a list of paths, a base name that stood alone: a path itself, if no name follows.
    lone: Option<Path>,
}

impl Pack {
    /// Takes in one record. Its value, if it has one, goes to `sink`.
    pub(super) fn record(
        &mut self,
        fields: Fields<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<(), DecodeError> {
        // A record may be there for its base fields alone.
        let is_base = fields.name.is_none() && fields.value.is_none() && fields.fault.is_none();
        if fields.version.is_some_and(|version| version > MAX_VERSION) {
            return Err(DecodeError::malformed(
                0,
                "this version of SenML is unknown",
            ));
        }
        self.rebase(fields.base_name);
        self.base_time = fields.base_time.or(self.base_time);
        self.base_value = fields.base_value.or(self.base_value.take());
        if is_base {
            return Ok(());
        }
        let base = sink.context.base;
        let path = match self.path_of(fields.name, sink.context.alternate) {
            Ok(path) => path,
            Err((name, reason)) => return sink.problem(base, Detail::name(&name, reason)),
        };
        if let Some(fault) = fields.fault {
            return sink.problem(path, fault);
        }
        let time = self.time(fields.time, sink.context.now);
        match (fields.value, &self.base_value) {
            (Some(Field::Value(value)), None) => sink.value(path, value, time),
            (Some(Field::Value(value)), Some(base)) => sink.value(path, sum(base, value), time),
            (None, Some(base)) => sink.value(path, base.clone(), time),
            (Some(Field::Text(text)), _) => match sink.context.data_type(&path) {
                Some(DataType::Opaque) => match Field::of_base64(&text) {
                    Field::Value(value) => sink.value(path, value, time),
                    _ => sink.value(path, Value::String(text), time),
                },
                _ => sink.value(path, Value::String(text), time),
            },
            (Some(Field::Bad { expected, found }), _) => {
                sink.result(path, Err(Problem::not_a(path, expected, found)), time)
            }
            (Some(Field::Null), _) => sink.null(path, time),
            (None | Some(Field::Other), _) => sink.result(path, Err(Problem::no_value(path)), time),
        }
    }

    /// Takes in a record that is there for its path alone, as in a Read-Composite.
    pub(super) fn path(
        &mut self,
        fields: Fields<'_>,
        alternate: Option<&str>,
        paths: &mut Vec<Path>,
    ) -> Result<(), DecodeError> {
        if fields.value.is_some() || fields.base_value.is_some() {
            return Err(DecodeError::malformed(0, "a list of paths has no values"));
        }
        if let Some(fault) = fields.fault {
            return Err(DecodeError::malformed(0, fault.to_string()));
        }
        if fields.base_name.is_some() || fields.name.is_none() {
            paths.extend(self.lone.take());
        }
        self.lone = None;
        self.rebase(fields.base_name);
        let is_base = fields.name.is_none();
        match self.path_of(fields.name, alternate) {
            Ok(path) if is_base => self.lone = Some(path),
            Ok(path) => paths.push(path),
            // A base name alone need not be a path.
            Err(_) if is_base => {}
            Err((name, reason)) => return Err(DecodeError::name(&name, reason)),
        }
        if paths.len() + usize::from(self.lone.is_some()) > MAX_RECORDS {
            return Err(DecodeError::TooMany);
        }
        Ok(())
    }

    /// The path that is left at the end of a list, see [`Self::path`].
    pub(super) fn last_path(self) -> Option<Path> {
        self.lone
    }

    fn rebase(&mut self, base_name: Option<Cow<'_, str>>) {
        if let Some(base_name) = base_name {
            self.base_name.clear();
            self.base_name.push_str(&base_name);
        }
    }

    /// The path that base name and name are together, with nothing in between (RFC 8428 §4.5.1).
    fn path_of(
        &mut self,
        name: Option<Cow<'_, str>>,
        alternate: Option<&str>,
    ) -> Result<Path, (String, PathError)> {
        let name = match &name {
            None => &self.base_name,
            Some(name) if self.base_name.is_empty() => &**name,
            Some(name) => {
                self.joined.clear();
                self.joined.push_str(&self.base_name);
                self.joined.push_str(name);
                &self.joined
            }
        };
        path_of(name, alternate).map_err(|error| (shortened(name).into_owned(), error))
    }

    fn time(&self, time: Option<f64>, now: UnixTime) -> Option<UnixTime> {
        if time.is_none() && self.base_time.is_none() {
            return None;
        }
        let seconds = self.base_time.unwrap_or_default() + time.unwrap_or_default();
        // The conversion saturates.
        let millis = (seconds * 1000.0).round() as i64;
        Some(UnixTime::from_millis(if seconds < ABSOLUTE {
            now.as_millis().saturating_add(millis)
        } else {
            millis
        }))
    }
}

fn path_of(name: &str, alternate: Option<&str>) -> Result<Path, PathError> {
    let plain = alternate
        .and_then(|prefix| name.strip_prefix(prefix))
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        // Some devices register an alternate path and do not use it.
        .unwrap_or(name);
    if plain.is_empty() && !name.is_empty() {
        return Ok(Path::ROOT);
    }
    plain.parse()
}

/// A base value and a value; what is no number stays what it is.
fn sum(base: &Value, value: Value) -> Value {
    let whole = |value: &Value| match *value {
        Value::Integer(number) => Some(i128::from(number)),
        Value::UnsignedInteger(number) => Some(i128::from(number)),
        _ => None,
    };
    if let (Some(base), Some(number)) = (whole(base), whole(&value))
        && let Some(sum) = Value::whole(base + number)
    {
        return sum;
    }
    match (base.as_f64(), value.as_f64()) {
        (Some(base), Some(number)) => Value::Float(base + number),
        _ => value,
    }
}

/// Records as SenML writes them: what they share of their names as a base name.
pub(super) struct Layout<'a> {
    context: &'a Context<'a>,
    /// The base name, if there is use for one.
    pub(super) base_name: Option<String>,
    /// How many identifiers stand in the base name.
    depth: usize,
}

impl<'a> Layout<'a> {
    pub(super) fn of(records: &[Row<'_>], context: &'a Context<'a>) -> Self {
        let mut layout = Self {
            context,
            base_name: None,
            depth: 0,
        };
        let [first, rest @ ..] = records else {
            return layout;
        };
        if rest.is_empty() {
            return layout;
        }
        let prefix = context.alternate.unwrap_or_default();
        if rest.iter().all(|record| record.path == first.path) {
            // A history. Nothing is left of the names.
            layout.depth = first.path.ids().len();
            layout.base_name = Some(format!("{prefix}{}", first.path));
            return layout;
        }
        layout.depth = records
            .iter()
            .map(|record| {
                let ids = record.path.ids();
                let shared = ids.iter().zip(first.path.ids());
                let shared = shared.take_while(|(a, b)| a == b).count();
                // The last identifier stays in the name: "/3/0/" is no path.
                shared.min(ids.len().saturating_sub(1))
            })
            .min()
            .unwrap_or_default();
        let mut base_name = prefix.to_owned();
        if layout.depth > 0 {
            // A String takes everything.
            let _ = write!(base_name, "{}", first.path.truncate(layout.depth));
        }
        base_name.push('/');
        layout.base_name = Some(base_name);
        layout
    }

    /// Writes what the base name leaves of the name; false when that is nothing.
    pub(super) fn name(&self, path: &Path, name: &mut String) -> bool {
        name.clear();
        let _ = match (&self.base_name, path.ids().get(self.depth..)) {
            (None, _) => write!(name, "{}{path}", self.context.alternate.unwrap_or_default()),
            (Some(_), Some([first, rest @ ..])) => write!(name, "{first}")
                .and_then(|()| rest.iter().try_for_each(|id| write!(name, "/{id}"))),
            (Some(_), _) => return false,
        };
        true
    }

    /// Seconds since 1970; for the years up to 1978, which would be taken for relative, from now.
    pub(super) fn time(&self, time: UnixTime) -> Value {
        let mut millis = time.as_millis();
        if (millis as f64) < ABSOLUTE * 1000.0 {
            millis = millis.saturating_sub(self.context.now.as_millis());
        }
        match millis % 1000 {
            0 => Value::Integer(millis / 1000),
            _ => Value::Float(millis as f64 / 1000.0),
        }
    }

    /// The value in the type of its resource; `None` for null.
    pub(super) fn value<'r>(&self, row: &Row<'r>) -> Result<Option<Cow<'r, Value>>, EncodeError> {
        match row.value {
            _ if !self.context.base.contains(&row.path) => {
                Err(Problem::outside(row.path, self.context.base).into())
            }
            None => Ok(None),
            Some(value) => typed(row.path, value, self.context).map(Some),
        }
    }
}
