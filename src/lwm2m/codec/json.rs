//! Single items of JSON, for the formats made of them.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

use super::senml::Field;
use crate::lwm2m::value::Value;

/// A text, borrowed unless it has escapes.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        match Scalar::deserialize(json)? {
            Scalar::Text(text) => Ok(Self(text)),
            _ => Err(de::Error::custom("a string is expected")),
        }
    }
}

/// A number, exact where it is whole and of 64 bits.
pub(super) struct Number(pub(super) Value);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        match Scalar::deserialize(json)? {
            Scalar::Number(number) => Ok(Self(number)),
            _ => Err(de::Error::custom("a number is expected")),
        }
    }
}

/// What may stand where a value is expected.
pub(super) enum Scalar<'a> {
    Null,
    Boolean(bool),
    Number(Value),
    Text(Cow<'a, str>),
    /// An array or an object, passed over.
    Other,
}

impl Scalar<'_> {
    /// The value that `read` makes of a text.
    pub(super) fn or(self, read: impl FnOnce(&str) -> Field) -> Field {
        match self {
            Self::Text(text) => read(&text),
            other => other.into(),
        }
    }
}

impl From<Scalar<'_>> for Field {
    fn from(scalar: Scalar<'_>) -> Self {
        match scalar {
            Scalar::Null => Self::Null,
            Scalar::Boolean(value) => Self::Value(Value::Boolean(value)),
            Scalar::Number(number) => Self::Value(number),
            Scalar::Text(text) => Self::Value(Value::String(text.into_owned())),
            Scalar::Other => Self::Other,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;

        impl<'de> Visitor<'de> for ScalarVisitor {
            type Value = Scalar<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Null)
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Boolean(value))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Number(Value::Integer(number)))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Number(Value::of_u64(number)))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Number(Value::Float(number)))
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Scalar<'de>, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Scalar<'de>, A::Error> {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
        }

        json.deserialize_any(ScalarVisitor)
    }
}
