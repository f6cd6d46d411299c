//! CoRE link format (RFC 6690), as far as LwM2M uses it.
//!
//! Devices are not of one mind about it. Read are: values with and without quotation marks, white
//! space around separators, a `/` at the end of a target, attributes without a value, an empty
//! list and a comma too many at the end.

use std::fmt::{self, Write};

pub use super::object_list::ObjectList;

/// The most links that one payload may have.
pub const MAX_LINKS: usize = 4096;

/// One link: `</3303/0>;pmin=10`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What stands between `<` and `>`, without a `/` at its end unless it is `/`.
    pub target: String,
    /// Names and values in their order, values without their quotation marks.
    pub attributes: Vec<(String, Option<String>)>,
}

/// Why a text is not in link format, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}: {reason}")]
pub struct LinkError {
    /// Where, from 0.
    pub offset: usize,
    /// What should be there.
    pub reason: &'static str,
}

/// The links of a payload, in their order.
///
/// # Errors
///
/// When the payload is not link format, or has more than [`MAX_LINKS`] links.
pub fn parse(payload: &[u8]) -> Result<Vec<Link>, LinkError> {
    let text = std::str::from_utf8(payload).map_err(|error| LinkError {
        offset: error.valid_up_to(),
        reason: "this is not UTF-8",
    })?;
    let mut cursor = Cursor { text, at: 0 };
    let mut links = Vec::new();
    loop {
        cursor.skip_space();
        if cursor.is_at_end() {
            return Ok(links);
        }
        if links.len() == MAX_LINKS {
            return Err(cursor.error("there are more than 4096 links"));
        }
        links.push(cursor.link()?);
        if !cursor.is_at_end() {
            cursor.expect(',', "links are parted by ','")?;
        }
    }
}

/// Links with a comma between them, as a payload.
pub fn write(links: &[Link]) -> String {
    let mut text = String::new();
    for link in links {
        if !text.is_empty() {
            text.push(',');
        }
        // A String takes everything.
        let _ = write!(text, "{link}");
    }
    text
}

impl Link {
    /// A link without attributes.
    pub fn new(target: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            attributes: Vec::new(),
        }
    }

    /// The value of the first attribute of this name that has one.
    pub fn value(&self, name: &str) -> Option<&str> {
        let mut named = self.attributes.iter().filter(|(other, _)| other == name);
        named.find_map(|(_, value)| value.as_deref())
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.target)?;
        self.attributes
            .iter()
            .try_for_each(|(name, value)| write_attribute(f, name, value.as_deref()))
    }
}

