//! The sections of the configuration and their keys.
//!
//! A table sets only what stands in it, so that reading one layer after the other merges them key
//! by key. Keys of parts that are not built are checked like all others and then named.

use std::path::PathBuf;
use std::time::Duration;

use super::secret::SecretSource;
use super::{AdminVerbs, Config, Expose, Join, Security, Upstream, scalar};
use crate::agent::mqtt::VersionChoice;
use crate::diagnostic::{Diagnostic, Item, Table};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// A configuration while its layers are read.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) password: Option<SecretSource>,
    pub(super) key: Option<SecretSource>,
    pub(super) devices_key: Option<SecretSource>,
    /// Where `mqtt.ca_file`, `cert_file` and `key` were set last.
    pub(super) ca_file_at: Option<Diagnostic>,
    pub(super) cert_file_at: Option<Diagnostic>,
    pub(super) key_at: Option<Diagnostic>,
    /// Where `devices.ca_file`, `cert_file` and `key` were set last.
    pub(super) devices_ca_file_at: Option<Diagnostic>,
    pub(super) devices_cert_file_at: Option<Diagnostic>,
    pub(super) devices_key_at: Option<Diagnostic>,
    /// Where `devices.join` was set last.
    pub(super) join: Option<Diagnostic>,
}

/// Reads one layer.
pub(super) fn read(mut root: Table<'_>, draft: &mut Draft) {
    section(&mut root, "gateway", |table| {
        set_some(table, "gw-12", "id", &mut draft.config.gateway.id);
    });
    section(&mut root, "mqtt", |table| mqtt(table, draft));
    section(&mut root, "devices", |table| devices(table, draft));
    if let Some(item) = root.take("upstream") {
        upstream(&item, draft);
    }
    section(&mut root, "mappings", |table| {
        paths(
            table,
            "paths",
            "/etc/lwm2mqtt/mappings.d",
            &mut draft.config.mappings.paths,
        );
    });
    section(&mut root, "models", |table| {
        paths(
            table,
            "paths",
            "/etc/lwm2mqtt/models.d",
            &mut draft.config.models.paths,
        );
    });
    section(&mut root, "store", |table| {
        if let Some(item) = table.take("path") {
            set(
                &mut draft.config.store.path,
                scalar::path(&item, "/var/lib/lwm2mqtt"),
            );
        }
    });
    section(&mut root, "firmware", |table| firmware(table, draft));
    section(&mut root, "admin", |table| {
        let admin = &mut draft.config.admin;
        if let Some(item) = table.take("socket") {
            set(
                &mut admin.socket,
                scalar::path(&item, "/run/lwm2mqtt/admin.sock"),
            );
        }
        if let Some(item) = not_built(table, "http")
            && let Some(text) = item.text("127.0.0.1:8484")
        {
            admin.http = scalar::address(&item, text);
        }
    });
    section(&mut root, "homeassistant", |table| {
        let homeassistant = &mut draft.config.homeassistant;
        if let Some(item) = not_built(table, "discovery") {
            set(&mut homeassistant.discovery, item.boolean());
        }
        if let Some(item) = table.take("prefix") {
            set(&mut homeassistant.prefix, scalar::base_topic(&item));
        }
    });
    section(&mut root, "log", |table| {
        if let Some(item) = table.take("level") {
            let levels = ["info", "error", "warn", "debug", "trace"].map(|level| (level, level));
            set(
                &mut draft.config.log.level,
                item.one_of(&levels).map(str::to_owned),
            );
        }
    });
    for (keys, section) in [
        (
            &["url", "username", "password", "base_topic", "client_id"][..],
            "mqtt",
        ),
        (&["coap", "coaps", "join"], "devices"),
        (&["level"], "log"),
        (&["id"], "gateway"),
    ] {
        root.belongs_elsewhere(keys, &format!("write it under [{section}]"));
    }
    root.finish();
}

