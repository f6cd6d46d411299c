//! Files of devices, as an operator or a fleet tool writes them (`docs/devices.md`).

use std::sync::Arc;

use super::authority::{Authority, Rule, certificates, fingerprint};
use super::change::{Content, Placed};
use super::record::{KEY_ADVISED, Origin, Psk, Record};
use crate::diagnostic::{Diagnostic, Item, Reader, Table};
use crate::secret::Secret;
use crate::time::UnixTime;

/// Keys whose values are never shown.
const SECRET_KEYS: [&str; 2] = ["key", "psk"];

/// Reads the content of a file that another one names.
pub type Fetch<'a> = dyn FnMut(&str) -> Result<Vec<u8>, String> + 'a;

/// What was found in a file of devices.
#[derive(Debug)]
pub struct Read {
    /// Its content, if it has no error.
    pub content: Option<Content>,
    /// Every mistake, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether keys stand in it themselves, so that nobody else should read it.
    pub holds_keys: bool,
}

/// Reads a file of devices. `secret` fetches a file with a key, `public` one with certificates.
pub fn read(
    file: &str,
    text: &str,
    now: UnixTime,
    secret: &mut Fetch<'_>,
    public: &mut Fetch<'_>,
) -> Read {
    let reader = Reader::new(file, text, &SECRET_KEYS);
    let document = reader.document();
    let mut root = reader.root(&document);
    let mut draft = Draft {
        origin: Origin::File(file.into()),
        now,
        secret,
        public,
        content: Content::default(),
        holds_keys: false,
    };
    for item in root.items("device") {
        if let Some(table) = item.table("device", "{ name = \"meter-7\" }") {
            draft.device(&item, table);
        }
    }
    for item in root.items("authority") {
        if let Some(table) = item.table("authority", "{ ca_file = \"ca.pem\" }") {
            draft.authority(table);
        }
    }
    root.belongs_elsewhere(
        &["name", "endpoint", "psk", "cert_sha256", "cert_file"],
        "write `[[device]]` in the line before it",
    );
    root.finish();
    let Draft {
        content,
        holds_keys,
        ..
    } = draft;
    drop(document);
    let diagnostics = reader.finish();
    let sound = !diagnostics.iter().any(Diagnostic::is_error);
    Read {
        content: sound.then_some(content),
        diagnostics,
        holds_keys,
    }
}

struct Draft<'a, 'f> {
    origin: Origin,
    now: UnixTime,
    secret: &'a mut Fetch<'f>,
    public: &'a mut Fetch<'f>,
    content: Content,
    holds_keys: bool,
}

impl Draft<'_, '_> {
    fn device(&mut self, item: &Item<'_>, mut table: Table<'_>) {
        let name = table
            .require("name", "name the device: `name = \"meter-7\"`")
            .and_then(|item| Some((item, item.text("meter-7")?)));
        let endpoint = table
            .take("endpoint")
            .and_then(|item| Some((item, item.text("urn:dev:os:4711")?)));
        let psk = table.take("psk").map(|item| self.psk(&item));
        let bootstrap_psk = table.take("bootstrap_psk").map(|item| self.psk(&item));
        let certificate = self.certificate(&mut table);
        table.finish();
        let Some((named, name)) = name else {
            return;
        };
        let (pointed, endpoint) = endpoint.unwrap_or((named, name));
        let record = Record {
            name: name.into(),
            endpoint: endpoint.into(),
            psk: psk.flatten(),
            bootstrap_psk: bootstrap_psk.flatten(),
            certificate,
            added: self.now,
            origin: self.origin.clone(),
        };
        // What a PSK can be was said where it stands.
        let bare = Record {
            psk: None,
            bootstrap_psk: None,
            ..record.clone()
        };
        if let Err(mistake) = bare.check() {
            let at = match mistake {
                super::Mistake::Endpoint => pointed,
                _ => named,
            };
            at.error(
                "bad-value",
                mistake.to_string(),
                "write a short name without spaces and `/`",
            );
            return;
        }
        let place = item
            .reader()
            .diagnostic("", &named.at_key(), "", "")
            .unquoted();
        self.content.records.push(Placed { record, place });
    }

