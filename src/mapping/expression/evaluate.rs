//! What an expression gives.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::{Function, Node, Operator};
use crate::lwm2m::value::Value;

/// The longest text that an expression makes, in bytes.
const MAX_TEXT: usize = 4_096;

/// Beyond this a float does not hold every whole number: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// What goes into an expression, and what comes out.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand<'a> {
    /// Unknown, or not to be calculated.
    Null,
    /// A whole number. Calculating with whole numbers is exact; `/` gives a [`Operand::Float`].
    Integer(i128),
    /// A number; finite.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// Text.
    Text(Cow<'a, str>),
}

impl<'a> Operand<'a> {
    /// A value of a resource; bytes are [`Operand::Null`].
    pub fn of(value: &'a Value) -> Self {
        match value {
            Value::Integer(number) | Value::Time(number) => Self::Integer((*number).into()),
            Value::UnsignedInteger(number) => Self::Integer((*number).into()),
            Value::Float(number) => Self::finite(*number),
            Value::Boolean(value) => Self::Boolean(*value),
            Value::String(text) | Value::CoreLink(text) => Self::Text(Cow::Borrowed(text)),
            Value::ObjectLink(link) => Self::Text(Cow::Owned(link.to_string())),
            Value::Opaque(_) => Self::Null,
        }
    }

    /// As a value; nothing for [`Operand::Null`]. A whole number beyond 64 bits becomes a float.
    pub fn into_value(self) -> Option<Value> {
        Some(match self {
            Self::Null => return None,
            Self::Integer(number) => Value::whole(number).unwrap_or(Value::Float(number as f64)),
            Self::Float(number) => Value::Float(number),
            Self::Boolean(value) => Value::Boolean(value),
            Self::Text(text) => Value::String(text.into_owned()),
        })
    }

    /// Whether it is the word of a condition that holds.
    pub fn is_true(&self) -> bool {
        *self == Self::Boolean(true)
    }

    fn finite(number: f64) -> Self {
        if number.is_finite() {
            Self::Float(number)
        } else {
            Self::Null
        }
    }

    fn whole(number: Option<i128>) -> Self {
        number.map_or(Self::Null, Self::Integer)
    }

    fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Integer(number) => Some(*number as f64),
            Self::Float(number) => Some(*number),
            _ => None,
        }
    }

    fn text(text: Cow<'a, str>) -> Self {
        if text.len() > MAX_TEXT {
            Self::Null
        } else {
            Self::Text(text)
        }
    }
}

/// Recurses no deeper than there are parts, of which the parser lets few through.
pub(super) fn evaluate<'a>(
    node: &'a Node,
    own: &Operand<'a>,
    signal: &dyn Fn(usize) -> Operand<'a>,
) -> Operand<'a> {
    match node {
        Node::Null => Operand::Null,
        Node::Integer(number) => Operand::Integer(*number),
        Node::Float(number) => Operand::Float(*number),
        Node::Boolean(value) => Operand::Boolean(*value),
        Node::Text(text) => Operand::Text(Cow::Borrowed(text)),
        Node::Own => own.clone(),
        Node::Signal(index) => signal(*index),
        Node::Negate(part) => match evaluate(part, own, signal) {
            Operand::Integer(number) => Operand::whole(number.checked_neg()),
            Operand::Float(number) => Operand::Float(-number),
            _ => Operand::Null,
        },
        Node::Not(part) => match evaluate(part, own, signal) {
            Operand::Boolean(value) => Operand::Boolean(!value),
            _ => Operand::Null,
        },
        Node::Binary(operator, parts) => {
            let one = evaluate(&parts.0, own, signal);
            let other = evaluate(&parts.1, own, signal);
            match operator {
                Operator::And => decided(one, other, false),
                Operator::Or => decided(one, other, true),
                _ => binary(*operator, one, other),
            }
        }
        Node::If(parts) => match evaluate(&parts.0, own, signal) {
            Operand::Boolean(true) => evaluate(&parts.1, own, signal),
            Operand::Boolean(false) => evaluate(&parts.2, own, signal),
            _ => Operand::Null,
        },
        Node::Call(function, parts) => {
            let mut parts = parts.iter().map(|part| evaluate(part, own, signal));
            let first = parts.next().unwrap_or(Operand::Null);
            match function {
                Function::Min => {
                    parts.fold(first, |one, other| extreme(one, other, Ordering::Less))
                }
                Function::Max => {
                    parts.fold(first, |one, other| extreme(one, other, Ordering::Greater))
                }
                Function::Abs => match first {
                    Operand::Integer(number) => Operand::whole(number.checked_abs()),
                    Operand::Float(number) => Operand::Float(number.abs()),
                    _ => Operand::Null,
                },
                Function::Round => round(first, parts.next()),
                Function::Text => match first {
                    Operand::Integer(number) => Operand::Text(number.to_string().into()),
                    Operand::Float(number) => Operand::Text(number.to_string().into()),
                    Operand::Boolean(value) => {
                        Operand::Text(if value { "true" } else { "false" }.into())
                    }
                    text => text,
                },
            }
        }
    }
}

