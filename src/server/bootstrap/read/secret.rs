//! Keys and certificates of a profile: in it, or in a file beside it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{Attachment, Scope};
use crate::diagnostic::{Item, Severity};
use crate::secret::Secret;
use crate::server::credentials::{KEY_ADVISED, KEY_MAX, key_of_hex};

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
        (Some(file), None) => attached(item, scope, Attachment::Key(file.text("/etc/key")?)),
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
        Attachment::Key(_) | Attachment::Certificate(_) => {
            "check the path and who may read it".to_owned()
        }
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

/// The key in hexadecimal digits.
pub(super) fn psk(item: &Item<'_>, scope: Scope<'_>) -> Option<Secret> {
    let digits = text(item, scope, "{ file = \"/etc/lwm2mqtt/server.psk\" }")?;
    let Some(key) = key_of_hex(digits.expose()).filter(|key| !key.expose().is_empty()) else {
        item.reader().error(
            "bad-key",
            &item.at_key(),
            format!("`{}` is no key", item.key()),
            "write it in hexadecimal digits, two a byte, or \"generate\"",
        );
        return None;
    };
    let len = key.expose().len();
    if len > KEY_MAX {
        item.reader().error(
            "long-key",
            &item.at_key(),
            format!("a key of {len} bytes is longer than a device has room for"),
            format!("a key has at most {KEY_MAX} bytes; {KEY_ADVISED} are as good"),
        );
        return None;
    }
    if len < KEY_ADVISED {
        item.reader().warning(
            "short-key",
            &item.at_key(),
            format!("a key of {len} bytes can be guessed"),
            format!("use {KEY_ADVISED} random bytes"),
        );
    }
    Some(key)
}

/// The DER of a private key: of PKCS #8 in PEM (RFC 7468 §10), or what is DER already.
///
/// # Errors
///
/// What stands there instead, in words that show nothing of it.
pub(super) fn private_key(content: &[u8]) -> Result<Secret, &'static str> {
    const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
    const END: &str = "-----END PRIVATE KEY-----";
    // A SEQUENCE (ITU-T X.690), which no text begins with but by chance.
    if let [0x30, 0x81..=0x83, ..] = content {
        return Ok(Secret::new(content));
    }
    let text = std::str::from_utf8(content).map_err(|_| "it is neither PEM nor DER")?;
    let body = text
        .split_once(BEGIN)
        .and_then(|(_, rest)| rest.split_once(END))
        .map(|(body, _)| body);
    let Some(body) = body else {
        return Err(match text {
            _ if text.contains("-----BEGIN EC PRIVATE KEY-----") => "it is in the form of SEC 1",
            _ if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") => "it is encrypted",
            _ => "it has no private key in PEM or DER",
        });
    };
    let digits: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
    STANDARD
        .decode(digits.as_bytes())
        .map(Secret::new)
        .map_err(|_| "what stands between its PEM lines is not base64")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_comes_as_pem_or_der() {
        let pem = b"x\n-----BEGIN PRIVATE KEY-----\nMIIB\nAAEC\n-----END PRIVATE KEY-----\n";
        let der = [0x30, 0x82, 0x01, 0, 1, 2];
        assert_eq!(private_key(pem).unwrap().expose(), der);
        assert_eq!(private_key(&der).unwrap().expose(), der);
        for (bad, why) in [
            (
                "-----BEGIN EC PRIVATE KEY-----",
                "it is in the form of SEC 1",
            ),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "it is encrypted"),
            ("hello", "it has no private key in PEM or DER"),
            (
                "-----BEGIN PRIVATE KEY-----*-----END PRIVATE KEY-----",
                "what stands between its PEM lines is not base64",
            ),
        ] {
            assert_eq!(private_key(bad.as_bytes()).unwrap_err(), why);
        }
    }
}