    /// `{ identity = "…", key = "…" }`, or with `key_file`.
    fn psk(&mut self, item: &Item<'_>) -> Option<Psk> {
        const EXAMPLE: &str =
            "{ identity = \"meter-7\", key_file = \"/etc/lwm2mqtt/meter-7.key\" }";
        if !item.is_table() {
            // Most likely it is the key itself.
            item.hide();
        }
        let mut table = item.table(item.key(), EXAMPLE)?;
        let identity = table.require("identity", &format!("write `{} = {EXAMPLE}`", item.key()));
        let key = table.take("key");
        let key_file = table.take("key_file");
        table.finish();
        let (at, key) = match (key, key_file) {
            (Some(at), None) => {
                at.hide();
                self.holds_keys = true;
                (at, at.text("hexadecimal")?.to_owned().into_bytes())
            }
            (None, Some(at)) => {
                let path = at.text("/etc/lwm2mqtt/meter-7.key")?;
                if key_of_hex(path.as_bytes()).is_some_and(|key| key.expose().len() >= 8) {
                    at.hide();
                    at.error(
                        "bad-value",
                        "`key_file` is the key itself, and not the name of a file",
                        "write `key = \"HEX\"`, or put the key into a file and name that",
                    );
                    return None;
                }
                (at, fetched(&at, path, self.secret)?)
            }
            _ => {
                item.error(
                    "bad-value",
                    format!("`{}` needs one key", item.key()),
                    "write `key = \"HEX\"`, or `key_file = \"PATH\"`",
                );
                return None;
            }
        };
        let Some(key) = key_of_hex(&key) else {
            at.error(
                "bad-key",
                "the key is not hexadecimal",
                "write two digits a byte: `openssl rand -hex 16` makes a key",
            );
            return None;
        };
        let identity_at = identity?;
        let psk = Psk::new(identity_at.text("meter-7")?.as_bytes(), key);
        if let Err(mistake) = psk.check() {
            item.error("bad-value", mistake.to_string(), "choose another one");
            return None;
        }
        if psk.is_weak() {
            at.warning(
                "weak-key",
                format!("the key has fewer than {KEY_ADVISED} bytes, so it can be guessed"),
                "`openssl rand -hex 16` makes a good one",
            );
        }
        Some(psk)
    }

    fn certificate(&mut self, table: &mut Table<'_>) -> Option<[u8; 32]> {
        let sha256 = table.take("cert_sha256");
        let file = table.take("cert_file");
        if let (Some(_), Some(file)) = (&sha256, &file) {
            file.error(
                "bad-value",
                "`cert_file` and `cert_sha256` name two certificates",
                "remove one of them",
            );
        }
        if let Some(item) = sha256 {
            let text = item.text("hexadecimal")?;
            let digest = sha256_of_hex(text);
            if digest.is_none() {
                item.error(
                    "bad-value",
                    "`cert_sha256` is no SHA-256: 64 hexadecimal digits",
                    "`openssl x509 -in FILE -noout -fingerprint -sha256` prints it",
                );
            }
            return digest;
        }
        let item = file?;
        let path = item.text("meter-7.pem")?;
        let content = fetched(&item, path, self.public)?;
        match certificates(&content) {
            Ok(found) => found.first().map(|der| fingerprint(der)),
            Err(why) => {
                item.error("bad-certificate", format!("{path} {why}"), CERTIFICATE_HINT);
                None
            }
        }
    }