/// `and` and `or`: `decisive` on either side decides, whatever the other one is.
fn decided<'a>(one: Operand<'a>, other: Operand<'a>, decisive: bool) -> Operand<'a> {
    match (one, other) {
        (Operand::Boolean(value), _) | (_, Operand::Boolean(value)) if value == decisive => {
            Operand::Boolean(decisive)
        }
        (Operand::Boolean(_), Operand::Boolean(_)) => Operand::Boolean(!decisive),
        _ => Operand::Null,
    }
}

fn binary<'a>(operator: Operator, one: Operand<'a>, other: Operand<'a>) -> Operand<'a> {
    use Operator::{Add, Divide, Multiply, Remainder, Subtract};
    match (operator, &one, &other) {
        (Add, Operand::Text(_), Operand::Text(_)) => {
            let (Operand::Text(one), Operand::Text(other)) = (one, other) else {
                return Operand::Null;
            };
            if one.len() + other.len() > MAX_TEXT {
                return Operand::Null;
            }
            Operand::text(one + other)
        }
        (Add | Subtract | Multiply | Remainder, Operand::Integer(one), Operand::Integer(other)) => {
            Operand::whole(match operator {
                Add => one.checked_add(*other),
                Subtract => one.checked_sub(*other),
                Multiply => one.checked_mul(*other),
                _ => one.checked_rem(*other),
            })
        }
        (Add | Subtract | Multiply | Divide | Remainder, one, other) => {
            let (Some(one), Some(other)) = (one.as_f64(), other.as_f64()) else {
                return Operand::Null;
            };
            Operand::finite(match operator {
                Add => one + other,
                Subtract => one - other,
                Multiply => one * other,
                // Zero divided by zero and anything else by it is not finite.
                Divide => one / other,
                _ => one % other,
            })
        }
        (operator, one, other) => compare(one, other).map_or(Operand::Null, |order| {
            Operand::Boolean(match operator {
                Operator::Equal => order.is_eq(),
                Operator::NotEqual => order.is_ne(),
                Operator::Less => order.is_lt(),
                Operator::LessOrEqual => order.is_le(),
                Operator::Greater => order.is_gt(),
                _ => order.is_ge(),
            })
        }),
    }
}

fn compare(one: &Operand<'_>, other: &Operand<'_>) -> Option<Ordering> {
    match (one, other) {
        (Operand::Integer(one), Operand::Integer(other)) => Some(one.cmp(other)),
        (Operand::Text(one), Operand::Text(other)) => Some(one.cmp(other)),
        (Operand::Boolean(one), Operand::Boolean(other)) => Some(one.cmp(other)),
        _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
    }
}

/// Of two numbers the one that is `wanted` than the other.
fn extreme<'a>(one: Operand<'a>, other: Operand<'a>, wanted: Ordering) -> Operand<'a> {
    let (Some(_), Some(_)) = (one.as_f64(), other.as_f64()) else {
        return Operand::Null;
    };
    if compare(&other, &one) == Some(wanted) {
        other
    } else {
        one
    }
}

/// Half goes away from zero. Without decimals it is a whole number, as far as a float tells.
fn round<'a>(number: Operand<'a>, decimals: Option<Operand<'a>>) -> Operand<'a> {
    match (number, decimals) {
        (Operand::Integer(number), _) => Operand::Integer(number),
        (Operand::Float(number), None | Some(Operand::Integer(0))) => {
            let rounded = number.round();
            if rounded.abs() <= EXACT {
                Operand::Integer(rounded as i128)
            } else {
                Operand::Float(rounded)
            }
        }
        (Operand::Float(number), Some(Operand::Integer(decimals))) => {
            let factor = 10_f64.powi(i32::try_from(decimals).unwrap_or(0));
            let rounded = (number * factor).round() / factor;
            // Of a number so large that this overflows there are no decimals.
            Operand::Float(if rounded.is_finite() { rounded } else { number })
        }
        _ => Operand::Null,
    }
}
