//! `[[server]]`: server accounts (LwM2M Core 1.1 §E.1, §E.2).

use super::{Attachment, Scope, seconds, secret, short_server_id};
use crate::diagnostic::{At, Item, Reader, Table};
use crate::lwm2m::path::Id;
use crate::lwm2m::value::Value;
use crate::secret::Secret;
use crate::server::bootstrap::profile::{Account, Key, Security, Selector};
use crate::server::credentials::{IDENTITY_MAX, certificates};

/// The longest LwM2M Server URI, in bytes (/0/x/0).
const URI_MAX: usize = 255;

/// URI schemes with whether they are secured (RFC 7252 §6, RFC 8323 §8).
const SCHEMES: [(&str, bool); 4] = [
    ("coaps", true),
    ("coap", false),
    ("coaps+tcp", true),
    ("coap+tcp", false),
];

/// Where an account stands in its file.
pub(super) struct Place<'a> {
    reader: &'a Reader,
    /// Its Short Server ID.
    id: At,
    /// Its security.
    security: At,
}

/// The accounts of a file.
pub(super) type Accounts<'a> = [(Account, Place<'a>)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    None,
    Psk,
    X509,
}

/// Reads one.
pub(super) fn read<'a>(
    mut table: Table<'a>,
    scope: Scope<'a>,
    selector: &Selector,
) -> Option<(Account, Place<'a>)> {
    let start = table.at().clone();
    let uri = table
        .require(
            "uri",
            "say where it is: `uri = \"coaps://gw.example:5684\"`",
        )
        .and_then(|item| uri(&item));
    let id = table
        .require(
            "short_server_id",
            "number the servers: `short_server_id = 1`",
        )
        .map(|item| (short_server_id(&item), item.at()));
    let security_item = table.take("security");
    let secured = uri.as_ref().map(|(_, secured)| *secured);
    let mode = match &security_item {
        Some(item) => item.one_of(&[
            ("psk", Mode::Psk),
            ("none", Mode::None),
            ("x509", Mode::X509),
        ]),
        None if secured == Some(false) => Some(Mode::None),
        None => Some(Mode::Psk),
    };
    if let (Some(item), Some(mode), Some(secured)) = (&security_item, mode, secured) {
        check_scheme(item, mode, secured);
    }
    let security = Credentials::take(&mut table).read(scope, selector, mode, &start);
    let security_extra = security_resources(&mut table);
    let server = server_resources(&mut table);
    table.finish();
    let (ssid, id) = id?;
    let place = Place {
        reader: scope.reader,
        id,
        security: security_item.map_or(start, |item| item.at()),
    };
    let account = Account {
        uri: uri?.0,
        short_server_id: ssid?,
        security: security?,
        security_extra,
        server: server?,
    };
    Some((account, place))
}

/// No two accounts have one Short Server ID, and one at most a generated key.
pub(super) fn check(accounts: &Accounts<'_>) {
    let mut generated = false;
    for (index, (account, place)) in accounts.iter().enumerate() {
        let before = accounts.get(..index).unwrap_or_default();
        let twin = before
            .iter()
            .any(|(other, _)| other.short_server_id == account.short_server_id);
        if twin {
            place.reader.error(
                "duplicate-server-id",
                &place.id,
                format!(
                    "the Short Server ID {} is another server's already",
                    account.short_server_id
                ),
                "give each server a number of its own, from 1 to 65534",
            );
        }
        if matches!(
            account.security,
            Security::Psk {
                key: Key::Generate,
                ..
            }
        ) {
            if generated {
                place.reader.error(
                    "two-generated",
                    &place.security,
                    "a second account asks for a generated key, and only this gateway's own server \
                     would know it",
                    "give the other server's `identity` and `key`",
                );
            }
            generated = true;
        }
    }
}