fn mqtt(table: &mut Table<'_>, draft: &mut Draft) {
    let mqtt = &mut draft.config.mqtt;
    if let Some(item) = table.take("url") {
        set(&mut mqtt.url, scalar::broker_url(&item));
    }
    if let Some(item) = table.take("version") {
        let choice = item.one_of(&[
            ("auto", VersionChoice::Auto),
            ("5", VersionChoice::V5),
            ("3.1.1", VersionChoice::V311),
        ]);
        set(&mut mqtt.version, choice);
    }
    set_some(table, "gw-12", "client_id", &mut mqtt.client_id);
    if let Some(item) = table.take("base_topic") {
        set(&mut mqtt.base_topic, scalar::base_topic(&item));
    }
    set_some(table, "gateway", "username", &mut mqtt.username);
    if let Some(item) = table.take("password") {
        draft.password =
            SecretSource::read(&item, "lwm2mqtt.mqtt-password").or(draft.password.take());
    }
    for (key, target, at) in [
        ("ca_file", &mut mqtt.tls.ca_file, &mut draft.ca_file_at),
        (
            "cert_file",
            &mut mqtt.tls.cert_file,
            &mut draft.cert_file_at,
        ),
    ] {
        if let Some(item) = table.take(key) {
            *at = Some(place(&item));
            *target = scalar::path(&item, "/etc/lwm2mqtt/ca.pem");
        }
    }
    if let Some(item) = table.take("key") {
        draft.key_at = Some(place(&item));
        draft.key = SecretSource::read(&item, "lwm2mqtt.mqtt-key").or(draft.key.take());
    }
    if let Some(item) = table.take("keep_alive") {
        let most = Duration::from_secs(65_535);
        set(&mut mqtt.keep_alive, item.duration(SECOND, most));
    }
    if let Some(item) = table.take("admin") {
        let choice = item.one_of(&[
            ("read", AdminVerbs::Read),
            ("off", AdminVerbs::Off),
            ("all", AdminVerbs::All),
        ]);
        set(&mut mqtt.admin, choice);
    }
    if let Some(item) = table.take("reply_topics")
        && let Some(filters) = item.texts("app/#")
    {
        mqtt.reply_topics = filters
            .iter()
            .filter_map(|(item, text)| scalar::filter(item, text))
            .collect();
    }
    if let Some(item) = table.take("last_seen_interval") {
        set(&mut mqtt.last_seen_interval, item.duration(SECOND, YEAR));
    }
    section(table, "spool", |table| {
        if let Some(item) = table.take("max_size") {
            set(&mut mqtt.spool_max_size, scalar::size(&item));
        }
    });
}

