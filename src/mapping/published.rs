//! What a mapping makes of a value.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use crate::lwm2m::value::Value;

/// A value as it is published.
#[derive(Clone, Debug, PartialEq)]
pub enum Published {
    /// One of the types of resources.
    Value(Value),
    /// The names of the bits that are set.
    Names(Vec<String>),
    /// The fields of a frame, in its order.
    Fields(Vec<(Arc<str>, Self)>),
}

impl Published {
    /// The plain value, if it is one.
    pub fn as_value(&self) -> Option<&Value> {
        match self {
            Self::Value(value) => Some(value),
            _ => None,
        }
    }
}

impl From<Value> for Published {
    fn from(value: Value) -> Self {
        Self::Value(value)
    }
}

/// How bytes are written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// RFC 4648 §4, with padding; read with or without.
    Base64,
    /// RFC 4648 §5, without padding.
    Base64Url,
    /// Two lower-case digits a byte; read in either case.
    Hex,
    /// UTF-8.
    Text,
}

impl Encoding {
    pub(super) const CHOICES: [(&'static str, Self); 4] = [
        ("base64", Self::Base64),
        ("base64url", Self::Base64Url),
        ("hex", Self::Hex),
        ("text", Self::Text),
    ];

    /// Nothing where the bytes are no such text.
    pub(super) fn encode(self, bytes: &[u8]) -> Option<String> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |half: u8| char::from(DIGITS.get(usize::from(half)).copied().unwrap_or(b'0'));
        Some(match self {
            Self::Base64 => STANDARD.encode(bytes),
            Self::Base64Url => URL_SAFE_NO_PAD.encode(bytes),
            Self::Hex => bytes
                .iter()
                .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
                .collect(),
            Self::Text => return String::from_utf8(bytes.to_vec()).ok(),
        })
    }

    /// Nothing where the text is no such one.
    pub(super) fn decode(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Base64 => STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok(),
            Self::Base64Url => URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok(),
            Self::Text => Some(text.as_bytes().to_vec()),
            Self::Hex => {
                let (pairs, rest) = text.as_bytes().as_chunks::<2>();
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let bytes = pairs
                    .iter()
                    .map(|[high, low]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok());
                bytes.collect::<Option<_>>().filter(|_| rest.is_empty())
            }
        }
    }
}

/// Names of the bits of a whole number.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bits(Vec<(u8, String)>);

impl Bits {
    /// The names of bits 0 to 63.
    pub(super) const fn new(names: Vec<(u8, String)>) -> Self {
        Self(names)
    }

    /// The names of the bits that are set, the lowest first; one without name is `bit-N`.
    pub(super) fn names(&self, bits: u64) -> Vec<String> {
        (0..64)
            .filter(|bit| bits >> bit & 1 == 1)
            .map(|bit| {
                let named = self.0.iter().find(|(number, _)| *number == bit);
                named.map_or_else(|| format!("bit-{bit}"), |(_, name)| name.clone())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_text_and_read_back() {
        let bytes = [0, 0x1f, 0xff, 0xfb];
        for (encoding, text) in [
            (Encoding::Base64, "AB//+w=="),
            (Encoding::Base64Url, "AB__-w"),
            (Encoding::Hex, "001ffffb"),
        ] {
            assert_eq!(encoding.encode(&bytes).as_deref(), Some(text));
            assert_eq!(encoding.decode(text).as_deref(), Some(&bytes[..]));
        }
        assert_eq!(Encoding::Text.encode(&bytes), None);
        assert_eq!(Encoding::Text.encode("ü".as_bytes()).as_deref(), Some("ü"));
        assert_eq!(Encoding::Hex.decode("1F"), Some(vec![0x1f]));
        for text in ["1", "1g", "ü", "+1"] {
            assert_eq!(Encoding::Hex.decode(text), None, "{text}");
        }
        assert_eq!(Encoding::Base64.decode("?"), None);
    }

    #[test]
    fn a_bit_without_a_name_is_kept_by_its_number() {
        let bits = Bits::new(vec![(5, "tamper".into()), (1, "leak".into())]);
        assert_eq!(bits.names(0b10_0010), ["leak", "tamper"]);
        assert_eq!(bits.names(0b100 | 1 << 63), ["bit-2", "bit-63"]);
        assert!(bits.names(0).is_empty());
    }
}
