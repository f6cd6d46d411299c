//! From the device's value to the published one, and back.

use super::expression::Expression;
use super::layout::{Layout, rounded};
use super::published::{Bits, Encoding, Published};
use super::unit::{Line, dusted};
use crate::lwm2m::value::{DataType, Value};

/// What `value = { … }` of a signal says.
#[derive(Clone, Debug, PartialEq)]
pub struct Transform {
    /// What makes the published value.
    pub(super) step: Step,
    /// Decimals kept, 0 to 9.
    pub(super) round: Option<u8>,
    /// Least published value.
    pub(super) min: Option<f64>,
    /// Greatest published value.
    pub(super) max: Option<f64>,
    /// The type of the resource, as far as it is known.
    pub(super) data_type: Option<DataType>,
}

/// What makes the published value of the device's.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Scale and offset.
    Scaled(Line),
    /// From one unit to another.
    Converted(Line),
    /// Device values and the names published for them.
    Named(Vec<(Value, String)>),
    Calculated(Expression),
    Bits(Bits),
    /// Bytes as text.
    Bytes(Encoding),
    Layout(Layout),
}

/// What a transform makes of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// What is published; nothing where there is no telling.
    pub value: Option<Published>,
    /// What was wrong with the device's value.
    pub flaw: Option<Flaw>,
}

/// What can be wrong with a device's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It was beyond `min` or `max`.
    #[error("it was clipped to its bounds")]
    Clipped,
    /// It is of a kind that the transform is not about.
    #[error("it is of another kind than the mapping expects, and was left as it is")]
    Kind,
    /// The expression gives nothing for it, or the result is no finite number.
    #[error("the mapping's expression gives nothing for it")]
    Uncalculated,
    /// It has fewer bytes than the layout.
    #[error("{given} bytes, and the layout of the mapping needs {needed}")]
    TooShort {
        /// Bytes that came.
        given: usize,
        /// Bytes that the layout is about.
        needed: usize,
    },
    /// It is no text in the encoding that the mapping says.
    #[error("it is not encoded as the mapping says")]
    Encoding,
}

/// Why a wanted value cannot be written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TransformError {
    /// The signal has names for its values, and this is none of them.
    #[error("{given} is none of {known}")]
    UnknownName {
        /// What was given.
        given: String,
        /// The names there are.
        known: String,
    },
    /// Below `min`.
    #[error("{value} is below min {min}")]
    Below {
        /// What was given.
        value: f64,
        /// The bound.
        min: f64,
    },
    /// Above `max`.
    #[error("{value} is above max {max}")]
    Above {
        /// What was given.
        value: f64,
        /// The bound.
        max: f64,
    },
    /// The signal is scaled, and this is no number.
    #[error("a number is needed")]
    NotANumber,
    /// The signal shows bytes as text, and this is none.
    #[error("a text in the encoding of the signal is needed")]
    NotEncoded,
    /// The value is made in a way that has no way back.
    #[error("it is made from the device's value in a way that has no way back")]
    OneWay,
}

impl Default for Transform {
    fn default() -> Self {
        Self {
            step: Step::Scaled(Line::SAME),
            round: None,
            min: None,
            max: None,
            data_type: None,
        }
    }
}

impl TransformError {
    /// Whether the value is of the right kind, and out of bounds.
    pub fn is_range(&self) -> bool {
        matches!(self, Self::Below { .. } | Self::Above { .. })
    }
}

impl Applied {
    /// What becomes of a value that could not be read at all.
    pub const NONE: Self = Self {
        value: None,
        flaw: None,
    };

    pub(super) fn good(value: impl Into<Published>) -> Self {
        Self {
            value: Some(value.into()),
            flaw: None,
        }
    }

    fn none(flaw: Flaw) -> Self {
        Self {
            value: None,
            flaw: Some(flaw),
        }
    }

    /// What the transform is not about passes unchanged.
    fn unchanged(value: Value) -> Self {
        Self {
            value: Some(value.into()),
            flaw: Some(Flaw::Kind),
        }
    }
}

impl Transform {
    /// Whether what is published is calculated, of whatever type the resource is.
    pub(super) const fn calculates(&self) -> bool {
        matches!(self.step, Step::Calculated(_))
    }