fn devices(table: &mut Table<'_>, draft: &mut Draft) {
    let devices = &mut draft.config.devices;
    if let Some(item) = table.take("coap") {
        set(&mut devices.coap, scalar::addresses(&item));
    }
    if let Some(item) = table.take("coaps") {
        set(&mut devices.coaps, scalar::addresses(&item));
    }
    for (key, target, at) in [
        (
            "cert_file",
            &mut devices.cert_file,
            &mut draft.devices_cert_file_at,
        ),
        (
            "ca_file",
            &mut devices.ca_file,
            &mut draft.devices_ca_file_at,
        ),
    ] {
        if let Some(item) = table.take(key) {
            *at = Some(place(&item));
            *target = scalar::path(&item, "/etc/lwm2mqtt/ca.pem");
        }
    }
    if let Some(item) = table.take("key") {
        draft.devices_key_at = Some(place(&item));
        draft.devices_key =
            SecretSource::read(&item, "lwm2mqtt.devices-key").or(draft.devices_key.take());
    }
    if let Some(item) = table.take("join") {
        draft.join = Some(place(&item));
        let choice = item.one_of(&[
            ("known", Join::Known),
            ("window", Join::Window),
            ("open", Join::Open),
        ]);
        set(&mut devices.join, choice);
    }
    if let Some(item) = table.take("coap_from") {
        set(&mut devices.coap_from, scalar::networks(&item));
    }
    if let Some(item) = table.take("files") {
        let files = item.texts("/etc/lwm2mqtt/devices.d").map(|texts| {
            let path = |(item, _): &(Item<'_>, &str)| scalar::path(item, "/etc/lwm2mqtt/devices.d");
            texts.iter().filter_map(path).collect()
        });
        set(&mut devices.files, files);
    }
    if let Some(item) = table.take("lifetime_grace") {
        set(
            &mut devices.lifetime_grace,
            item.duration(Duration::ZERO, DAY),
        );
    }
    if let Some(item) = table.take("ack_timeout") {
        set(
            &mut devices.ack_timeout,
            item.duration(Duration::from_millis(100), Duration::from_secs(60)),
        );
    }
    if let Some(item) = table.take("awake_window") {
        set(&mut devices.awake_window, item.duration(SECOND, DAY));
    }
    if let Some(item) = table.take("lifetime_max") {
        devices.lifetime_max = item.duration(Duration::from_secs(60), YEAR);
    }
    section(table, "bootstrap", |table| {
        let bootstrap = &mut devices.bootstrap;
        if let Some(item) = table.take("coap") {
            set(&mut bootstrap.coap, scalar::addresses(&item));
        }
        if let Some(item) = table.take("coaps") {
            set(&mut bootstrap.coaps, scalar::addresses(&item));
        }
        paths(
            table,
            "profiles",
            "/etc/lwm2mqtt/bootstrap.d",
            &mut bootstrap.profiles,
        );
    });
}

fn firmware(table: &mut Table<'_>, draft: &mut Draft) {
    let firmware = &mut draft.config.firmware;
    if let Some(item) = table.take("parallel") {
        let parallel = item.integer(1..=1000);
        set(&mut firmware.parallel, parallel.map(|it| it as u64));
    }
    for (key, target) in [
        ("max_image", &mut firmware.max_image),
        ("max_size", &mut firmware.max_size),
    ] {
        if let Some(item) = table.take(key) {
            set(target, scalar::size(&item));
        }
    }
    if let Some(item) = table.take("host") {
        firmware.host = scalar::host(&item);
    }
    for (key, target) in [("http", &mut firmware.http), ("https", &mut firmware.https)] {
        if let Some(item) = table.take(key)
            && let Some(text) = item.text("0.0.0.0:8080")
        {
            *target = scalar::address(&item, text);
        }
    }
}

/// A later layer replaces the list as a whole.
fn upstream(item: &Item<'_>, draft: &mut Draft) {
    if item.is_table() {
        item.error(
            "bad-type",
            "there may be several upstream servers",
            "write `[[upstream]]` with two brackets",
        );
        return;
    }
    let servers = item
        .list("[{ uri = \"coaps://lwm2m.example.net\" }]")
        .unwrap_or_default();
    if !servers.is_empty() {
        item.not_built();
    }
    draft.config.upstream = servers
        .iter()
        .filter_map(|item| item.table("upstream", "{ uri = \"coaps://lwm2m.example.net\" }"))
        .map(upstream_server)
        .collect();
}

fn upstream_server(mut table: Table<'_>) -> Upstream {
    let mut server = Upstream::default();
    let example = "coaps://lwm2m.example.net:5684";
    let uri = table.require(
        "uri",
        &format!("say where the server is: `uri = \"{example}\"`"),
    );
    if let Some(item) = uri
        && let Some(text) = item.text(example)
    {
        let host = ["coap://", "coaps://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme));
        if host.is_none_or(str::is_empty) {
            item.error(
                "bad-url",
                format!("`{text}` is no LwM2M server"),
                format!("write it like \"{example}\""),
            );
        }
        server.uri = text.to_owned();
    }
    if let Some(item) = table.take("bootstrap") {
        set(&mut server.bootstrap, item.boolean());
    }
    if let Some(item) = table.take("security") {
        let choice = item.one_of(&[
            ("psk", Security::Psk),
            ("rpk", Security::Rpk),
            ("x509", Security::X509),
            ("none", Security::None),
        ]);
        if choice == Some(Security::Rpk) {
            item.warning(
                "not-built",
                "the DTLS engine of this program has no Raw Public Key",
                "take \"psk\" or \"x509\"",
            );
        }
        set(&mut server.security, choice);
    }
    set_some(&mut table, "gw-12", "identity", &mut server.identity);
    if let Some(item) = table.take("key") {
        // Nothing uses it yet, so it is not read from where it lies.
        let _ = SecretSource::read(&item, "lwm2mqtt.upstream-psk");
    }
    if let Some(item) = table.take("lifetime") {
        set(&mut server.lifetime, item.duration(SECOND, YEAR));
    }
    if let Some(item) = table.take("expose") {
        let choice = item.one_of(&[
            ("object25", Expose::Object25),
            ("proxy", Expose::Proxy),
            ("auto", Expose::Auto),
            ("none", Expose::None),
        ]);
        set(&mut server.expose, choice);
    }
    table.finish();
    server
}

/// Reads `[name]` and reports the keys in it that nobody took.
fn section(table: &mut Table<'_>, name: &'static str, read: impl FnOnce(&mut Table<'_>)) {
    if let Some(item) = table.take(name)
        && let Some(mut inner) = item.table(table.name_of(name), "{ … }")
    {
        read(&mut inner);
        inner.finish();
    }
}

/// Takes a key whose part is not built; its form is still to be checked.
fn not_built<'a>(table: &mut Table<'a>, key: &'static str) -> Option<Item<'a>> {
    let item = table.take(key)?;
    item.not_built();
    Some(item)
}

/// A place to warn at when all layers are known.
fn place(item: &Item<'_>) -> Diagnostic {
    item.reader()
        .diagnostic("", &item.at_key(), "", "")
        .unquoted()
}

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

fn set_some(table: &mut Table<'_>, example: &str, key: &'static str, target: &mut Option<String>) {
    if let Some(item) = table.take(key) {
        *target = scalar::label(&item, example, 128);
    }
}

fn paths(table: &mut Table<'_>, key: &'static str, example: &str, target: &mut Vec<PathBuf>) {
    if let Some(item) = table.take(key)
        && let Some(texts) = item.texts(example)
    {
        *target = texts
            .iter()
            .filter_map(|(item, _)| scalar::path(item, example))
            .collect();
    }
}