/// The URI, and whether its scheme is secured.
fn uri(item: &Item<'_>) -> Option<(String, bool)> {
    let text = item.text("coaps://gw.example:5684")?;
    let hint = "write it like \"coaps://gw.example:5684\" or \"coap://[2001:db8::1]:5683\"";
    let Some((scheme, rest)) = text.split_once("://") else {
        item.error("bad-uri", format!("`{text}` is no URI"), hint);
        return None;
    };
    let Some((_, secured)) = SCHEMES.iter().find(|(name, _)| *name == scheme) else {
        let names: Vec<&str> = SCHEMES.iter().map(|(name, _)| *name).collect();
        item.error(
            "uri-scheme",
            format!("`{scheme}` is no scheme of an LwM2M server"),
            crate::diagnostic::suggestion(scheme, &names),
        );
        return None;
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if let Some(reason) = objection(text, authority) {
        item.error("bad-uri", reason, hint);
        return None;
    }
    Some((text.to_owned(), *secured))
}

fn objection(uri: &str, authority: &str) -> Option<&'static str> {
    if uri.contains(['{', '}']) {
        return Some(
            "there are no placeholders here: a device has to reach the address as it is written",
        );
    }
    if uri.len() > URI_MAX || !uri.chars().all(|letter| letter.is_ascii_graphic()) {
        return Some("a URI has at most 255 ASCII characters without spaces");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (
                address,
                port.strip_prefix(':')
                    .or(Some(port).filter(|p| !p.is_empty())),
            ),
            _ => return Some("what stands between [ and ] is no IPv6 address"),
        },
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() || host.contains('@') {
        return Some("it names no host");
    }
    if host == "0.0.0.0" || host == "::" {
        return Some("this is where a server listens, not where a device finds it");
    }
    match port {
        Some(port) if port.parse::<u16>().is_err() || port.starts_with('+') => {
            Some("its port is no number from 1 to 65535")
        }
        Some("0") => Some("its port is no number from 1 to 65535"),
        _ => None,
    }
}

fn check_scheme(item: &Item<'_>, mode: Mode, secured: bool) {
    match (mode, secured) {
        (Mode::None, true) => item.error(
            "security-mismatch",
            "coaps is secured, and the account has no security",
            "write `security = \"psk\"` or \"x509\", or a URI that begins with coap://",
        ),
        (Mode::Psk | Mode::X509, false) => item.error(
            "security-mismatch",
            "coap is not secured: the key would never be used",
            "write a URI that begins with coaps://, or `security = \"none\"`",
        ),
        _ => {}
    }
}

/// The keys that belong to one kind of security or another.
struct Credentials<'a> {
    server_cert: Option<Item<'a>>,
    cert: Option<Item<'a>>,
    key: Option<Item<'a>>,
    identity: Option<Item<'a>>,
}

impl<'a> Credentials<'a> {
    fn take(table: &mut Table<'a>) -> Self {
        Self {
            server_cert: table.take("server_cert_file"),
            cert: table.take("cert_file"),
            key: table.take("key"),
            identity: table.take("identity"),
        }
    }

    /// The security of the account; `None` for the mode when that could not be read.
    fn read(
        self,
        scope: Scope<'_>,
        selector: &Selector,
        mode: Option<Mode>,
        start: &At,
    ) -> Option<Security> {
        let mode = mode?;
        let Self {
            server_cert,
            cert,
            key,
            identity,
        } = self;
        let (name, unused) = match mode {
            Mode::None => ("none", vec![&server_cert, &cert, &key, &identity]),
            Mode::Psk => ("psk", vec![&server_cert, &cert]),
            Mode::X509 => ("x509", vec![&identity]),
        };
        for item in unused.into_iter().flatten() {
            item.reader().error(
                "unused-key",
                &item.at_key(),
                format!(
                    "`{}` has no meaning with `security = \"{name}\"`",
                    item.key()
                ),
                "remove it, or write the `security` that it belongs to",
            );
        }
        match mode {
            Mode::None => Some(Security::None),
            Mode::Psk => read_psk(scope, selector, identity, key),
            Mode::X509 => read_x509(scope, selector, server_cert, cert, key, start),
        }
    }
}