    /// The published value of the device's `value`, and what is wrong with it.
    pub fn apply(&self, value: Value) -> Applied {
        match &self.step {
            Step::Scaled(line) | Step::Converted(line) => self.measured(value, line),
            Step::Named(names) => match names.iter().find(|(key, _)| same(key, &value)) {
                Some((_, name)) => Applied::good(Value::String(name.clone())),
                None => self.measured(value, &Line::SAME),
            },
            Step::Calculated(expression) => match expression.of(&value) {
                Some(result) => self.measured(result, &Line::SAME),
                None => Applied::none(Flaw::Uncalculated),
            },
            Step::Bits(bits) => match &value {
                // A negative number is taken as its 64 bits.
                Value::Integer(number) => {
                    Applied::good(Published::Names(bits.names(*number as u64)))
                }
                Value::UnsignedInteger(number) => {
                    Applied::good(Published::Names(bits.names(*number)))
                }
                _ => Applied::unchanged(value),
            },
            Step::Bytes(encoding) => match &value {
                Value::Opaque(bytes) => match encoding.encode(bytes) {
                    Some(text) => Applied::good(Value::String(text)),
                    None => Applied::none(Flaw::Encoding),
                },
                _ => Applied::unchanged(value),
            },
            Step::Layout(layout) => {
                let decoded;
                let frame = match &value {
                    Value::Opaque(bytes) => bytes,
                    Value::String(text) => match layout.encoding.decode(text) {
                        Some(bytes) => {
                            decoded = bytes;
                            &decoded
                        }
                        None => return Applied::none(Flaw::Encoding),
                    },
                    _ => return Applied::unchanged(value),
                };
                layout.take_apart(frame).map_or_else(
                    || {
                        Applied::none(Flaw::TooShort {
                            given: frame.len(),
                            needed: layout.len(),
                        })
                    },
                    Applied::good,
                )
            }
        }
    }

    /// What the published value is, where that is not the type of the resource: `string`, `list`,
    /// `object` and so on, as birth messages spell it.
    pub fn shows(&self) -> Option<&'static str> {
        match &self.step {
            Step::Scaled(_) | Step::Converted(_) | Step::Named(_) => None,
            Step::Calculated(expression) => expression.kind().name(),
            Step::Bits(_) => Some("list"),
            Step::Bytes(_) => Some("string"),
            Step::Layout(_) => Some("object"),
        }
    }

    /// Whether a wanted value has no way to the device, unless the mapping says one.
    pub fn is_one_way(&self) -> bool {
        matches!(
            self.step,
            Step::Calculated(_) | Step::Bits(_) | Step::Layout(_)
        )
    }

    /// The device's value for the wanted published one.
    ///
    /// # Errors
    ///
    /// When it is out of bounds, has no name, is of another kind than what is published, or has no
    /// way back.
    pub fn invert(&self, value: Value) -> Result<Value, TransformError> {
        let wanted = value.as_f64();
        if let (Some(wanted), Some(min)) = (wanted, self.min)
            && wanted < min
        {
            return Err(TransformError::Below { value: wanted, min });
        }
        if let (Some(wanted), Some(max)) = (wanted, self.max)
            && wanted > max
        {
            return Err(TransformError::Above { value: wanted, max });
        }
        match &self.step {
            Step::Named(names) => unname(names, value),
            Step::Scaled(line) | Step::Converted(line) => {
                if self.is_plain(line) {
                    return Ok(value);
                }
                let wanted = wanted.ok_or(TransformError::NotANumber)?;
                if line.is_same() {
                    return Ok(value);
                }
                let number = line.invert(wanted);
                Ok(self.device_number(match self.step {
                    Step::Converted(_) => dusted(number),
                    _ => number,
                }))
            }
            Step::Bytes(encoding) => match &value {
                Value::String(text) => encoding
                    .decode(text)
                    .map(Value::Opaque)
                    .ok_or(TransformError::NotEncoded),
                _ => Err(TransformError::NotEncoded),
            },
            Step::Calculated(_) | Step::Bits(_) | Step::Layout(_) => Err(TransformError::OneWay),
        }
    }

    /// Whether the resource holds whole numbers only.
    fn is_whole(&self) -> bool {
        matches!(
            self.data_type,
            Some(DataType::Integer | DataType::UnsignedInteger | DataType::Time)
        )
    }

    fn device_number(&self, number: f64) -> Value {
        let whole = self.is_whole().then(|| integer(number.round())).flatten();
        whole.unwrap_or(Value::Float(number))
    }

    /// Whether numbers pass as they are.
    fn is_plain(&self, line: &Line) -> bool {
        line.is_same() && self.round.is_none() && self.min.is_none() && self.max.is_none()
    }

    /// A number on its way: scaled, rounded, clipped.
    fn measured(&self, value: Value, line: &Line) -> Applied {
        if self.is_plain(line) {
            return Applied::good(value);
        }
        let Some(number) = value.as_f64() else {
            return Applied::unchanged(value);
        };
        let result = line.apply(number);
        let result = match self.step {
            Step::Converted(_) => dusted(result),
            _ => result,
        };
        let result = rounded(result, self.round);
        if !result.is_finite() {
            return Applied::none(Flaw::Uncalculated);
        }
        let clipped = self.min.map_or(result, |min| result.max(min));
        let clipped = self.max.map_or(clipped, |max| clipped.min(max));
        Applied {
            value: Some(self.shown(&value, line, clipped).into()),
            flaw: (clipped != result).then_some(Flaw::Clipped),
        }
    }

    /// The result as a whole number where all that went into it was whole.
    fn shown(&self, value: &Value, line: &Line, result: f64) -> Value {
        if line.is_same() && value.as_f64() == Some(result) && self.round != Some(0) {
            return value.clone();
        }
        let whole =
            self.round == Some(0) || (!matches!(value, Value::Float(_)) && line.keeps_whole());
        let integer = if whole { integer(result) } else { None };
        integer.unwrap_or(Value::Float(result))
    }
}

