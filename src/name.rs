//! Names that become one topic level, and patterns of names.

use sha2::{Digest, Sha256};

/// The longest topic name of a device, in bytes.
pub const MAX_NAME: usize = 128;

/// `endpoint` as one topic level: its topic name where nothing else names it.
///
/// `/ + # $`, control and space characters become `_`. Whenever anything had to be changed, `-` and
/// six hex digits of the SHA-256 of `endpoint` follow, so that two endpoints never become one
/// name by it. At most [`MAX_NAME`] bytes.
pub fn clean_name(endpoint: &str) -> String {
    clean(endpoint, endpoint)
}

/// `text`, a name or a part of one, cleaned as [`clean_name`] does; the digits are of `endpoint`.
pub fn clean(text: &str, endpoint: &str) -> String {
    let cleaned: String = text
        .chars()
        .map(|c| if is_forbidden(c) { '_' } else { c })
        .collect();
    if cleaned == text && text.len() <= MAX_NAME && !text.is_empty() {
        cleaned
    } else {
        suffixed(&cleaned, endpoint)
    }
}

/// `name` with `-` and six hex digits of the SHA-256 of `endpoint`: what a device is called when
/// another one holds the name already. The name is cut so that all stays within [`MAX_NAME`].
pub fn suffixed(name: &str, endpoint: &str) -> String {
    let suffix = format!("-{}", short_hash(endpoint.as_bytes()));
    let room = MAX_NAME - suffix.len();
    let end = name
        .char_indices()
        .map(|(start, c)| start + c.len_utf8())
        .take_while(|&end| end <= room)
        .last()
        .unwrap_or(0);
    let kept = &name[..end];
    format!("{}{suffix}", if kept.is_empty() { "_" } else { kept })
}

/// The first six hex digits of a SHA-256.
pub(crate) fn short_hash(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter()
        .take(3)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Why `name` cannot be one topic level, in words that follow "`name` ".
pub(crate) fn objection(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("is empty".to_owned());
    }
    if name.len() > MAX_NAME {
        return Some(format!("is longer than {MAX_NAME} bytes"));
    }
    name.chars().find(|&c| is_forbidden(c)).map(|c| match c {
        '/' => "contains `/`, which would begin another topic level".to_owned(),
        '+' | '#' | '$' => format!("contains `{c}`, which means something else in topics"),
        _ => "contains a space or control character".to_owned(),
    })
}

fn is_forbidden(c: char) -> bool {
    matches!(c, '/' | '+' | '#' | '$') || breaks_text(c) || c.is_whitespace()
}

/// Whether a broker may end the connection for the sake of this character in a topic or a property:
/// control characters and Unicode's noncharacters (MQTT 5 §1.5.4).
pub fn breaks_text(c: char) -> bool {
    c.is_control() || matches!(c, '\u{FDD0}'..='\u{FDEF}') || u32::from(c) & 0xFFFE == 0xFFFE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_endpoint_is_its_own_name() {
        for name in ["dev1", "urn:dev:ops:32473-CR200-00A7", "gerät-7", "a.b_c"] {
            assert_eq!(clean_name(name), name);
        }
    }

    #[test]
    fn a_changed_name_carries_the_hash_of_the_endpoint() {
        assert_eq!(clean_name("a/b"), "a_b-c14cdd");
        assert_eq!(clean_name("a b"), "a_b-c8687a");
        assert_eq!(clean_name(""), "_-e3b0c4");
        assert_eq!(clean_name("$SYS+#\u{7}"), "_SYS___-ad3ae4");
        assert_eq!(suffixed("a", "b"), "a-3e23e8");
        for noncharacter in [
            '\u{FFFE}',
            '\u{FFFF}',
            '\u{FDD0}',
            '\u{1FFFE}',
            '\u{10FFFF}',
        ] {
            assert!(clean_name(&format!("a{noncharacter}")).starts_with("a_-"));
        }
        assert_eq!(clean_name("\u{FFFD}"), "\u{FFFD}");
    }

    #[test]
    fn a_long_name_is_cut_at_a_character() {
        for endpoint in ["x".repeat(129), "ü".repeat(65), "€".repeat(300)] {
            let name = clean_name(&endpoint);
            assert!(name.len() <= MAX_NAME, "{}", name.len());
            assert!(name.len() > MAX_NAME - 4);
            assert!(name.ends_with(&short_hash(endpoint.as_bytes())));
        }
        assert_eq!(clean_name(&"x".repeat(128)), "x".repeat(128));
    }
}