    fn authority(&mut self, mut table: Table<'_>) {
        let path = table
            .require("ca_file", "name its certificate: `ca_file = \"ca.pem\"`")
            .and_then(|item| Some((item, item.text("ca.pem")?)));
        let rule = table.take("endpoint").map(|item| {
            let rule = item.text("{cn}").and_then(Rule::parse);
            if rule.is_none() && item.as_text().is_some() {
                item.error(
                    "bad-value",
                    "`endpoint` names no part of the certificate",
                    "write \"{cn}\" for the common name, \"{san}\" for an alternative name, or text with one of them in it",
                );
            }
            rule
        });
        let subject = table
            .take("match")
            .and_then(|item| item.text("*.meters.example"));
        table.finish();
        let Some((at, path)) = path else {
            return;
        };
        let Some(content) = fetched(&at, path, self.public) else {
            return;
        };
        let found = match certificates(&content) {
            Ok(found) => found,
            Err(why) => {
                return at.error("bad-certificate", format!("{path} {why}"), CERTIFICATE_HINT);
            }
        };
        let Some(rule) = rule.unwrap_or(Some(Rule::AnyName)) else {
            return;
        };
        for certificate in found {
            self.content.authorities.push(Authority {
                rule: rule.clone(),
                subject: subject.map(str::to_owned),
                ..Authority::new(Arc::<[u8]>::from(certificate), self.origin.clone())
            });
        }
    }
}

/// What helps whoever gave something else for a certificate.
pub const CERTIFICATE_HINT: &str = "give a certificate as PEM (-----BEGIN CERTIFICATE-----) or DER";

fn fetched(item: &Item<'_>, path: &str, fetch: &mut Fetch<'_>) -> Option<Vec<u8>> {
    match fetch(path) {
        Ok(content) => Some(content),
        Err(why) => {
            item.error("unreadable", why, "check the path and who may read it");
            None
        }
    }
}

/// A key as people write one: hexadecimal digits, in both cases, white space around them.
pub fn key_of_hex(text: &[u8]) -> Option<Secret> {
    let text = text.trim_ascii();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    if !text.len().is_multiple_of(2) {
        return None;
    }
    // Room for all of it at once, so that no part of the key stays behind in memory.
    let mut bytes = Vec::with_capacity(text.len() / 2);
    for pair in text.chunks_exact(2) {
        let &[high, low] = pair else { return None };
        bytes.push(digit(high)? << 4 | digit(low)?);
    }
    Some(Secret::new(bytes))
}

