//! An expression as a row of words and signs.

use std::ops::Range;

use super::{ExpressionError, MAX_LENGTH, Operator};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    Integer(i128),
    Float(f64),
    /// What stood between quotes.
    Text(&'a str),
    /// A keyword, a function or a name, with what stands behind its `@`.
    Word(&'a str, Option<&'a str>),
    Sign(Operator),
    Open,
    Close,
    Comma,
    End,
}

impl Token<'_> {
    /// As a message quotes it.
    pub(super) fn describe(&self, written: &str) -> String {
        match self {
            Self::End => "the end".to_owned(),
            _ => format!("`{written}`"),
        }
    }
}

/// The tokens of `text` with their places; the last one is [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<(Token<'_>, Range<usize>)>, ExpressionError> {
    if text.len() > MAX_LENGTH {
        return Err(ExpressionError {
            code: "bad-expression",
            at: 0..text.len(),
            message: format!("an expression has at most {MAX_LENGTH} bytes"),
            hint: "split it into several signals".to_owned(),
        });
    }
    let mut tokens = Vec::new();
    let mut start = 0;
    while let Some(rest) = text.get(start..)
        && let Some(first) = rest.chars().next()
    {
        let (token, length) = match first {
            c if c.is_whitespace() => {
                start += c.len_utf8();
                continue;
            }
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            '"' | '\'' => quoted(rest, first, start)?,
            c if c.is_ascii_digit() || is_name(c) => word(rest, start)?,
            _ => sign(rest, first, start)?,
        };
        tokens.push((token, start..start + length));
        start += length;
    }
    tokens.push((Token::End, text.len()..text.len()));
    Ok(tokens)
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// What may stand inside a name: so `too-warm` is one, and a minus has a space on both sides.
fn is_inside_name(c: char) -> bool {
    is_name(c) || matches!(c, '-' | '.' | ':')
}

fn quoted(rest: &str, quote: char, start: usize) -> Result<(Token<'_>, usize), ExpressionError> {
    let Some(inside) = rest.get(1..).and_then(|rest| rest.find(quote)) else {
        return Err(error(
            start..start + rest.len(),
            format!("the text that begins with {quote} has no end"),
            format!("write another {quote} behind it"),
        ));
    };
    let text = rest.get(1..=inside).unwrap_or_default();
    Ok((Token::Text(text), inside + 2))
}

fn word(rest: &str, start: usize) -> Result<(Token<'_>, usize), ExpressionError> {
    let length = |text: &str| {
        let end = text.find(|c| !is_inside_name(c));
        end.unwrap_or(text.len())
    };
    let (name, behind) = rest.split_at(length(rest));
    if let Some(instance) = behind.strip_prefix('@') {
        let instance = &instance[..length(instance)];
        let end = name.len() + 1 + instance.len();
        if instance.is_empty() {
            return Err(error(
                start..start + end,
                format!("the instance of `{name}` is missing"),
                format!("write its name behind the `@`, as in `{name}@air`"),
            ));
        }
        return Ok((Token::Word(name, Some(instance)), end));
    }
    if !name.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok((Token::Word(name, None), name.len()));
    }
    // `1e+6`: the sign belongs to the number.
    let mantissa = name.strip_suffix(['e', 'E']);
    let exponent = behind.strip_prefix('+').map(|digits| {
        let end = digits.find(|c: char| !c.is_ascii_digit());
        end.unwrap_or(digits.len())
    });
    let length = match (mantissa, exponent) {
        (Some(mantissa), Some(digits)) if digits > 0 && is_number(mantissa) => {
            name.len() + 1 + digits
        }
        _ => name.len(),
    };
    let written = &rest[..length];
    number(written, start).map(|token| (token, length))
}

fn is_number(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_digit() || c == '.')
}

fn number(written: &str, start: usize) -> Result<Token<'_>, ExpressionError> {
    let at = start..start + written.len();
    if written.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(number) = written.parse()
    {
        return Ok(Token::Integer(number));
    }
    // What Rust reads as a number beyond these is a name here: `inf`, `1_000`.
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '-' | '+');
    let number = written.parse::<f64>().ok();
    match number.filter(|_| written.chars().all(plain)) {
        Some(number) if number.is_finite() => Ok(Token::Float(number)),
        Some(_) => Err(error(
            at,
            format!("`{written}` is out of range"),
            "write a number up to 1e308".to_owned(),
        )),
        // A signal may be called like this.
        None if written.contains(|c: char| c.is_alphabetic()) => Ok(Token::Word(written, None)),
        None => Err(error(
            at,
            format!("`{written}` is no number"),
            if written.contains('-') {
                "a minus has a space on both sides: `3 - 1`".to_owned()
            } else {
                "write it like `0.5`".to_owned()
            },
        )),
    }
}

fn sign(rest: &str, first: char, start: usize) -> Result<(Token<'static>, usize), ExpressionError> {
    use Operator::{
        Add, Divide, Equal, Greater, GreaterOrEqual, Less, LessOrEqual, Multiply, NotEqual,
        Remainder, Subtract,
    };
    const SIGNS: [(&str, Operator); 11] = [
        ("==", Equal),
        ("!=", NotEqual),
        ("<=", LessOrEqual),
        (">=", GreaterOrEqual),
        ("<", Less),
        (">", Greater),
        ("+", Add),
        ("-", Subtract),
        ("*", Multiply),
        ("/", Divide),
        ("%", Remainder),
    ];
    let found = SIGNS.iter().find(|(sign, _)| rest.starts_with(sign));
    if let Some((sign, operator)) = found {
        return Ok((Token::Sign(*operator), sign.len()));
    }
    const OTHERS: [(&str, &str); 8] = [
        ("&&", "write `and`"),
        ("||", "write `or`"),
        (
            "&",
            "write `and`; to take bits apart, use `bits = { 0 = \"…\" }`",
        ),
        ("|", "write `or`"),
        ("=", "write `==` to compare"),
        ("!", "write `not`"),
        ("?", "write `if(condition, then, else)`"),
        (
            "@",
            "write the name of the signal before it: `temperature@air`",
        ),
    ];
    let other = OTHERS.iter().find(|(sign, _)| rest.starts_with(sign));
    let (length, hint) = match other {
        Some((sign, hint)) => (sign.len(), *hint),
        None => (
            first.len_utf8(),
            "an expression has numbers, names, text in quotes, `+ - * / %`, comparisons, `and or \
             not` and `min max abs round if text`",
        ),
    };
    Err(error(
        start..start + length,
        format!(
            "`{}` means nothing here",
            rest.get(..length).unwrap_or_default()
        ),
        hint.to_owned(),
    ))
}

fn error(at: Range<usize>, message: String, hint: String) -> ExpressionError {
    ExpressionError {
        code: "bad-expression",
        at,
        message,
        hint,
    }
}