/// Numbers and versions bare, as all devices understand them, everything else in quotation marks.
pub(super) fn write_attribute(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    value: Option<&str>,
) -> fmt::Result {
    write!(f, ";{name}")?;
    let Some(value) = value else {
        return Ok(());
    };
    let is_bare = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
    if !value.is_empty() && value.bytes().all(is_bare) {
        return write!(f, "={value}");
    }
    f.write_str("=\"")?;
    for letter in value.chars() {
        if matches!(letter, '"' | '\\') {
            f.write_char('\\')?;
        }
        f.write_char(letter)?;
    }
    f.write_char('"')
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// One link, and the white space behind it.
    fn link(&mut self) -> Result<Link, LinkError> {
        self.expect('<', "a link begins with '<'")?;
        let start = self.at;
        let target = self.until(|letter| letter == '>');
        if target.is_empty() {
            return Err(self.error("a link has a target between '<' and '>'"));
        }
        if target.contains(['<', '"']) {
            self.at = start;
            return Err(self.error("a target ends with '>'"));
        }
        self.expect('>', "a target ends with '>'")?;
        let target = match target.strip_suffix('/') {
            Some(shorter) if !shorter.is_empty() => shorter,
            _ => target,
        };
        let mut attributes = Vec::new();
        self.skip_space();
        while self.accept(';') {
            self.skip_space();
            // One ';' too many is not worth a device.
            if !self.is_at_end() && !self.rest().starts_with([';', ',']) {
                attributes.push(self.attribute()?);
                self.skip_space();
            }
        }
        Ok(Link {
            target: target.to_owned(),
            attributes,
        })
    }

    fn attribute(&mut self) -> Result<(String, Option<String>), LinkError> {
        let name = self.until(|letter| matches!(letter, '=' | ';' | ',' | '<' | '>' | '"'));
        let name = name.trim_end().to_owned();
        if name.is_empty() {
            return Err(self.error("an attribute has a name"));
        }
        if !self.accept('=') {
            return Ok((name, None));
        }
        self.skip_space();
        let value = if self.accept('"') {
            self.quoted()?
        } else {
            let value = self.until(|letter| matches!(letter, ';' | ',' | '"' | '<' | '>'));
            value.trim_end().to_owned()
        };
        Ok((name, Some(value)))
    }

    /// What stands between quotation marks, the first of which is behind us.
    fn quoted(&mut self) -> Result<String, LinkError> {
        let start = self.at - 1;
        let mut value = self.until(|letter| matches!(letter, '"' | '\\')).to_owned();
        while self.accept('\\') {
            let rest = self.rest();
            // An escape makes the next letter stand for itself.
            let escaped = rest.chars().next().map_or(0, char::len_utf8);
            self.at += escaped;
            let plain = self.until(|letter| matches!(letter, '"' | '\\'));
            value.push_str(&rest[..escaped]);
            value.push_str(plain);
        }
        if !self.accept('"') {
            self.at = start;
            return Err(self.error("a quotation mark is not closed"));
        }
        Ok(value)
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Everything before the first letter that ends it.
    fn until(&mut self, ends: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(ends).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    fn skip_space(&mut self) {
        self.until(|letter| !letter.is_ascii_whitespace());
    }

    fn accept(&mut self, letter: char) -> bool {
        let is_there = self.rest().starts_with(letter);
        self.at += if is_there { letter.len_utf8() } else { 0 };
        is_there
    }

    fn expect(&mut self, letter: char, reason: &'static str) -> Result<(), LinkError> {
        match self.accept(letter) {
            true => Ok(()),
            false => Err(self.error(reason)),
        }
    }

    fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    const fn error(&self, reason: &'static str) -> LinkError {
        LinkError {
            offset: self.at,
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// `target name=value name`, a line a link.
    fn shown(text: &str) -> String {
        let links = match parse(text.as_bytes()) {
            Ok(links) => links,
            Err(error) => return format!("error: {error}"),
        };
        let line = |link: &Link| {
            let mut line = link.target.clone();
            for (name, value) in &link.attributes {
                let _ = match value {
                    None => write!(line, " {name}"),
                    Some(value) => write!(line, " {name}={value}"),
                };
            }
            line
        };
        links.iter().map(line).collect::<Vec<_>>().join("|")
    }

    // conformance: P24
    #[test]
    fn links_are_read_as_devices_write_them() {
        for (text, links) in [
            ("", ""),
            ("</3/0>", "/3/0"),
            (
                "</>;rt=\"oma.lwm2m\";ct=\"60 110\",</1/0>",
                "/ rt=oma.lwm2m ct=60 110|/1/0",
            ),
            ("</>;rt=oma.lwm2m;ct=110", "/ rt=oma.lwm2m ct=110"),
            (
                " </1/0> ,\r\n </3/0/> ; ver = 1.1 ; obs , ",
                "/1/0|/3/0 ver=1.1 obs",
            ),
            ("</3>;;ver=\"1.1\";,</3/0>;", "/3 ver=1.1|/3/0"),
            (
                "</a>;title=\"x, \\\"y\\\"; <z> \\\\\";n=",
                "/a title=x, \"y\"; <z> \\ n=",
            ),
            (
                "<coap://[::1]:5683/a>;rel=\"hosts\"",
                "coap://[::1]:5683/a rel=hosts",
            ),
            ("</\u{e4}>;t=\u{20ac}", "/\u{e4} t=\u{20ac}"),
            ("</a>;t=\"\\\u{20ac}\"", "/a t=\u{20ac}"),
        ] {
            assert_eq!(shown(text), links, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_link_format_is_refused_with_its_place() {
        for (text, error) in [
            ("x", "byte 0: a link begins with '<'"),
            ("</1/0> </3/0>", "byte 7: links are parted by ','"),
            ("</1/0>,,</3/0>", "byte 7: a link begins with '<'"),
            ("<>", "byte 1: a link has a target between '<' and '>'"),
            ("</1/0", "byte 5: a target ends with '>'"),
            ("</1/0,</3/0>", "byte 1: a target ends with '>'"),
            ("</1>;a=\"b", "byte 7: a quotation mark is not closed"),
            ("</1>;a=\"b\\", "byte 7: a quotation mark is not closed"),
            ("</1>;=5", "byte 5: an attribute has a name"),
            ("</1>;a=\"b\"c", "byte 10: links are parted by ','"),
        ] {
            assert_eq!(shown(text), format!("error: {error}"), "{text:?}");
        }
        assert_eq!(
            parse(b"</1/0>,\xff").unwrap_err().to_string(),
            "byte 7: this is not UTF-8"
        );
    }

    #[test]
    fn links_are_written_so_that_they_are_read_again() {
        let links = vec![
            Link {
                target: "/".into(),
                attributes: vec![
                    ("rt".into(), Some("oma.lwm2m".into())),
                    ("ct".into(), Some("60 110".into())),
                    ("ver".into(), Some("1.1".into())),
                    ("gt".into(), Some("-3.5".into())),
                    ("title".into(), Some("a \"b\" \\ c".into())),
                    ("empty".into(), Some(String::new())),
                    ("obs".into(), None),
                ],
            },
            Link::new("/3/0"),
        ];
        let text = write(&links);
        assert_eq!(
            text,
            r#"</>;rt="oma.lwm2m";ct="60 110";ver=1.1;gt=-3.5;title="a \"b\" \\ c";empty="";obs,</3/0>"#
        );
        assert_eq!(parse(text.as_bytes()).unwrap(), links);
        assert_eq!(links[0].value("ct"), Some("60 110"));
        assert_eq!(links[0].value("obs"), None);
    }

    #[test]
    fn the_number_of_links_is_bounded() {
        let most = "</1/0>,".repeat(MAX_LINKS);
        assert_eq!(parse(most.as_bytes()).unwrap().len(), MAX_LINKS);
        let error = parse(format!("{most}</1/0>").as_bytes()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "byte 28672: there are more than 4096 links"
        );
    }

    #[test]
    fn random_text_does_no_harm() {
        const LETTERS: [&str; 14] = [
            "<",
            ">",
            ",",
            ";",
            "=",
            "\"",
            "\\",
            "/",
            "3",
            " ",
            "rt",
            "oma.lwm2m",
            "\u{20ac}",
            "ct",
        ];
        let mut rng = StdRng::seed_from_u64(6690);
        for _ in 0..20_000 {
            let len = rng.random_range(0..24);
            let text: String = (0..len)
                .map(|_| LETTERS[rng.random_range(0..LETTERS.len())])
                .collect();
            if let Ok(links) = parse(text.as_bytes()) {
                assert_eq!(parse(write(&links).as_bytes()).unwrap(), links, "{text}");
            }
        }
    }
}
