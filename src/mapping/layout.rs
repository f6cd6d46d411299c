//! Frames of bytes taken apart, field by field.

use std::sync::Arc;

use super::published::{Bits, Encoding, Published};
use super::unit::{Line, dusted};
use crate::lwm2m::value::Value;

/// What the bytes of an opaque resource are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layout {
    /// In the order in which they are published.
    pub(super) fields: Vec<Field>,
    /// How bytes are written; and how they came, where the resource is a text.
    pub(super) encoding: Encoding,
}

/// One field of a frame.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) name: Arc<str>,
    /// The first byte.
    pub(super) at: usize,
    pub(super) form: Form,
    /// What becomes of a number.
    pub(super) reading: Reading,
}

/// How a field is written in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// So many bytes, 1 to 8.
    Whole {
        bytes: usize,
        signed: bool,
        little: bool,
    },
    /// IEEE 754, 4 or 8 bytes.
    Float { bytes: usize, little: bool },
    /// UTF-8 of so many bytes; what follows a NUL is no part of it.
    Text(usize),
    /// So many bytes.
    Bytes(usize),
}

/// What becomes of the number of a field.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reading {
    Number { line: Line, round: Option<u8> },
    Bits(Bits),
    Names(Vec<(i64, String)>),
}

/// Types of fields that are one word.
pub(super) const FORMS: [(&str, Form); 26] = {
    const fn whole(bytes: usize, signed: bool, little: bool) -> Form {
        Form::Whole {
            bytes,
            signed,
            little,
        }
    }
    [
        ("u8", whole(1, false, false)),
        ("i8", whole(1, true, false)),
        ("u16be", whole(2, false, false)),
        ("u16le", whole(2, false, true)),
        ("i16be", whole(2, true, false)),
        ("i16le", whole(2, true, true)),
        ("u24be", whole(3, false, false)),
        ("u24le", whole(3, false, true)),
        ("i24be", whole(3, true, false)),
        ("i24le", whole(3, true, true)),
        ("u32be", whole(4, false, false)),
        ("u32le", whole(4, false, true)),
        ("i32be", whole(4, true, false)),
        ("i32le", whole(4, true, true)),
        ("u48be", whole(6, false, false)),
        ("u48le", whole(6, false, true)),
        ("i48be", whole(6, true, false)),
        ("i48le", whole(6, true, true)),
        ("u64be", whole(8, false, false)),
        ("u64le", whole(8, false, true)),
        ("i64be", whole(8, true, false)),
        ("i64le", whole(8, true, true)),
        (
            "f32be",
            Form::Float {
                bytes: 4,
                little: false,
            },
        ),
        (
            "f32le",
            Form::Float {
                bytes: 4,
                little: true,
            },
        ),
        (
            "f64be",
            Form::Float {
                bytes: 8,
                little: false,
            },
        ),
        (
            "f64le",
            Form::Float {
                bytes: 8,
                little: true,
            },
        ),
    ]
};

impl Form {
    /// In bytes.
    pub(super) const fn len(self) -> usize {
        match self {
            Self::Whole { bytes, .. } | Self::Float { bytes, .. } => bytes,
            Self::Text(bytes) | Self::Bytes(bytes) => bytes,
        }
    }
}

impl Layout {
    /// How many bytes a frame has at least.
    pub(super) fn len(&self) -> usize {
        let ends = self.fields.iter().map(|field| field.at + field.form.len());
        ends.max().unwrap_or(0)
    }

    /// The fields of a frame; nothing where it is too short. More bytes than there are fields for
    /// are no mistake: a later firmware may append some.
    pub(super) fn take_apart(&self, frame: &[u8]) -> Option<Published> {
        let fields = self.fields.iter().map(|field| {
            let bytes = frame.get(field.at..field.at + field.form.len())?;
            Some((Arc::clone(&field.name), field.read(bytes, self.encoding)))
        });
        fields.collect::<Option<_>>().map(Published::Fields)
    }
}

impl Field {
    /// A number that is not finite, and text that is none, are written as their bytes.
    fn read(&self, bytes: &[u8], encoding: Encoding) -> Published {
        let as_bytes = || {
            let text = encoding
                .encode(bytes)
                .or_else(|| Encoding::Hex.encode(bytes));
            Published::Value(Value::String(text.unwrap_or_default()))
        };
        match self.form {
            Form::Bytes(_) => as_bytes(),
            Form::Text(_) => {
                let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                str::from_utf8(text).map_or_else(
                    |_| as_bytes(),
                    |text| Published::Value(Value::String(text.to_owned())),
                )
            }
            Form::Float { little, .. } => match (float(bytes, little), &self.reading) {
                (Some(number), Reading::Number { line, round }) => {
                    let number = rounded(scaled(line, number), *round);
                    if number.is_finite() {
                        Published::Value(Value::Float(number))
                    } else {
                        as_bytes()
                    }
                }
                _ => as_bytes(),
            },
            Form::Whole { signed, little, .. } => {
                let bits = unsigned(bytes, little);
                let spare = 64 - 8 * u32::try_from(bytes.len().min(8)).unwrap_or(8);
                let number = if signed {
                    // The sign bit is moved to the top, and back with it all those above.
                    Value::Integer((bits << spare) as i64 >> spare)
                } else {
                    Value::of_u64(bits)
                };
                self.reading.of(number, bits)
            }
        }
    }
}