fn unname(names: &[(Value, String)], value: Value) -> Result<Value, TransformError> {
    let is_name = |name: &String| matches!(&value, Value::String(text) if text == name);
    names
        .iter()
        .find(|(key, name)| is_name(name) || same(key, &value))
        .map(|(key, _)| key.clone())
        .ok_or_else(|| {
            let names: Vec<&str> = names.iter().map(|(_, name)| name.as_str()).collect();
            TransformError::UnknownName {
                given: show(&value),
                known: names.join(", "),
            }
        })
}

fn integer(number: f64) -> Option<Value> {
    // Beyond 2^53 a float no longer holds every integer.
    let exact = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
    exact.then_some(Value::Integer(number as i64))
}

/// Whether two values are alike, an integer of either sign type counting as the same.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Integer(a), Value::UnsignedInteger(b))
        | (Value::UnsignedInteger(b), Value::Integer(a)) => u64::try_from(*a) == Ok(*b),
        _ => a == b,
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{text}\""),
        Value::Boolean(value) => value.to_string(),
        _ => value
            .as_f64()
            .map_or_else(|| "this value".to_owned(), |n| n.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::expression::{Kind, Scope};
    use crate::mapping::unit::conversion;

    fn scaled(scale: f64, offset: f64) -> Transform {
        Transform {
            step: Step::Scaled(Line::of(scale, offset)),
            ..Transform::default()
        }
    }

    fn good(value: Value) -> Applied {
        Applied::good(value)
    }

    fn expression(text: &str) -> Expression {
        Expression::parse(text, &Scope::of_value(Kind::Any)).unwrap()
    }

    #[test]
    fn numbers_are_scaled_and_rounded_and_carried_back() {
        let tenth = Transform {
            round: Some(1),
            data_type: Some(DataType::Integer),
            ..scaled(0.1, -40.0)
        };
        assert_eq!(tenth.apply(Value::Integer(215)), good(Value::Float(-18.5)));
        assert_eq!(tenth.invert(Value::Float(-18.5)), Ok(Value::Integer(215)));
        assert_eq!(
            tenth.invert(Value::String("x".into())),
            Err(TransformError::NotANumber)
        );
    }

    #[test]
    fn whole_numbers_stay_whole() {
        let kilo = scaled(1000.0, 0.0);
        assert_eq!(kilo.apply(Value::Integer(5)), good(Value::Integer(5000)));
        assert_eq!(kilo.apply(Value::Float(5.0)), good(Value::Float(5000.0)));
        let rounded = Transform {
            round: Some(0),
            ..Transform::default()
        };
        assert_eq!(rounded.apply(Value::Float(20.6)), good(Value::Integer(21)));
    }

    #[test]
    fn an_unchanged_number_keeps_every_digit() {
        let bounded = Transform {
            min: Some(0.0),
            ..Transform::default()
        };
        let big = Value::Integer(9_007_199_254_740_993);
        assert_eq!(bounded.apply(big.clone()), good(big.clone()));
        assert_eq!(bounded.invert(big.clone()), Ok(big));
    }

    #[test]
    fn values_out_of_bounds_are_clipped_upwards_and_refused_downwards() {
        let bounded = Transform {
            min: Some(-30.0),
            max: Some(10.0),
            ..Transform::default()
        };
        let clipped = Applied {
            value: Some(Value::Float(10.0).into()),
            flaw: Some(Flaw::Clipped),
        };
        assert_eq!(bounded.apply(Value::Float(40.0)), clipped);
        assert_eq!(bounded.apply(Value::Float(4.0)), good(Value::Float(4.0)));
        let error = bounded.invert(Value::Integer(40)).unwrap_err();
        assert_eq!(error.to_string(), "40 is above max 10");
    }

    #[test]
    fn names_stand_for_values_both_ways() {
        let named = Transform {
            step: Step::Named(vec![
                (Value::Integer(0), "idle".into()),
                (Value::Integer(1), "busy".into()),
            ]),
            ..Transform::default()
        };
        assert_eq!(
            named.apply(Value::UnsignedInteger(1)),
            good(Value::String("busy".into()))
        );
        assert_eq!(named.apply(Value::Integer(7)), good(Value::Integer(7)));
        assert_eq!(
            named.invert(Value::String("idle".into())),
            Ok(Value::Integer(0))
        );
        assert_eq!(named.invert(Value::Integer(1)), Ok(Value::Integer(1)));
        let error = named.invert(Value::String("bsy".into())).unwrap_err();
        assert_eq!(error.to_string(), "\"bsy\" is none of idle, busy");
    }

    #[test]
    fn a_result_that_is_no_number_is_not_published() {
        let huge = scaled(1e300, 0.0);
        let none = Applied::none(Flaw::Uncalculated);
        assert_eq!(huge.apply(Value::Float(1e300)), none);
        let divided = Transform {
            step: Step::Calculated(expression("1 / value")),
            ..Transform::default()
        };
        assert_eq!(divided.apply(Value::Integer(0)), none);
        assert_eq!(divided.apply(Value::Integer(4)), good(Value::Float(0.25)));
    }

    #[test]
    fn what_is_calculated_is_rounded_and_bounded_and_has_no_way_back() {
        let bar = Transform {
            step: Step::Calculated(expression("value / 14.5038")),
            round: Some(2),
            max: Some(10.0),
            ..Transform::default()
        };
        assert_eq!(bar.apply(Value::Integer(29)), good(Value::Float(2.0)));
        assert_eq!(bar.apply(Value::Integer(2900)).flaw, Some(Flaw::Clipped));
        assert!(bar.is_one_way());
        assert_eq!(bar.invert(Value::Float(2.0)), Err(TransformError::OneWay));
    }

    #[test]
    fn a_converted_number_carries_no_dust_and_comes_back() {
        let kelvin = Transform {
            step: Step::Converted(conversion("Cel", "K").unwrap()),
            ..Transform::default()
        };
        assert_eq!(kelvin.apply(Value::Float(21.7)), good(Value::Float(294.85)));
        assert_eq!(kelvin.invert(Value::Float(294.85)), Ok(Value::Float(21.7)));
        let metres = Transform {
            step: Step::Converted(conversion("km", "m").unwrap()),
            ..Transform::default()
        };
        assert_eq!(metres.apply(Value::Integer(2)), good(Value::Integer(2000)));
    }

    #[test]
    fn a_value_of_another_kind_passes_and_is_suspect() {
        let text = Value::String("x".into());
        let bits = Transform {
            step: Step::Bits(Bits::new(Vec::new())),
            ..Transform::default()
        };
        for transform in [&scaled(2.0, 0.0), &bits] {
            assert_eq!(
                transform.apply(text.clone()),
                Applied::unchanged(text.clone())
            );
        }
        assert_eq!(
            bits.apply(Value::Integer(i64::MIN)),
            Applied::good(Published::Names(vec!["bit-63".into()]))
        );
    }

    #[test]
    fn bytes_are_shown_as_text_and_written_from_it() {
        let hex = Transform {
            step: Step::Bytes(Encoding::Hex),
            ..Transform::default()
        };
        let bytes = Value::Opaque(vec![0xca, 0xfe]);
        assert_eq!(hex.apply(bytes.clone()), good(Value::String("cafe".into())));
        assert_eq!(hex.invert(Value::String("CAFE".into())), Ok(bytes));
        for wrong in [Value::String("x".into()), Value::Integer(1)] {
            assert_eq!(hex.invert(wrong), Err(TransformError::NotEncoded));
        }
    }

    #[test]
    fn a_frame_is_taken_apart_from_bytes_or_from_text() {
        use crate::mapping::layout::{Field, Form, Reading};
        let frame = Transform {
            step: Step::Layout(Layout {
                fields: vec![Field {
                    name: "seq".into(),
                    at: 0,
                    form: Form::Whole {
                        bytes: 2,
                        signed: false,
                        little: false,
                    },
                    reading: Reading::Number {
                        line: Line::SAME,
                        round: None,
                    },
                }],
                encoding: Encoding::Hex,
            }),
            ..Transform::default()
        };
        let fields = Applied::good(Published::Fields(vec![(
            "seq".into(),
            Value::Integer(258).into(),
        )]));
        assert_eq!(frame.apply(Value::Opaque(vec![1, 2])), fields);
        assert_eq!(frame.apply(Value::String("0102".into())), fields);
        assert_eq!(
            frame.apply(Value::String("01x2".into())),
            Applied::none(Flaw::Encoding)
        );
        let short = frame.apply(Value::Opaque(vec![1]));
        assert_eq!(
            short.flaw.map(|flaw| flaw.to_string()).as_deref(),
            Some("1 bytes, and the layout of the mapping needs 2")
        );
    }
}
