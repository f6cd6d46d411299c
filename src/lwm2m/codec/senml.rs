//! What SenML is in JSON and CBOR alike (RFC 8428; LwM2M Core 1.1 §7.4.4, §7.4.5).

use std::borrow::Cow;
use std::fmt::Write;

use super::error::EncodeError;
use super::text::from_base64;
use super::{Context, DecodeError, Problem, Sink, typed};
use crate::lwm2m::path::Path;
use crate::lwm2m::value::{DataType, Record, Value};
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
}

/// The field that has the value.
pub(super) enum Field {
    /// `v`, `vs`, `vb`, `vd`, `vlo`
    Value(Value),
    /// A text that is not what its label says.
    Bad { expected: DataType, found: String },
    /// `"v": null`
    Null,
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
        let found = format!("the text {:?}", super::error::shortened(text));
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
}

impl Pack {
    /// Takes in one record. Its value, if it has one, goes to `sink`.
    pub(super) fn record(
        &mut self,
        fields: Fields<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<(), DecodeError> {
        // A record may be there for its base fields alone.
        let is_base = fields.name.is_none() && fields.value.is_none();
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
        let path = self.path_of(fields.name, sink.context.alternate)?;
        let time = self.time(fields.time, sink.context.now);
        match (fields.value, &self.base_value) {
            (Some(Field::Value(value)), None) => sink.value(path, value, time),
            (Some(Field::Value(value)), Some(base)) => sink.value(path, sum(base, value), time),
            (None, Some(base)) => sink.value(path, base.clone(), time),
            (Some(Field::Bad { expected, found }), _) => {
                sink.result(path, Err(Problem::not_a(path, expected, found)), time)
            }
            (None | Some(Field::Null), _) => sink.result(path, Err(Problem::no_value(path)), time),
        }
    }

    /// The path of a record that is there for its path alone, as in a Read-Composite.
    pub(super) fn path(
        &mut self,
        fields: Fields<'_>,
        alternate: Option<&str>,
    ) -> Result<Option<Path>, DecodeError> {
        let is_base = fields.name.is_none();
        if fields.value.is_some() {
            return Err(DecodeError::malformed(0, "a list of paths has no values"));
        }
        self.rebase(fields.base_name);
        match self.path_of(fields.name, alternate) {
            // A base name alone need not be a path, but is one if it can be.
            Err(_) if is_base => Ok(None),
            path => path.map(Some),
        }
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
    ) -> Result<Path, DecodeError> {
        match name {
            None => path_of(&self.base_name, alternate),
            Some(name) if self.base_name.is_empty() => path_of(&name, alternate),
            Some(name) => {
                self.joined.clear();
                self.joined.push_str(&self.base_name);
                self.joined.push_str(&name);
                path_of(&self.joined, alternate)
            }
        }
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

fn path_of(name: &str, alternate: Option<&str>) -> Result<Path, DecodeError> {
    let plain = alternate
        .and_then(|prefix| name.strip_prefix(prefix))
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        // Some devices register an alternate path and do not use it.
        .unwrap_or(name);
    if plain.is_empty() && !name.is_empty() {
        return Ok(Path::ROOT);
    }
    plain
        .parse()
        .map_err(|error| DecodeError::name(name, error))
}

/// A base value and a value; what is no number stays what it is.
fn sum(base: &Value, value: Value) -> Value {
    match (base, &value) {
        (Value::Integer(base), Value::Integer(number)) if base.checked_add(*number).is_some() => {
            Value::Integer(base.saturating_add(*number))
        }
        _ => match (base.as_f64(), value.as_f64()) {
            (Some(base), Some(number)) => Value::Float(base + number),
            _ => value,
        },
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
    pub(super) fn of(records: &[Record], context: &'a Context<'a>) -> Self {
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

    /// The value in the type of its resource.
    pub(super) fn value<'r>(&self, record: &'r Record) -> Result<Cow<'r, Value>, EncodeError> {
        typed(record, self.context)
    }
}
