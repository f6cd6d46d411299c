//! Values of resources and their data types (LwM2M Core 1.1, appendix C).

use std::fmt;
use std::str::FromStr;

use crate::lwm2m::path::{Id, Path};
use crate::time::UnixTime;

/// The data type of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    /// UTF-8 text.
    String,
    /// 8 to 64 bit, signed.
    Integer,
    /// 8 to 64 bit, unsigned (since LwM2M 1.1).
    UnsignedInteger,
    /// 32 or 64 bit IEEE 754.
    Float,
    /// True or false.
    Boolean,
    /// Bytes.
    Opaque,
    /// Seconds since 1970-01-01T00:00:00Z.
    Time,
    /// Object Link: object and instance.
    ObjectLink,
    /// Link-format text (since LwM2M 1.1).
    CoreLink,
}

/// As object files name it.
impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::String => "String",
            Self::Integer => "Integer",
            Self::UnsignedInteger => "Unsigned Integer",
            Self::Float => "Float",
            Self::Boolean => "Boolean",
            Self::Opaque => "Opaque",
            Self::Time => "Time",
            Self::ObjectLink => "Objlnk",
            Self::CoreLink => "Corelnk",
        })
    }
}

/// The value of a resource or a resource instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// UTF-8 text.
    String(String),
    /// Signed integer.
    Integer(i64),
    /// Unsigned integer.
    UnsignedInteger(u64),
    /// Floating point number; never NaN or infinite when it came from a decoder.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// Bytes; also what TLV carries for a resource of unknown type.
    Opaque(Vec<u8>),
    /// Seconds since 1970-01-01T00:00:00Z.
    Time(i64),
    /// A link to an Object Instance.
    ObjectLink(ObjectLink),
    /// Link-format text.
    CoreLink(String),
}

impl Value {
    /// The type that this value is of.
    pub const fn data_type(&self) -> DataType {
        match self {
            Self::String(_) => DataType::String,
            Self::Integer(_) => DataType::Integer,
            Self::UnsignedInteger(_) => DataType::UnsignedInteger,
            Self::Float(_) => DataType::Float,
            Self::Boolean(_) => DataType::Boolean,
            Self::Opaque(_) => DataType::Opaque,
            Self::Time(_) => DataType::Time,
            Self::ObjectLink(_) => DataType::ObjectLink,
            Self::CoreLink(_) => DataType::CoreLink,
        }
    }

    /// The same value as another type, where that loses nothing but the type: numbers among each
    /// other (a fraction never becomes an integer, except as Time, which is cut to the second), text
    /// as Corelnk, `66:0` as Objlnk, an RFC 3339 text as Time.
    ///
    /// # Errors
    ///
    /// The value as it was, where it is of another kind or outside the type's range.
    pub fn coerce(self, data_type: DataType) -> Result<Self, Self> {
        let coerced = match (&self, data_type) {
            (value, data_type) if value.data_type() == data_type => return Ok(self),
            (_, DataType::Float) => self.as_f64().map(Self::Float),
            (_, DataType::Integer) => self.as_i64().map(Self::Integer),
            (_, DataType::UnsignedInteger) => self.as_u64().map(Self::UnsignedInteger),
            (Self::Float(number), DataType::Time) => exact_i64(number.floor()).map(Self::Time),
            (Self::String(text), DataType::Time) => text
                .parse()
                .ok()
                .map(|time: jiff::Timestamp| Self::Time(time.as_second())),
            (_, DataType::Time) => self.as_i64().map(Self::Time),
            (Self::String(_), DataType::CoreLink) => {
                let Self::String(text) = self else {
                    return Err(self);
                };
                return Ok(Self::CoreLink(text));
            }
            (Self::String(text), DataType::ObjectLink) => text.parse().ok().map(Self::ObjectLink),
            _ => None,
        };
        coerced.ok_or(self)
    }

    /// A whole number that is not negative: Integer where it can be.
    pub(crate) fn of_u64(number: u64) -> Self {
        i64::try_from(number).map_or(Self::UnsignedInteger(number), Self::Integer)
    }

    /// A whole number, if it is one of 64 bits.
    pub(crate) fn whole(number: i128) -> Option<Self> {
        match i64::try_from(number) {
            Ok(number) => Some(Self::Integer(number)),
            Err(_) => u64::try_from(number).ok().map(Self::UnsignedInteger),
        }
    }

