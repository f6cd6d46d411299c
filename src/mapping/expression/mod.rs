//! The small expression language of mapping files: arithmetic, comparison, `and or not`,
//! `min max abs round if text`, literals, the resource's own `value`, and other signals by
//! `name@instance`.
//!
//! [`Expression::parse`] checks everything that can be checked without a device; what is left gives
//! [`Operand::Null`] at run time, never an error. There are no loops, each part is calculated once,
//! and [`MAX_PARTS`] bounds how many there are, so the cost is known when the file is loaded.

mod evaluate;
mod parse;
mod token;

use std::ops::Range;

pub use evaluate::Operand;

use crate::lwm2m::value::{DataType, Value};

/// The longest text of an expression, in bytes.
pub const MAX_LENGTH: usize = 2_000;
/// The most literals, names, operators and calls in one.
pub const MAX_PARTS: usize = 256;
/// The deepest nesting of brackets, calls and signs.
pub const MAX_DEPTH: usize = 32;

/// A checked expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    root: Node,
    kind: Kind,
    references: Box<[Reference]>,
}

/// What an expression, or a part of one, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// Text.
    Text,
    /// Known at run time only.
    Any,
}

/// A signal that an expression names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The name of the signal.
    pub name: Box<str>,
    /// The name of the instance, where the expression says it.
    pub instance: Option<Box<str>>,
}

/// What may stand in an expression.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// What `value` is; nothing where there is none.
    pub value: Option<Kind>,
    /// What a signal is, by name and instance, or what to say of a name that is none.
    pub signals: &'a Signals<'a>,
}

/// Says what a signal is, by its name and that of its instance.
pub type Signals<'a> = dyn Fn(&str, Option<&str>) -> Result<Kind, Objection> + 'a;

/// What is said against a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionError {
    /// The kind of mistake, as in a diagnostic.
    pub code: &'static str,
    /// The bytes of the text that are wrong; empty at its end.
    pub at: Range<usize>,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// A part of an expression, with those that it is made of.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    Null,
    Integer(i128),
    Float(f64),
    Boolean(bool),
    Text(Box<str>),
    /// `value`
    Own,
    /// The place of a signal among the references.
    Signal(usize),
    Negate(Box<Node>),
    Not(Box<Node>),
    Binary(Operator, Box<(Node, Node)>),
    If(Box<(Node, Node, Node)>),
    Call(Function, Box<[Node]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    And,
    Or,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Min,
    Max,
    Abs,
    Round,
    Text,
}

impl Expression {
    /// Reads and checks `text`.
    ///
    /// # Errors
    ///
    /// The first mistake, with its place in the text.
    pub fn parse(text: &str, scope: &Scope<'_>) -> Result<Self, ExpressionError> {
        parse::parse(text, scope)
    }

    /// The same for a condition: what it says is true or false.
    ///
    /// # Errors
    ///
    /// Also when it is a number or a text.
    pub fn parse_condition(text: &str, scope: &Scope<'_>) -> Result<Self, ExpressionError> {
        let expression = Self::parse(text, scope)?;
        match expression.kind {
            Kind::Boolean | Kind::Any => Ok(expression),
            kind => Err(ExpressionError {
                code: "not-boolean",
                at: 0..text.len(),
                message: format!(
                    "this is {}, and a condition is true or false",
                    kind.describe()
                ),
                hint: "compare it with something: `value > 3`".to_owned(),
            }),
        }
    }

    /// What it gives, unless that is [`Operand::Null`].
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The signals that it names, each once.
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// Whether `value` stands in it.
    pub fn uses_value(&self) -> bool {
        self.root.uses_value()
    }

    /// What it gives for `value`, and for the signals that `signal` gives by their place among the
    /// [`references`](Self::references). Numbers cost no allocation.
    ///
    /// [`Operand::Null`] comes out where something unknown went in, where a number is divided by
    /// zero, is not finite or beyond 128 bits, where kinds do not go together, and where a text
    /// becomes longer than 4096 bytes. `false and null` is false, `true or null` is true.
    pub fn evaluate<'a>(
        &'a self,
        value: Operand<'a>,
        signal: &dyn Fn(usize) -> Operand<'a>,
    ) -> Operand<'a> {
        evaluate::evaluate(&self.root, &value, signal)
    }

    /// What it gives where only `value` stands in it; nothing for [`Operand::Null`].
    pub fn of(&self, value: &Value) -> Option<Value> {
        self.evaluate(Operand::of(value), &|_| Operand::Null)
            .into_value()
    }
}

impl Kind {
    /// What a resource of this type is; nothing when it cannot be calculated with.
    pub fn of(data_type: Option<DataType>) -> Option<Self> {
        Some(match data_type {
            None => Self::Any,
            Some(
                DataType::Integer | DataType::UnsignedInteger | DataType::Float | DataType::Time,
            ) => Self::Number,
            Some(DataType::Boolean) => Self::Boolean,
            Some(DataType::String | DataType::CoreLink | DataType::ObjectLink) => Self::Text,
            Some(DataType::Opaque) => return None,
        })
    }

    /// What stands for both, if anything does.
    pub(super) fn with(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, kind) | (kind, Self::Any) => Some(kind),
            (one, other) => (one == other).then_some(one),
        }
    }

    /// As birth messages spell it; nothing where only run time tells.
    pub(super) const fn name(self) -> Option<&'static str> {
        match self {
            Self::Number => Some("float"),
            Self::Boolean => Some("boolean"),
            Self::Text => Some("string"),
            Self::Any => None,
        }
    }

    /// In words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::Boolean => "true or false",
            Self::Text => "text",
            Self::Any => "of any kind",
        }
    }
}

impl Scope<'_> {
    /// Only `value` may stand in the expression.
    pub fn of_value(value: Kind) -> Self {
        Self {
            value: Some(value),
            signals: &|name, _| {
                Err(Objection {
                    message: format!("`{name}` is not known here"),
                    hint: "only `value`, the resource's own value, can stand here".to_owned(),
                })
            },
        }
    }
}

impl Node {
    fn uses_value(&self) -> bool {
        match self {
            Self::Own => true,
            Self::Null
            | Self::Integer(_)
            | Self::Float(_)
            | Self::Boolean(_)
            | Self::Text(_)
            | Self::Signal(_) => false,
            Self::Negate(part) | Self::Not(part) => part.uses_value(),
            Self::Binary(_, parts) => parts.0.uses_value() || parts.1.uses_value(),
            Self::If(parts) => parts.0.uses_value() || parts.1.uses_value() || parts.2.uses_value(),
            Self::Call(_, parts) => parts.iter().any(Self::uses_value),
        }
    }
}

#[cfg(test)]
mod tests;
