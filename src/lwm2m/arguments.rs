//! Arguments of Execute (LwM2M Core 1.1 §6.3.5).

use std::fmt;

/// Arguments of Execute: a digit each, with a value or without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments(pub Vec<(u8, Option<String>)>);

impl Arguments {
    /// Reads `0='U',2='10.3',5`. Nothing is no arguments; a digit twice, or a character outside
    /// the grammar, is a mistake.
    pub fn parse(text: &str) -> Option<Self> {
        let mut arguments = Self::default();
        let mut rest = text;
        while !rest.is_empty() {
            let digit = rest.bytes().next().filter(u8::is_ascii_digit)? - b'0';
            rest = rest.get(1..)?;
            let mut value = None;
            if let Some(quoted) = rest.strip_prefix("='") {
                let (inside, after) = quoted.split_once('\'')?;
                value = Some(inside.to_owned());
                rest = after;
            }
            arguments.add(digit, value)?;
            if !rest.is_empty() {
                rest = rest.strip_prefix(',').filter(|rest| !rest.is_empty())?;
            }
        }
        Some(arguments)
    }

    /// Adds one; `None` for what is no digit, a digit that is there, or a value with a character
    /// outside the grammar: a space, a quotation mark or a backslash among them.
    pub fn add(&mut self, digit: u8, value: Option<String>) -> Option<()> {
        let is_there = self.0.iter().any(|&(known, _)| known == digit);
        let is_written = |text: &String| text.bytes().all(is_argument_byte);
        let is_right = digit <= 9 && !is_there && value.as_ref().is_none_or(is_written);
        is_right.then(|| self.0.push((digit, value)))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// CHAR of the grammar: printable, without space, quotes and backslash.
fn is_argument_byte(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x26 | 0x28..=0x5b | 0x5d..=0x7e)
}

/// As [`Arguments::parse`] reads it.
impl fmt::Display for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (digit, value)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{digit}")?;
            if let Some(value) = value {
                write!(f, "='{value}'")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // conformance: P25
    #[test]
    fn execute_arguments_follow_their_grammar() {
        let text = "0='U',2='10.3',5";
        let parsed = Arguments::parse(text).unwrap();
        assert_eq!(
            parsed.0,
            [(0, Some("U".into())), (2, Some("10.3".into())), (5, None)]
        );
        assert_eq!(parsed.to_string(), text);
        assert_eq!(Arguments::parse(""), Some(Arguments::default()));
        assert_eq!(
            Arguments::parse("1=''").unwrap().0,
            [(1, Some(String::new()))]
        );
        for wrong in [
            "a", "0,", "0='a", "0=a", "0,0", "0='a b'", "0='\"'", ",1", "10",
        ] {
            assert_eq!(Arguments::parse(wrong), None, "{wrong}");
        }
    }
}