fn read_psk(
    scope: Scope<'_>,
    selector: &Selector,
    identity_item: Option<Item<'_>>,
    key: Option<Item<'_>>,
) -> Option<Security> {
    let identity = match &identity_item {
        None => None,
        Some(item) => {
            let text = item.text("gw-12")?;
            if text.is_empty() || text.len() > IDENTITY_MAX {
                item.error(
                    "bad-identity",
                    format!(
                        "a PSK identity has 1 to {IDENTITY_MAX} bytes, not {}",
                        text.len()
                    ),
                    "shorten it, or leave it out: then it is the endpoint name",
                );
                return None;
            }
            Some(text.to_owned())
        }
    };
    let key = match &key {
        None => Key::Generate,
        Some(item) if item.as_text() == Some("generate") => Key::Generate,
        Some(item) => Key::Given(secret::psk(item, scope)?),
    };
    if let (Some(item), false) = (&identity_item, selector.is_exact()) {
        let message = "every device of this profile gets the same PSK identity, \
                       and the server cannot tell one from another";
        let hint = "leave `identity` out: then it is the endpoint name; \
                    or match one endpoint without `*`";
        match key {
            Key::Generate => item.error("shared-identity", message, hint),
            Key::Given(_) => item.warning("shared-identity", message, hint),
        }
    }
    Some(Security::Psk { identity, key })
}

fn read_x509(
    scope: Scope<'_>,
    selector: &Selector,
    server: Option<Item<'_>>,
    certificate: Option<Item<'_>>,
    key: Option<Item<'_>>,
    start: &At,
) -> Option<Security> {
    if server.is_none() && !scope.reader.is_broken() {
        scope.reader.error(
            "missing-key",
            start,
            "an account with `security = \"x509\"` needs `server_cert_file`",
            "name the certificate that the device is to expect of the server (PEM or DER)",
        );
    }
    let server = server.and_then(|item| certificate_of(&item, scope));
    let own = match (certificate, key) {
        (None, None) => Some(None),
        (Some(certificate), Some(key)) => {
            if !selector.is_exact() {
                certificate.warning(
                    "shared-certificate",
                    "every device of this profile gets the same certificate and private key",
                    "match one endpoint without `*`, or let the devices use what they were made with",
                );
            }
            let certificate = certificate_of(&certificate, scope);
            let key = private_key(&key, scope);
            certificate.zip(key).map(Some)
        }
        (Some(item), None) | (None, Some(item)) => {
            item.reader().error(
                "missing-key",
                &item.at_key(),
                "a device's certificate is of use with its private key, and the key with it",
                "write both `cert_file` and `key`, or neither: then the device uses its own",
            );
            None
        }
    };
    Some(Security::X509 {
        server: server?,
        own: own?,
    })
}

/// The first certificate of a file.
fn certificate_of(item: &Item<'_>, scope: Scope<'_>) -> Option<Vec<u8>> {
    let file = item.text("/etc/lwm2mqtt/server.pem")?;
    let content = secret::attached(item, scope, Attachment::Certificate(file))?;
    match certificates(content.expose()) {
        Ok(found) => found.into_iter().next(),
        Err(reason) => {
            item.error(
                "bad-certificate",
                format!("{file} {reason}"),
                "name a file with one certificate, PEM or DER",
            );
            None
        }
    }
}

fn private_key(item: &Item<'_>, scope: Scope<'_>) -> Option<Secret> {
    let content = secret::text(item, scope, "{ file = \"/etc/lwm2mqtt/device.key\" }")?;
    match secret::private_key(content.expose()) {
        Ok(der) => Some(der),
        Err(reason) => {
            item.reader().error(
                "bad-key",
                &item.at_key(),
                format!("the private key cannot be used: {reason}"),
                "devices want it as PKCS #8: `openssl pkcs8 -topk8 -nocrypt -in key.pem`",
            );
            None
        }
    }
}

