//! Keys and certificates of a profile: in it, or in a file beside it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Attachment, Scope};
use crate::diagnostic::{Item, Severity};
use crate::secret::Secret;

/// A `key` that is no word of its own: hexadecimal digits, `{ file = "…" }` or
/// `{ credential = "…" }`, as it stands there.
///
/// A mistake is reported. `None` as well where the attachment cannot be read here.
pub(super) fn text(item: &Item<'_>, scope: Scope<'_>, example: &str) -> Option<Secret> {
    if let Some(text) = item.as_text() {
        item.hide();
        scope.reader.warning(
            "plain-secret",
            &item.at_key(),
            format!("the secret `{}` stands in the profile in clear", item.key()),
            format!("use `{example}`"),
        );
        return Some(Secret::new(text));
    }
    let mut table = item.table(item.key(), example)?;
    let file = table.take("file");
    let credential = table.take("credential");
    table.finish();
    match (file, credential) {
        (Some(file), None) => attached(item, scope, Attachment::File(file.text("/etc/key")?)),
        (None, Some(credential)) => {
            let name = credential.text("lwm2mqtt.key")?;
            attached(item, scope, Attachment::Credential(name))
        }
        _ => {
            item.error(
                "bad-value",
                format!("`{}` needs one source", item.key()),
                format!("write `{example}`"),
            );
            None
        }
    }
}

/// The content of an attachment.
pub(super) fn attached(
    item: &Item<'_>,
    scope: Scope<'_>,
    attachment: Attachment<'_>,
) -> Option<Secret> {
    let error = match scope.attachments.read(attachment) {
        Ok(content) => return Some(content),
        Err(error) => error,
    };
    let hint = match attachment {
        Attachment::File(_) => "check the path and who may read it".to_owned(),
        Attachment::Credential(name) => {
            format!("pass it to the service: `LoadCredential={name}:PATH` in its unit")
        }
    };
    match scope.attachments.unreadable() {
        Severity::Error => scope
            .reader
            .error("unreadable-secret", &item.at_key(), error, hint),
        Severity::Warning => {
            scope
                .reader
                .warning("unreadable-secret", &item.at_key(), error, hint);
        }
    }
    None
}

/// The key in hexadecimal digits, 1 to 64 bytes of it (LwM2M Core 1.1 §E.1.1).
pub(super) fn psk(item: &Item<'_>, scope: Scope<'_>) -> Option<Secret> {
    const LONGEST: usize = 64;
    const SHORT: usize = 16;
    let digits = text(item, scope, "{ file = \"/etc/lwm2mqtt/server.psk\" }")?;
    let key = std::str::from_utf8(digits.expose())
        .ok()
        .and_then(|digits| from_hex(digits.trim()))
        .map(Secret::new);
    let Some(key) = key.filter(|key| !key.expose().is_empty()) else {
        item.reader().error(
            "bad-key",
            &item.at_key(),
            format!("`{}` is no key", item.key()),
            "write it in hexadecimal digits, two a byte, or \"generate\"",
        );
        return None;
    };
    let len = key.expose().len();
    if len > LONGEST {
        item.reader().error(
            "long-key",
            &item.at_key(),
            format!("a key of {len} bytes is longer than a device has room for"),
            format!("a key has at most {LONGEST} bytes; 16 are as good"),
        );
        return None;
    }
    if len < SHORT {
        item.reader().warning(
            "short-key",
            &item.at_key(),
            format!("a key of {len} bytes can be guessed"),
            format!("use {SHORT} random bytes"),
        );
    }
    Some(key)
}

/// Bytes of pairs of hexadecimal digits.
pub(super) fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| match *pair {
            [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
            _ => None,
        })
        .collect()
}

/// The DER of a PEM text with this label, or what is DER already.
///
/// # Errors
///
/// What stands there instead, in words.
pub(super) fn der(content: &[u8], label: &str) -> Result<Vec<u8>, String> {
    // A SEQUENCE of more than 127 bytes (ITU-T X.690): what a certificate or key begins with.
    if let [0x30, 0x81..=0x83, ..] | [0x30, 0x2e..=0x7f, ..] = content {
        return Ok(content.to_vec());
    }
    let text = std::str::from_utf8(content).map_err(|_| "it is neither PEM nor DER".to_owned())?;
    let begin = format!("-----BEGIN {label}-----");
    let end = format!("-----END {label}-----");
    let body = text
        .split_once(&begin)
        .and_then(|(_, rest)| rest.split_once(&end))
        .map(|(body, _)| body);
    let Some(body) = body else {
        let other = text
            .split_once("-----BEGIN ")
            .and_then(|(_, rest)| rest.split_once("-----"))
            .map(|(label, _)| label.chars().take(40).collect::<String>());
        return Err(match other {
            Some(other) => format!("it has no {label} but a {other}"),
            None => "it is neither PEM nor DER".to_owned(),
        });
    };
    let digits: String = body.split_ascii_whitespace().collect();
    STANDARD
        .decode(digits)
        .map_err(|_| "what stands between its PEM lines is not base64".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_come_in_pairs() {
        assert_eq!(from_hex("00fF10"), Some(vec![0, 255, 16]));
        assert_eq!(from_hex(""), Some(vec![]));
        for text in ["0", "0g", "+1", "0x", "ü"] {
            assert_eq!(from_hex(text), None, "{text}");
        }
    }

    #[test]
    fn pem_becomes_der_and_der_stays() {
        let pem = b"x\n-----BEGIN CERTIFICATE-----\nMIIB\nAAEC\n-----END CERTIFICATE-----\n";
        let expected = [0x30, 0x82, 0x01, 0, 1, 2];
        assert_eq!(der(pem, "CERTIFICATE").unwrap(), expected);
        assert_eq!(der(&expected, "CERTIFICATE").unwrap(), expected);
        assert_eq!(
            der(pem, "PRIVATE KEY").unwrap_err(),
            "it has no PRIVATE KEY but a CERTIFICATE"
        );
        assert_eq!(
            der(b"hello", "PRIVATE KEY").unwrap_err(),
            "it is neither PEM nor DER"
        );
    }
}
