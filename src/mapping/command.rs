//! What a mapping says about what is written and run: rules for writes, and commands of several
//! steps (MQTT contract §5).

use std::time::Duration;

use super::expression::Expression;
use super::template::Field;
use crate::lwm2m::path::Path;
use crate::lwm2m::value::{DataType, Value};

/// How a command waits for its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// Until a newer one writes what it writes.
    Latest,
    /// In its turn.
    Fifo,
    /// Not at all: it fails when the device cannot be reached now.
    None,
}

/// What a mapping says about waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// `queue`
    pub queue: Option<QueueKind>,
    /// `ttl`
    pub ttl: Option<Duration>,
}

/// `write = { … }` of a signal. Bounds and step are in the published unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteRules {
    /// How a write waits for its device.
    pub waits: Waits,
    /// The least value that may be written.
    pub min: Option<f64>,
    /// The greatest.
    pub max: Option<f64>,
    /// What is written is so many times this above `min`, or above 0 without one; greater than 0.
    pub step: Option<f64>,
    /// How it is seen that the device took it.
    pub confirm: Confirm,
    /// How long the value may take to follow; [`Confirm::PATIENCE`] if absent.
    pub timeout: Option<Duration>,
    /// The device's value out of the wanted one.
    pub expr: Option<Expression>,
}

/// How it is seen that a device did what was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confirm {
    /// Its answer is enough.
    #[default]
    None,
    /// The resource is read back.
    Read,
    /// The resource is notified.
    Notify,
}

impl Confirm {
    /// How long a value may take to follow a write.
    pub const PATIENCE: Duration = Duration::from_secs(10);
}

/// Why a value may not be written, or given as a parameter.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RangeError {
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
    /// Between two steps.
    #[error("{value} is no step of {step} from {from}: the nearest is {nearest}")]
    OffStep {
        /// What was given.
        value: f64,
        /// The step.
        step: f64,
        /// Where steps are counted from.
        from: f64,
        /// The nearest value that may be written.
        nearest: f64,
    },
    /// None of those that there are.
    #[error("{given} is none of {known}")]
    Unlisted {
        /// What was given.
        given: String,
        /// The values there are.
        known: String,
    },
}

/// How far from a step a value may be, in steps, and count as on it: 0.3 is three steps of 0.1.
const STEP_TOLERANCE: f64 = 1e-6;

pub(super) fn check_bounds(
    value: f64,
    min: Option<f64>,
    max: Option<f64>,
) -> Result<(), RangeError> {
    match (min, max) {
        (Some(min), _) if value < min => Err(RangeError::Below { value, min }),
        (_, Some(max)) if value > max => Err(RangeError::Above { value, max }),
        _ => Ok(()),
    }
}

impl WriteRules {
    /// Whether a value may be written. What is no number has neither bounds nor steps.
    ///
    /// # Errors
    ///
    /// The bound or step that it breaks.
    pub fn check(&self, value: &Value) -> Result<(), RangeError> {
        let Some(value) = value.as_f64() else {
            return Ok(());
        };
        check_bounds(value, self.min, self.max)?;
        let Some(step) = self.step else {
            return Ok(());
        };
        let from = self.min.unwrap_or(0.0);
        let steps = (value - from) / step;
        let tolerance = STEP_TOLERANCE * steps.abs().max(1.0);
        if (steps - steps.round()).abs() <= tolerance {
            return Ok(());
        }
        // Without the dust of binary fractions.
        let nearest = from + steps.round() * step;
        let nearest = (nearest * 1e9).round() / 1e9;
        Err(RangeError::OffStep {
            value,
            step,
            from,
            nearest,
        })
    }
}

/// A `[[command]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// How it waits for its device.
    pub waits: Waits,
    /// What the one who asks may say, in the order of the names.
    pub parameters: Vec<(String, Parameter)>,
    /// What is done, one after the other.
    pub steps: Vec<Step>,
    /// Whether its writes are one Write-Composite, where the device has that.
    pub atomic: bool,
}

/// A parameter of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Integer, float, boolean or string.
    pub data_type: DataType,
    /// The least number.
    pub min: Option<f64>,
    /// The greatest.
    pub max: Option<f64>,
    /// The only values, if there are any.
    pub choices: Vec<Value>,
    /// What it is when nobody says it. Without one, it has to be said.
    pub default: Option<Value>,
}

