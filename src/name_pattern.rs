//! Patterns of names that an operator writes: `*` and `?`, or a regular expression.

use regex::{Regex, RegexBuilder};

use crate::diagnostic::{Item, Reader, Table};

/// Memory that one compiled expression may take; matching is linear in the name's length.
const REGEX_SIZE: usize = 256 * 1024;

/// A name with `*` and `?`, or a regular expression behind `re:`.
#[derive(Clone, Debug)]
pub struct NamePattern(Form);

#[derive(Clone, Debug)]
enum Form {
    Glob(String),
    Regex(Regex),
}

impl NamePattern {
    /// Reads a pattern out of a file that a person wrote; a mistake is reported there.
    pub fn read(item: &Item<'_>, example: &str) -> Option<Self> {
        match Self::parse(item.text(example)?) {
            Ok(pattern) => Some(pattern),
            Err(reason) => {
                item.error(
                    "bad-regex",
                    format!("the expression cannot be used: {reason}"),
                    "write a regular expression behind `re:`, or a name with `*` and `?`",
                );
                None
            }
        }
    }

    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// What is wrong with the expression behind `re:`, in words; every other text is a pattern.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(expression) = text.strip_prefix("re:") else {
            return Ok(Self(Form::Glob(text.to_owned())));
        };
        RegexBuilder::new(&format!("^(?:{expression})$"))
            .size_limit(REGEX_SIZE)
            .build()
            .map(|regex| Self(Form::Regex(regex)))
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
                error => {
                    // The last line says what; those before it draw a picture.
                    let text = error.to_string();
                    let last = text.lines().last().unwrap_or_default();
                    last.trim_start_matches("error: ").to_owned()
                }
            })
    }

    /// Whether the whole of `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        match &self.0 {
            Form::Glob(glob) => glob_matches(glob, name),
            Form::Regex(regex) => regex.is_match(name),
        }
    }

    /// Whether only one name can match.
    pub fn is_exact(&self) -> bool {
        matches!(&self.0, Form::Glob(glob) if !glob.contains(['*', '?']))
    }

    /// How many characters stand for themselves: the more, the more specific. An expression counts none: what of it is literal cannot be told simply.
    pub fn literal_characters(&self) -> usize {
        match &self.0 {
            Form::Glob(glob) => glob.chars().filter(|c| !matches!(c, '*' | '?')).count(),
            Form::Regex(_) => 0,
        }
    }
}

/// The table `[match]` of a profile, which says what it is for. Without one it is for nothing, and
/// that is said.
pub(crate) fn match_table<'a>(item: Option<Item<'a>>, reader: &Reader) -> Option<Table<'a>> {
    let Some(item) = item else {
        if !reader.is_broken() {
            reader.warning(
                "no-match",
                &reader.start(),
                "without [match] the profile is used for no device",
                "add `[match]` with `endpoint = \"…\"`, \"*\" for every device; \
                 or leave [match] empty to say that this is meant",
            );
        }
        return None;
    };
    item.table("match", "{ endpoint = \"*\" }")
}

/// `*` is any run of characters, `?` any one.
pub(crate) fn glob_matches(glob: &str, text: &str) -> bool {
    let glob: Vec<char> = glob.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut g, mut t) = (0, 0);
    // Where to take up again: behind the last star, which then swallows one more character.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some('*') => {
                star = Some((g + 1, t));
                g += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                g += 1;
                t += 1;
            }
            _ => match star {
                Some((behind, swallowed)) => {
                    star = Some((behind, swallowed + 1));
                    g = behind;
                    t = swallowed + 1;
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_matches_the_whole_name() {
        for (glob, name, matches) in [
            ("urn:*-CR200-*", "urn:dev:ops:32473-CR200-00A7", true),
            ("urn:*-CR200-", "urn:dev:ops:32473-CR200-00A7", false),
            ("*", "", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("dev?", "dev1", true),
            ("dev?", "dev", false),
            ("ü?", "üü", true),
            ("", "x", false),
            ("a.c", "abc", false),
        ] {
            let pattern = NamePattern::parse(glob).unwrap();
            assert_eq!(pattern.matches(name), matches, "{glob} {name}");
        }
    }

    #[test]
    fn an_expression_matches_the_whole_name() {
        let pattern = NamePattern::parse("re:dev[0-9]+|x").unwrap();
        assert!(pattern.matches("dev12") && pattern.matches("x"));
        assert!(!pattern.matches("dev12x") && !pattern.matches("ax"));
    }

    #[test]
    fn a_bad_or_bloated_expression_is_refused() {
        assert_eq!(NamePattern::parse("re:(").unwrap_err(), "unclosed group");
        assert_eq!(
            NamePattern::parse("re:(a{1000}){1000}").unwrap_err(),
            "it is too large"
        );
    }
}
