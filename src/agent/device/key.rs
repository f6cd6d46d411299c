//! A device's key: where it comes from, and the one time that it is shown.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use rand::TryRng as _;
use rand::rngs::SysRng;
use serde_json::json;

use crate::agent::devices::fetch_secret;
use crate::secret::Secret;
use crate::server::credentials::{KEY_ADVISED, KEY_MAX, key_of_hex};

/// Where a key comes from; nowhere is a new one.
pub struct Source<'a> {
    /// Given on the command line; `-` is standard input.
    pub argument: Option<&'a str>,
    /// A file; `-` is standard input.
    pub file: Option<&'a Path>,
    /// Standard input.
    pub stdin: bool,
}

/// A key of a device.
pub struct Key(Secret);

impl Key {
    /// Hexadecimal, lower case.
    pub fn hex(&self) -> String {
        self.0
            .expose()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// Takes the key from where it is, or makes one.
///
/// # Errors
///
/// When there is none, or it is no key.
pub fn read(source: &Source<'_>) -> anyhow::Result<Key> {
    let key = match source {
        Source {
            argument: Some(hex),
            ..
        } if *hex != "-" => {
            eprintln!(
                "warning: a key given as an argument stands in the list of processes (ps) and in the history of the shell; use --psk-key-file, or `-` and standard input"
            );
            parse(hex.as_bytes(), "--psk-key")?
        }
        Source {
            file: Some(file), ..
        } if file.as_os_str() != "-" => {
            let content = fetch_secret(file).map_err(anyhow::Error::msg)?;
            parse(&content, &file.display().to_string())?
        }
        Source {
            argument: None,
            file: None,
            stdin: false,
        } => return generate(),
        _ => {
            let mut text = Vec::new();
            std::io::stdin()
                .take(4 * KEY_MAX as u64)
                .read_to_end(&mut text)
                .context("standard input")?;
            parse(&text, "standard input")?
        }
    };
    if key.0.expose().len() < KEY_ADVISED {
        eprintln!(
            "warning: a key of {} bytes can be guessed; --psk-generate makes one of {KEY_ADVISED}",
            key.0.expose().len()
        );
    }
    Ok(key)
}

/// What is wrong with a key is said without it.
fn parse(text: &[u8], place: &str) -> anyhow::Result<Key> {
    match key_of_hex(text) {
        Some(key) if !key.expose().is_empty() => Ok(Key(key)),
        _ => bail!("{place}: a key is written in hexadecimal, two digits a byte"),
    }
}

fn generate() -> anyhow::Result<Key> {
    let mut bytes = vec![0; KEY_ADVISED];
    SysRng
        .try_fill_bytes(&mut bytes)
        .context("no randomness from the system")?;
    Ok(Key(Secret::new(bytes)))
}

/// What a device has to be told.
pub struct Label<'a> {
    /// Its endpoint name.
    pub endpoint: &'a str,
    /// Its PSK identity.
    pub identity: &'a str,
    /// Where the server is.
    pub server: &'a str,
    /// Whether that is the bootstrap server.
    pub bootstrap: bool,
}

/// A QR code for the terminal: JSON with `uri`, `bs`, `ep`, `id` and `key`.
///
/// # Errors
///
/// When it is too much for a QR code.
pub fn qr_code(label: &Label<'_>, key: &Key) -> anyhow::Result<String> {
    let content = json!({
        "uri": label.server,
        "bs": label.bootstrap,
        "ep": label.endpoint,
        "id": label.identity,
        "key": key.hex(),
    })
    .to_string();
    let code = QrCode::with_error_correction_level(content.as_bytes(), EcLevel::L)
        .context("this is too much for a QR code")?;
    // What is light is drawn and what is dark is left out: terminals are dark, and without a light
    // border no scanner finds the code.
    Ok(code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_16_random_bytes() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert_eq!(one.hex().len(), 32);
        assert_ne!(one.hex(), two.hex());
    }

    #[test]
    fn what_is_no_key_is_refused_without_showing_it() {
        for text in ["", "hunter2", "abc"] {
            let error = parse(text.as_bytes(), "x").err().unwrap().to_string();
            assert_eq!(
                error,
                "x: a key is written in hexadecimal, two digits a byte"
            );
        }
    }

    #[test]
    fn a_qr_code_has_its_quiet_zone_and_fits_a_terminal() {
        let label = Label {
            endpoint: "urn:dev:os:4711",
            identity: "urn:dev:os:4711",
            server: "coaps://gateway.example:5684",
            bootstrap: false,
        };
        let code = qr_code(&label, &generate().unwrap()).unwrap();
        let lines: Vec<&str> = code.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() <= 80));
        // Two lines of border are four modules (ISO/IEC 18004 §6.3.8).
        assert!(lines[..2].iter().all(|line| line.chars().all(|c| c == '█')));
    }
}