/// Further resources of object 0.
fn security_resources(table: &mut Table<'_>) -> Vec<(Id, Value)> {
    let mut resources = Vec::new();
    if let Some(hold_off) = seconds(table, "hold_off") {
        resources.push((11, Value::Integer(hold_off.into())));
    }
    if let Some(item) = table.take("certificate_usage")
        && let Some(usage) = item.one_of(&[
            ("domain", 3_u64),
            ("ca", 0),
            ("service", 1),
            ("trust-anchor", 2),
        ])
    {
        resources.push((15, Value::UnsignedInteger(usage)));
    }
    resources
}

/// The resources of object 1 but the Short Server ID, ascending.
fn server_resources(table: &mut Table<'_>) -> Option<Vec<(Id, Value)>> {
    const DAY: i64 = 86_400;
    let lifetime = match table.take("lifetime") {
        None => Some(DAY),
        Some(item) => lifetime(&item),
    };
    let signed = |seconds: u32| Value::Integer(seconds.into());
    let unsigned = |seconds: u32| Value::UnsignedInteger(seconds.into());
    let mut optional = Vec::new();
    for (id, key) in [
        (2, "default_pmin"),
        (3, "default_pmax"),
        (5, "disable_timeout"),
    ] {
        optional.extend(seconds(table, key).map(|number| (id, signed(number))));
    }
    let storing = boolean(table, "notification_storing").unwrap_or(true);
    let binding = match table.take("binding") {
        None => Some("U".to_owned()),
        Some(item) => binding(&item),
    };
    for (id, key) in [
        (13, "priority"),
        (14, "initial_delay"),
        (17, "retry_count"),
        (18, "retry_timer"),
        (19, "sequence_delay"),
        (20, "sequence_retry_count"),
    ] {
        optional.extend(seconds(table, key).map(|number| (id, unsigned(number))));
    }
    for (id, key) in [
        (15, "failure_block"),
        (16, "bootstrap_on_failure"),
        (21, "trigger"),
        (23, "mute_send"),
    ] {
        optional.extend(boolean(table, key).map(|value| (id, Value::Boolean(value))));
    }
    let mut resources = vec![
        (1, Value::Integer(lifetime?)),
        (6, Value::Boolean(storing)),
        (7, Value::String(binding?)),
    ];
    resources.extend(optional);
    resources.sort_by_key(|(id, _)| *id);
    Some(resources)
}

fn boolean(table: &mut Table<'_>, key: &'static str) -> Option<bool> {
    table.take(key)?.boolean()
}

fn lifetime(item: &Item<'_>) -> Option<i64> {
    let lifetime = item.integer(i64::MIN..=i64::MAX)?;
    if !(1..=i64::from(i32::MAX)).contains(&lifetime) {
        item.error(
            "bad-lifetime",
            format!("a lifetime of {lifetime} s is not what a device can keep"),
            "write seconds from 1; 86400 is a day. 0 is endless for a device of LwM2M 1.1 and \
             nothing for one of 1.0",
        );
        return None;
    }
    Some(lifetime)
}

/// `U`, and what else there is (LwM2M Core 1.2 §6.2.1.2; with `Q` in 1.0).
fn binding(item: &Item<'_>) -> Option<String> {
    let text = item.text("U")?;
    let known = |letter: char| "UTSNMHQ".contains(letter);
    if text.is_empty() || !text.chars().all(known) || text == "Q" {
        item.error(
            "bad-binding",
            format!("`{text}` is no binding"),
            "write \"U\" for UDP; T is TCP, S is SMS, and Q behind them queue mode in LwM2M 1.0",
        );
        return None;
    }
    Some(text.to_owned())
}