    /// The number as a floating point number, the nearest there is.
    pub(crate) fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Integer(number) | Self::Time(number) => Some(number as f64),
            Self::UnsignedInteger(number) => Some(number as f64),
            Self::Float(number) => Some(number),
            _ => None,
        }
    }

    /// The number, if it is a whole one in range.
    fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::Integer(number) | Self::Time(number) => Some(number),
            Self::UnsignedInteger(number) => i64::try_from(number).ok(),
            Self::Float(number) => exact_i64(number),
            _ => None,
        }
    }

    /// The number, if it is a whole one in range.
    fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Integer(number) | Self::Time(number) => u64::try_from(number).ok(),
            Self::UnsignedInteger(number) => Some(number),
            Self::Float(number) => {
                const END: f64 = 18_446_744_073_709_551_616.0;
                let fits = number.fract() == 0.0 && (0.0..END).contains(&number);
                fits.then_some(number as u64)
            }
            _ => None,
        }
    }
}

fn exact_i64(number: f64) -> Option<i64> {
    const END: f64 = 9_223_372_036_854_775_808.0;
    let fits = number.fract() == 0.0 && (-END..END).contains(&number);
    fits.then_some(number as i64)
}

/// The value of an Object Link: `object:instance`.
///
/// 65535 as instance stands for the object itself, 65535:65535 for no link at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLink {
    /// Object ID.
    pub object: Id,
    /// Object Instance ID.
    pub instance: Id,
}

impl fmt::Display for ObjectLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.object, self.instance)
    }
}

/// Why a text is not an [`ObjectLink`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an Objlnk is two numbers up to 65535 with a colon between them, as in 66:0")]
pub struct ObjectLinkError;

/// `66:0`; and `FFFF:FFFF`, as an example of LwM2M Core 1.1 §7.4.4 has it, for no link.
impl FromStr for ObjectLink {
    type Err = ObjectLinkError;

    fn from_str(text: &str) -> Result<Self, ObjectLinkError> {
        let number = |digits: &str| match digits {
            _ if digits.eq_ignore_ascii_case("FFFF") => Ok(u16::MAX),
            _ if digits.starts_with('+') => Err(ObjectLinkError),
            _ => digits.parse().map_err(|_| ObjectLinkError),
        };
        let (object, instance) = text.split_once(':').ok_or(ObjectLinkError)?;
        Ok(Self {
            object: number(object)?,
            instance: number(instance)?,
        })
    }
}

/// One value of one node, as a payload carries it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// A resource or a resource instance.
    pub path: Path,
    /// Its value.
    pub value: Value,
    /// When the device took it, if the payload says so.
    pub time: Option<UnixTime>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_each_other_where_nothing_is_lost() {
        use DataType::{Float, Integer, Time, UnsignedInteger};
        for (value, data_type, coerced) in [
            (Value::Integer(22), Float, Value::Float(22.0)),
            (Value::Float(22.0), Integer, Value::Integer(22)),
            (Value::UnsignedInteger(7), Integer, Value::Integer(7)),
            (
                Value::Integer(7),
                UnsignedInteger,
                Value::UnsignedInteger(7),
            ),
            (
                Value::Float(-2f64.powi(63)),
                Integer,
                Value::Integer(i64::MIN),
            ),
            (Value::Float(1.9), Time, Value::Time(1)),
            (
                Value::String("1970-01-01T00:01:00Z".into()),
                Time,
                Value::Time(60),
            ),
        ] {
            assert_eq!(value.coerce(data_type), Ok(coerced));
        }
        for (value, data_type) in [
            (Value::Float(22.5), Integer),
            (Value::Float(2f64.powi(63)), Integer),
            (Value::Float(2f64.powi(64)), UnsignedInteger),
            (Value::Float(f64::NAN), Integer),
            (Value::Integer(-1), UnsignedInteger),
            (Value::UnsignedInteger(u64::MAX), Integer),
            (Value::Boolean(true), Integer),
            (Value::String("22".into()), Integer),
            (Value::Integer(1), DataType::Boolean),
        ] {
            let text = format!("{value:?}");
            let refused = value.coerce(data_type).unwrap_err();
            assert_eq!(format!("{refused:?}"), text, "as {data_type}");
        }
    }

    #[test]
    fn an_object_link_is_two_numbers() {
        let link = |object, instance| Ok(ObjectLink { object, instance });
        assert_eq!("66:0".parse(), link(66, 0));
        assert_eq!("65535:65535".parse(), link(65535, 65535));
        assert_eq!("FFFF:ffff".parse(), link(65535, 65535));
        for text in ["", "66", "66:", ":0", "66:65536", "+66:0", "66:0:0", "a:b"] {
            assert_eq!(text.parse::<ObjectLink>(), Err(ObjectLinkError), "{text}");
        }
    }
}