impl Reading {
    fn of(&self, number: Value, bits: u64) -> Published {
        match self {
            Self::Bits(names) => Published::Names(names.names(bits)),
            Self::Names(names) => {
                let found = names
                    .iter()
                    .find(|(value, _)| number == Value::Integer(*value));
                Published::Value(found.map_or(number, |(_, name)| Value::String(name.clone())))
            }
            Self::Number { line, round } if line.is_same() && round.is_none() => {
                Published::Value(number)
            }
            Self::Number { line, round } => {
                let number = number.as_f64().unwrap_or_default();
                let result = rounded(scaled(line, number), *round);
                let whole = *round == Some(0) || line.keeps_whole();
                let exact = result.abs() <= 9_007_199_254_740_992.0 && result.fract() == 0.0;
                Published::Value(if whole && exact {
                    Value::Integer(result as i64)
                } else {
                    Value::Float(result)
                })
            }
        }
    }
}

/// 0.3, and not 0.30000000000000004; a number that is not scaled stays as it is.
fn scaled(line: &Line, number: f64) -> f64 {
    if line.is_same() {
        number
    } else {
        dusted(line.apply(number))
    }
}

/// To so many decimals.
pub(super) fn rounded(number: f64, decimals: Option<u8>) -> f64 {
    match decimals {
        Some(decimals) => {
            let factor = 10_f64.powi(i32::from(decimals));
            (number * factor).round() / factor
        }
        None => number,
    }
}

fn unsigned(bytes: &[u8], little: bool) -> u64 {
    let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
    if little {
        bytes.iter().rev().fold(0, add)
    } else {
        bytes.iter().fold(0, add)
    }
}

fn float(bytes: &[u8], little: bool) -> Option<f64> {
    let bits = unsigned(bytes, little);
    let number = match bytes.len() {
        4 => f64::from(f32::from_bits(u32::try_from(bits).ok()?)),
        _ => f64::from_bits(bits),
    };
    number.is_finite().then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Reading {
        Reading::Number {
            line: Line::SAME,
            round: None,
        }
    }

    fn read(form: &str, bytes: &[u8]) -> Published {
        let (_, form) = FORMS.iter().find(|(name, _)| *name == form).unwrap();
        assert_eq!(form.len(), bytes.len());
        let field = Field {
            name: "x".into(),
            at: 0,
            form: *form,
            reading: plain(),
        };
        field.read(bytes, Encoding::Hex)
    }

    #[test]
    fn numbers_are_read_in_every_width_sign_and_order() {
        for (form, bytes, number) in [
            ("u8", &[0xff][..], 255),
            ("i8", &[0xff], -1),
            ("i8", &[0x7f], 127),
            ("u16be", &[1, 2], 258),
            ("u16le", &[1, 2], 513),
            ("i16be", &[0xff, 0xfe], -2),
            ("i16le", &[0xfe, 0xff], -2),
            ("u24be", &[1, 0, 0], 65_536),
            ("i24le", &[0, 0, 0x80], -8_388_608),
            ("u32le", &[0, 0, 0, 0x80], 2_147_483_648),
            ("i32be", &[0x80, 0, 0, 0], -2_147_483_648),
            ("u48be", &[1, 0, 0, 0, 0, 0], 1 << 40),
            ("i64be", &[0xff; 8], -1),
        ] {
            assert_eq!(read(form, bytes), Value::Integer(number).into(), "{form}");
        }
        assert_eq!(
            read("u64le", &[0xff; 8]),
            Value::UnsignedInteger(u64::MAX).into()
        );
        let bytes = 2.5f32.to_be_bytes();
        assert_eq!(read("f32be", &bytes), Value::Float(2.5).into());
        let bytes = (-0.1f64).to_le_bytes();
        assert_eq!(read("f64le", &bytes), Value::Float(-0.1).into());
    }

    #[test]
    fn what_is_no_number_or_text_is_shown_as_its_bytes() {
        let bytes = f32::NAN.to_be_bytes();
        assert_eq!(
            read("f32be", &bytes),
            Value::String("7fc00000".into()).into()
        );
        let text = |bytes: &[u8]| {
            let field = Field {
                name: "x".into(),
                at: 0,
                form: Form::Text(bytes.len()),
                reading: plain(),
            };
            field.read(bytes, Encoding::Base64)
        };
        assert_eq!(text(b"ab\0\xff"), Value::String("ab".into()).into());
        assert_eq!(text(b"\xff"), Value::String("/w==".into()).into());
    }

    #[test]
    fn a_frame_too_short_is_none_and_a_longer_one_is() {
        let field = |name: &str, at, form, reading| Field {
            name: name.into(),
            at,
            form,
            reading,
        };
        let whole = Form::Whole {
            bytes: 1,
            signed: false,
            little: false,
        };
        let layout = Layout {
            fields: vec![
                field(
                    "temp",
                    1,
                    Form::Whole {
                        bytes: 2,
                        signed: true,
                        little: false,
                    },
                    Reading::Number {
                        line: Line::of(0.1, 0.0),
                        round: Some(1),
                    },
                ),
                field(
                    "flags",
                    0,
                    whole,
                    Reading::Bits(Bits::new(vec![(0, "dry".into())])),
                ),
                field("mode", 3, whole, Reading::Names(vec![(1, "auto".into())])),
            ],
            encoding: Encoding::Base64,
        };
        assert_eq!(layout.len(), 4);
        assert_eq!(layout.take_apart(&[3, 0, 1]), None);
        let fields = Published::Fields(vec![
            ("temp".into(), Value::Float(-1.5).into()),
            (
                "flags".into(),
                Published::Names(vec!["dry".into(), "bit-1".into()]),
            ),
            ("mode".into(), Value::String("auto".into()).into()),
        ]);
        assert_eq!(layout.take_apart(&[3, 0xff, 0xf1, 1, 9, 9]), Some(fields));
    }
}