impl Parameter {
    /// As mapping files and birth messages spell its type.
    pub const fn type_name(&self) -> &'static str {
        match self.data_type {
            DataType::Integer => "integer",
            DataType::Boolean => "boolean",
            DataType::String => "string",
            _ => "number",
        }
    }

    /// Whether a value of the right type may be given.
    ///
    /// # Errors
    ///
    /// The bound that it breaks, or that it is none of the choices.
    pub fn check(&self, value: &Value) -> Result<(), RangeError> {
        if let Some(number) = value.as_f64() {
            check_bounds(number, self.min, self.max)?;
        }
        if self.choices.is_empty() || self.choices.contains(value) {
            return Ok(());
        }
        let known: Vec<String> = self.choices.iter().map(shown).collect();
        Err(RangeError::Unlisted {
            given: shown(value),
            known: known.join(", "),
        })
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{text}\""),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(number) => number.to_string(),
        other => other.as_f64().map_or_else(String::new, |it| it.to_string()),
    }
}

/// One step of a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A resource, or an instance of one, is written.
    Write {
        /// Where.
        path: Path,
        /// What, in the device's unit.
        content: Content,
    },
    /// A resource is executed.
    Execute {
        /// Which.
        path: Path,
        /// With these arguments; without them, those that the request brings.
        arguments: Option<Content>,
    },
    /// A resource is read, and its value is in the last reply.
    Read(Path),
    /// The value of a resource becomes something.
    Wait {
        /// Which.
        path: Path,
        /// What is to hold of its `value`, in the device's unit.
        until: Expression,
        /// After how long it is given up.
        timeout: Duration,
    },
}

impl Step {
    /// What it is about.
    pub const fn path(&self) -> Path {
        match self {
            Self::Write { path, .. }
            | Self::Execute { path, .. }
            | Self::Read(path)
            | Self::Wait { path, .. } => *path,
        }
    }
}

/// What is written, or given to an Execute.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Always the same.
    Value(Value),
    /// The value of a placeholder, with its type.
    Filled(Placeholder),
    /// A text with placeholders in it.
    Text(Vec<Part>),
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As it stands there.
    Literal(String),
    /// What a placeholder stands for, as text.
    Filled(Placeholder),
}

/// What stands for something that is known when the command is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placeholder {
    /// A parameter of the command.
    Parameter(String),
    /// `{now}`: the time, in seconds since 1970.
    Now,
    /// What is known of the device: [`Placeholder::OF_DEVICE`].
    Device(Field),
}

impl Placeholder {
    /// What a command may say of its device.
    pub const OF_DEVICE: [Field; 5] = [
        Field::Base,
        Field::Device,
        Field::DeviceArea,
        Field::Endpoint,
        Field::EndpointTail,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_within_bounds_and_on_a_step() {
        let rules = WriteRules {
            min: Some(-30.0),
            max: Some(10.0),
            step: Some(0.1),
            ..WriteRules::default()
        };
        for good in [-30.0, 10.0, 0.3, -0.7, 9.9, 0.1 + 0.2] {
            assert_eq!(rules.check(&Value::Float(good)), Ok(()), "{good}");
        }
        assert_eq!(rules.check(&Value::Integer(7)), Ok(()));
        assert_eq!(rules.check(&Value::String("x".into())), Ok(()));
        for (wrong, said) in [
            (40.0, "40 is above max 10"),
            (-30.5, "-30.5 is below min -30"),
            (0.25, "0.25 is no step of 0.1 from -30: the nearest is 0.3"),
        ] {
            let error = rules.check(&Value::Float(wrong)).unwrap_err();
            assert_eq!(error.to_string(), said);
        }
    }

    #[test]
    fn steps_without_a_least_value_count_from_zero() {
        let rules = WriteRules {
            step: Some(5.0),
            ..WriteRules::default()
        };
        assert_eq!(rules.check(&Value::Integer(-15)), Ok(()));
        let error = rules.check(&Value::Integer(7)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "7 is no step of 5 from 0: the nearest is 5"
        );
    }

    #[test]
    fn a_parameter_keeps_to_its_bounds_and_choices() {
        let mut parameter = Parameter {
            data_type: DataType::Integer,
            min: Some(1.0),
            max: Some(60.0),
            choices: Vec::new(),
            default: None,
        };
        assert_eq!(parameter.check(&Value::Integer(60)), Ok(()));
        let error = parameter.check(&Value::Integer(0)).unwrap_err();
        assert_eq!(error.to_string(), "0 is below min 1");
        parameter.choices = vec![Value::Integer(5), Value::Integer(10)];
        assert_eq!(parameter.check(&Value::Integer(5)), Ok(()));
        let error = parameter.check(&Value::Integer(6)).unwrap_err();
        assert_eq!(error.to_string(), "6 is none of 5, 10");
    }
}
