//! From the device's value to the published one, and back.

use crate::lwm2m::value::{DataType, Value};

/// What `value = { … }` of a signal says: scale, offset, rounding, bounds, names.
#[derive(Clone, Debug, PartialEq)]
pub struct Transform {
    /// Published = device's x scale + offset; never 0.
    pub(super) scale: f64,
    /// In the published unit.
    pub(super) offset: f64,
    /// Decimals kept, 0 to 9.
    pub(super) round: Option<u8>,
    /// Least published value.
    pub(super) min: Option<f64>,
    /// Greatest published value.
    pub(super) max: Option<f64>,
    /// Device values and the names published for them.
    pub(super) names: Vec<(Value, String)>,
    /// The type of the resource, as far as it is known.
    pub(super) data_type: Option<DataType>,
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
}

impl Default for Transform {
    fn default() -> Self {
        Self {
            scale: 1.0,
            offset: 0.0,
            round: None,
            min: None,
            max: None,
            names: Vec::new(),
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

impl Transform {
    /// The published value of the device's `value`.
    ///
    /// What the transform is not about (text of a scaled signal, a number without a name) passes
    /// unchanged.
    pub fn apply(&self, value: Value) -> Value {
        if let Some((_, name)) = self.names.iter().find(|(key, _)| same(key, &value)) {
            return Value::String(name.clone());
        }
        match self.calculate(&value) {
            Some(result) => self.published(&value, self.clip(result)),
            None => value,
        }
    }

    /// Whether the device's `value` had to be clipped to `min` or `max`, or could not be
    /// calculated with.
    pub fn is_suspect(&self, value: &Value) -> bool {
        if self.is_plain() {
            return false;
        }
        self.calculate(value)
            .is_none_or(|result| self.clip(result) != result)
    }

    /// The device's value for the wanted published one.
    ///
    /// # Errors
    ///
    /// When it is out of bounds, has no name, or is no number where one is needed.
    pub fn invert(&self, value: Value) -> Result<Value, TransformError> {
        if !self.names.is_empty() {
            return self.unname(value);
        }
        if self.is_plain() {
            return Ok(value);
        }
        let wanted = number_of(&value).ok_or(TransformError::NotANumber)?;
        if let Some(min) = self.min.filter(|&min| wanted < min) {
            return Err(TransformError::Below { value: wanted, min });
        }
        if let Some(max) = self.max.filter(|&max| wanted > max) {
            return Err(TransformError::Above { value: wanted, max });
        }
        if self.scale == 1.0 && self.offset == 0.0 {
            return Ok(value);
        }
        let device = (wanted - self.offset) / self.scale;
        let whole = matches!(
            self.data_type,
            Some(DataType::Integer | DataType::UnsignedInteger | DataType::Time)
        );
        Ok(if whole {
            integer(device.round()).unwrap_or(Value::Float(device))
        } else {
            Value::Float(device)
        })
    }

    fn unname(&self, value: Value) -> Result<Value, TransformError> {
        let is_name = |name: &String| matches!(&value, Value::String(text) if text == name);
        self.names
            .iter()
            .find(|(key, name)| is_name(name) || same(key, &value))
            .map(|(key, _)| key.clone())
            .ok_or_else(|| {
                let names: Vec<&str> = self.names.iter().map(|(_, name)| name.as_str()).collect();
                TransformError::UnknownName {
                    given: show(&value),
                    known: names.join(", "),
                }
            })
    }

    /// Whether numbers pass as they are.
    fn is_plain(&self) -> bool {
        self.scale == 1.0
            && self.offset == 0.0
            && self.round.is_none()
            && self.min.is_none()
            && self.max.is_none()
    }

    fn calculate(&self, value: &Value) -> Option<f64> {
        if self.is_plain() {
            return None;
        }
        let result = number_of(value)? * self.scale + self.offset;
        let result = match self.round {
            Some(decimals) => {
                let factor = 10_f64.powi(i32::from(decimals));
                (result * factor).round() / factor
            }
            None => result,
        };
        result.is_finite().then_some(result)
    }

    fn clip(&self, result: f64) -> f64 {
        let result = self.min.map_or(result, |min| result.max(min));
        self.max.map_or(result, |max| result.min(max))
    }

    /// The result as a whole number where all that went into it was whole.
    fn published(&self, value: &Value, result: f64) -> Value {
        let unscaled = self.scale == 1.0 && self.offset == 0.0;
        if unscaled && number_of(value) == Some(result) && self.round != Some(0) {
            return value.clone();
        }
        let whole = self.round == Some(0)
            || (!matches!(value, Value::Float(_))
                && self.scale.fract() == 0.0
                && self.offset.fract() == 0.0);
        let integer = if whole { integer(result) } else { None };
        integer.unwrap_or(Value::Float(result))
    }
}

fn integer(number: f64) -> Option<Value> {
    // Beyond 2^53 a float no longer holds every integer.
    let exact = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
    exact.then_some(Value::Integer(number as i64))
}

fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) | Value::Time(number) => Some(*number as f64),
        Value::UnsignedInteger(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    }
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
        _ => number_of(value).map_or_else(|| "this value".to_owned(), |n| n.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_scaled_and_rounded_and_carried_back() {
        let tenth = Transform {
            scale: 0.1,
            offset: -40.0,
            round: Some(1),
            data_type: Some(DataType::Integer),
            ..Transform::default()
        };
        assert_eq!(tenth.apply(Value::Integer(215)), Value::Float(-18.5));
        assert_eq!(tenth.invert(Value::Float(-18.5)), Ok(Value::Integer(215)));
        assert_eq!(
            tenth.invert(Value::String("x".into())),
            Err(TransformError::NotANumber)
        );
    }

    #[test]
    fn whole_numbers_stay_whole() {
        let kilo = Transform {
            scale: 1000.0,
            ..Transform::default()
        };
        assert_eq!(kilo.apply(Value::Integer(5)), Value::Integer(5000));
        assert_eq!(kilo.apply(Value::Float(5.0)), Value::Float(5000.0));
        let rounded = Transform {
            round: Some(0),
            ..Transform::default()
        };
        assert_eq!(rounded.apply(Value::Float(20.6)), Value::Integer(21));
    }

    #[test]
    fn an_unchanged_number_keeps_every_digit() {
        let bounded = Transform {
            min: Some(0.0),
            ..Transform::default()
        };
        let big = Value::Integer(9_007_199_254_740_993);
        assert_eq!(bounded.apply(big.clone()), big);
        assert_eq!(bounded.invert(big.clone()), Ok(big));
    }

    #[test]
    fn values_out_of_bounds_are_clipped_upwards_and_refused_downwards() {
        let bounded = Transform {
            min: Some(-30.0),
            max: Some(10.0),
            ..Transform::default()
        };
        assert_eq!(bounded.apply(Value::Float(40.0)), Value::Float(10.0));
        assert!(bounded.is_suspect(&Value::Float(40.0)));
        assert!(!bounded.is_suspect(&Value::Float(4.0)));
        let error = bounded.invert(Value::Integer(40)).unwrap_err();
        assert_eq!(error.to_string(), "40 is above max 10");
    }

    #[test]
    fn names_stand_for_values_both_ways() {
        let named = Transform {
            names: vec![
                (Value::Integer(0), "idle".into()),
                (Value::Integer(1), "busy".into()),
            ],
            ..Transform::default()
        };
        assert_eq!(
            named.apply(Value::UnsignedInteger(1)),
            Value::String("busy".into())
        );
        assert_eq!(named.apply(Value::Integer(7)), Value::Integer(7));
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
        let huge = Transform {
            scale: 1e300,
            ..Transform::default()
        };
        assert_eq!(huge.apply(Value::Float(1e300)), Value::Float(1e300));
        assert!(huge.is_suspect(&Value::Float(1e300)));
    }
}