/// A SHA-256 in hexadecimal, with colons between the bytes or without.
fn sha256_of_hex(text: &str) -> Option<[u8; 32]> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    key_of_hex(digits.as_bytes())?.expose().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Read {
        let mut secret = |path: &str| match path {
            "good.key" => Ok(b"000102030405060708090a0b0c0d0e0F\n".to_vec()),
            "raw.key" => Ok(vec![1, 2, 3, 4]),
            _ => Err(format!("{path}: no such file")),
        };
        let mut public = |path: &str| match path {
            "ca.pem" => Ok([&[0x30, 0x81, 0x80, 0x30][..], &[0; 0x7f]].concat()),
            "bad.pem" => Ok(b"hello".to_vec()),
            _ => Err(format!("{path}: no such file")),
        };
        read(
            "d.toml",
            text,
            UnixTime::default(),
            &mut secret,
            &mut public,
        )
    }

    fn codes(read: &Read) -> Vec<String> {
        read.diagnostics
            .iter()
            .map(|it| {
                let place = it.place.as_ref().unwrap();
                format!("{} {}:{}", it.code, place.line, place.column)
            })
            .collect()
    }

    #[test]
    fn a_file_holds_devices_and_authorities() {
        let read = read_text(
            "[[device]]\nname = \"a\"\npsk = { identity = \"ia\", key_file = \"good.key\" }\n\
             [[device]]\nname = \"b\"\nendpoint = \"urn:b\"\nbootstrap_psk = { identity = \"ib\", key = \"00112233445566778899aabbccddeeff\" }\n\
             [[device]]\nname = \"c\"\ncert_file = \"ca.pem\"\n\
             [[device]]\nname = \"d\"\n\
             [[authority]]\nca_file = \"ca.pem\"\nendpoint = \"urn:{cn}\"\nmatch = \"*.x\"\n",
        );
        assert_eq!(codes(&read), [""; 0]);
        assert!(read.holds_keys);
        let content = read.content.unwrap();
        let records: Vec<&Record> = content.records.iter().map(|it| &it.record).collect();
        assert_eq!(records.len(), 4);
        let key = &records[0].psk.as_ref().unwrap().key;
        assert_eq!(key.expose().len(), 16);
        assert_eq!(&*records[1].endpoint, "urn:b");
        assert_eq!(
            records[1].bootstrap_psk.as_ref().unwrap().identity[..],
            *b"ib"
        );
        assert!(records[2].certificate.is_some());
        assert!(!records[3].has_credential());
        let authority = &content.authorities[0];
        assert_eq!(Some(authority.sha256), records[2].certificate);
        assert!(authority.vouches(&["7.x".into()], "urn:7.x"));
    }

    #[test]
    fn every_mistake_has_its_place_and_no_key_is_shown() {
        let read = read_text(
            "name = \"x\"\n\
             [[device]]\nnam = \"a\"\n\
             [[device]]\nname = \"a/b\"\nendpoint = \"x\"\n\
             [[device]]\nname = \"b\"\npsk = { identity = \"b\", key = \"hunter2\" }\n\
             [[device]]\nname = \"c\"\npsk = { identity = \"c\" }\n\
             [[device]]\nname = \"d\"\npsk = { identity = \"\", key = \"5034732477307264\" }\n\
             [[device]]\nname = \"e\"\npsk = { identity = \"e\", key = \"5034732477307264\" }\n\
             [[device]]\nname = \"f\"\npsk = { identity = \"f\", key_file = \"raw.key\" }\n\
             [[device]]\nname = \"g\"\ncert_sha256 = \"00\"\n\
             [[device]]\nname = \"h\"\ncert_file = \"bad.pem\"\n\
             [[authority]]\nca_file = \"absent.pem\"\nendpoint = \"cn\"\n\
             [device2]\n",
        );
        assert_eq!(
            codes(&read),
            [
                "unknown-key 1:1",
                "unknown-key 3:1",
                "bad-value 5:1",
                "bad-key 9:25",
                "bad-value 12:1",
                "bad-value 15:1",
                "weak-key 18:25",
                "bad-key 21:25",
                "bad-value 24:1",
                "bad-certificate 27:1",
                "unreadable 29:1",
                "bad-value 30:1",
                "unknown-key 31:2",
            ]
        );
        assert!(read.content.is_none());
        for diagnostic in &read.diagnostics {
            let shown = diagnostic.render(false);
            assert!(
                !shown.contains("hunter2") && !shown.contains("50347324"),
                "{shown}"
            );
        }
    }

    #[test]
    fn a_key_is_not_quoted_wherever_it_was_written_by_mistake() {
        let mistakes = [
            "psk_key = \"KEY\"",
            "psk = \"KEY\"",
            "psk = [\"a\", \"KEY\"]",
            "psk = { identity = \"a\", kye = \"KEY\" }",
            "psk = { identity = \"a\", keY = \"KEY\" }",
            "psk = { identity = \"a\", value = \"KEY\" }",
            "psk = { identity = \"a\", secret = [\"KEY\"] }",
            "psk = { identity = \"a\", key_file = \"KEY\" }",
            "psk = { identity = \"a\", key = \"KEY\", typo = 1 }",
            "psk = { identity = \"a\", k = \"KEY\"",
            "KEY",
            "[device.psk]\nidentity = \"a\"\nKey = \"KEY\"",
        ];
        for mistake in mistakes {
            let mistake = mistake.replace("KEY", "5ec2e7000102030405060708090a0b0c");
            let read = read_text(&format!("[[device]]\nname = \"a\"\n{mistake}\n"));
            assert!(!read.diagnostics.is_empty(), "{mistake}");
            for diagnostic in &read.diagnostics {
                let shown = diagnostic.render(false);
                assert!(!shown.contains("5ec2e7"), "{shown}");
            }
        }
    }

    #[test]
    fn a_fingerprint_may_have_colons() {
        let plain = "00".repeat(32);
        let colons = vec!["00"; 32].join(":");
        assert_eq!(sha256_of_hex(&plain), Some([0; 32]));
        assert_eq!(sha256_of_hex(&colons), Some([0; 32]));
        assert_eq!(sha256_of_hex("00"), None);
    }
}
