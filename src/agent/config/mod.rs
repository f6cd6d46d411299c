//! The configuration: a file, drop-ins beside it, the environment, flags; made into a [`Config`]
//! once, with every mistake collected.

mod attachments;
pub(in crate::agent) mod files;
mod layers;
mod scalar;
mod secret;
mod sections;
mod text;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use attachments::AttachmentFiles;
pub use files::{models, toml_sources};
pub(in crate::agent) use layers::unreadable;
pub use layers::{Missing, Override, Sources};
pub use text::template;

use crate::agent::mqtt::{Tls, VersionChoice};
use crate::diagnostic::Diagnostic;
use crate::secret::Secret;
use crate::server::credentials::Network;

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_FILE: &str = "/etc/lwm2mqtt/lwm2mqtt.toml";

/// Everything that an operator decides. Every field has a default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// `[gateway]`
    pub gateway: Gateway,
    /// `[mqtt]`
    pub mqtt: Mqtt,
    /// `[devices]`
    pub devices: Devices,
    /// `[[upstream]]`; not built.
    pub upstream: Vec<Upstream>,
    /// `[mappings]`
    pub mappings: Mappings,
    /// `[models]`
    pub models: Models,
    /// `[store]`
    pub store: Store,
    /// `[firmware]`
    pub firmware: Firmware,
    /// `[admin]`
    pub admin: Admin,
    /// `[homeassistant]`; only the prefix has a meaning.
    pub homeassistant: HomeAssistant,
    /// `[log]`
    pub log: Log,
}

/// What became of the sources of a configuration.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration, when there was no error.
    pub config: Option<Config>,
    /// What could be read, mistakes left at their default: for looking on, never for running.
    pub partial: Config,
    /// Everything found. Warnings are for the log at start: what is not built, what is unsafe.
    pub diagnostics: Vec<Diagnostic>,
    /// The files that were read, in their order.
    pub files: Vec<PathBuf>,
}

impl Config {
    /// Loads `file`, or else [`DEFAULT_FILE`] if that exists, its drop-ins, and the environment of
    /// this process.
    pub fn load(file: Option<&Path>) -> Loaded {
        Self::load_from(&Sources::of_process(file))
    }

    /// Loads exactly these sources.
    pub fn load_from(sources: &Sources) -> Loaded {
        layers::load(sources)
    }
}

/// `[gateway]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gateway {
    /// The gateway's name; the host's if absent.
    pub id: Option<String>,
}

impl Gateway {
    /// The gateway's name: that of the configuration, else that of the host.
    pub fn name(&self) -> String {
        self.id
            .clone()
            .or_else(|| {
                let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
                Some(crate::mapping::clean_name(name.trim()))
            })
            .unwrap_or_else(|| "lwm2mqtt".to_owned())
    }
}

/// `[mqtt]`
#[derive(Clone, Debug, PartialEq)]
pub struct Mqtt {
    /// Where the broker is; of a sound form.
    pub url: String,
    /// Which protocol version to speak.
    pub version: VersionChoice,
    /// The client id; made of the gateway's name if absent.
    pub client_id: Option<String>,
    /// The first levels of every topic.
    pub base_topic: String,
    /// Sent at connecting.
    pub username: Option<String>,
    /// Sent at connecting.
    pub password: Option<Secret>,
    /// `ca_file`, `cert_file` and `key`.
    pub tls: Tls,
    /// The longest silence before we ask whether the broker is there; 1 s to 65 535 s.
    pub keep_alive: Duration,
    /// Which administration is possible over MQTT.
    pub admin: AdminVerbs,
    /// Topic filters that replies may go to; empty is anywhere outside our own tree.
    pub reply_topics: Vec<String>,
    /// How often `last_seen` is published of a device that only notifies.
    pub last_seen_interval: Duration,
    /// `[mqtt.spool] max_size`, in bytes: what waits for the broker of events, replies and samples.
    pub spool_max_size: u64,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            url: "mqtt://localhost:1883".to_owned(),
            version: VersionChoice::Auto,
            client_id: None,
            base_topic: "lwm2mqtt".to_owned(),
            username: None,
            password: None,
            tls: Tls::default(),
            keep_alive: Duration::from_secs(30),
            admin: AdminVerbs::Read,
            reply_topics: Vec::new(),
            last_seen_interval: Duration::from_secs(600),
            spool_max_size: 64 << 20,
        }
    }
}

/// `[mqtt] admin`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminVerbs {
    /// None.
    Off,
    /// What changes nothing.
    Read,
    /// All.
    All,
}

/// `[devices]`
#[derive(Clone, Debug, PartialEq)]
pub struct Devices {
    /// Listeners without security.
    pub coap: Vec<SocketAddr>,
    /// Listeners with DTLS.
    pub coaps: Vec<SocketAddr>,
    /// Our certificate for devices that have certificates, the leaf first.
    pub cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub key: Option<Secret>,
    /// The authorities that may vouch for any device's certificate.
    pub ca_file: Option<PathBuf>,
    /// Who may register.
    pub join: Join,
    /// Networks that devices without security may come from; empty is anywhere.
    pub coap_from: Vec<Network>,
    /// Files and folders with devices and their credentials.
    pub files: Vec<PathBuf>,
    /// How long after its lifetime a device still counts as registered.
    pub lifetime_grace: Duration,
    /// ACK_TIMEOUT towards devices (RFC 7252 §4.8), 100 ms to 60 s.
    pub ack_timeout: Duration,
    /// How long a device in queue mode listens after each message of its own.
    pub awake_window: Duration,
    /// Longer lifetimes are brought down to this; not built.
    pub lifetime_max: Option<Duration>,
    /// `[devices.bootstrap]`
    pub bootstrap: Bootstrap,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            coap: Vec::new(),
            coaps: vec![SocketAddr::from(([0; 16], 5684))],
            cert_file: None,
            key: None,
            ca_file: None,
            join: Join::Known,
            coap_from: Vec::new(),
            files: vec![PathBuf::from("/etc/lwm2mqtt/devices.d")],
            lifetime_grace: Duration::from_secs(30),
            ack_timeout: Duration::from_secs(2),
            awake_window: Duration::from_secs(93),
            lifetime_max: None,
            bootstrap: Bootstrap::default(),
        }
    }
}

/// `[devices] join`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// Devices with a credential or an approval.
    Known,
    /// Those, and new ones while a join window is open.
    Window,
    /// Anyone whom the transport lets in.
    Open,
}

/// `[devices.bootstrap]`
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// Listeners without security.
    pub coap: Vec<SocketAddr>,
    /// Listeners with DTLS.
    pub coaps: Vec<SocketAddr>,
    /// Files and folders with bootstrap profiles.
    pub profiles: Vec<PathBuf>,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            coap: Vec::new(),
            coaps: vec![SocketAddr::from(([0; 16], 5784))],
            profiles: vec![PathBuf::from("/etc/lwm2mqtt/bootstrap.d")],
        }
    }
}

/// One `[[upstream]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// `coap://` or `coaps://`.
    pub uri: String,
    /// Whether it is a bootstrap server.
    pub bootstrap: bool,
    /// How the connection is secured.
    pub security: Security,
    /// PSK identity.
    pub identity: Option<String>,
    /// Lifetime of our registration.
    pub lifetime: Duration,
    /// How devices are shown.
    pub expose: Expose,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            uri: String::new(),
            bootstrap: false,
            security: Security::Psk,
            identity: None,
            lifetime: Duration::from_secs(3600),
            expose: Expose::Object25,
        }
    }
}

/// `[[upstream]] security`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Pre-shared key.
    Psk,
    /// Raw public key.
    Rpk,
    /// Certificate.
    X509,
    /// None.
    None,
}

/// `[[upstream]] expose`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expose {
    /// As instances of object 25.
    Object25,
    /// Each by a registration of its own.
    Proxy,
    /// Object 25 if the server reads it, else by registrations.
    Auto,
    /// Not at all.
    None,
}

/// `[mappings]`
#[derive(Clone, Debug, PartialEq)]
pub struct Mappings {
    /// Files and folders; a profile of an earlier one replaces one with the same id of a later.
    pub paths: Vec<PathBuf>,
}

impl Default for Mappings {
    fn default() -> Self {
        Self {
            paths: folders("mappings.d", "mappings"),
        }
    }
}

/// `[models]`
#[derive(Clone, Debug, PartialEq)]
pub struct Models {
    /// Files and folders with OMA object XML; a definition of an earlier one replaces one of the
    /// same object and version of a later, and of the built-in registry.
    pub paths: Vec<PathBuf>,
}

impl Default for Models {
    fn default() -> Self {
        Self {
            paths: folders("models.d", "models"),
        }
    }
}

/// The operator's folder before the shipped one.
fn folders(own: &str, shipped: &str) -> Vec<PathBuf> {
    vec![
        Path::new("/etc/lwm2mqtt").join(own),
        Path::new("/usr/share/lwm2mqtt").join(shipped),
    ]
}

/// `[store]`
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// The folder of the store.
    pub path: PathBuf,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            path: PathBuf::from("/var/lib/lwm2mqtt"),
        }
    }
}

/// `[firmware]`
#[derive(Clone, Debug, PartialEq)]
pub struct Firmware {
    /// Devices that are sent an image at a time.
    pub parallel: u64,
    /// The largest image, in bytes. It is held in memory while it is sent.
    pub max_image: u64,
    /// All images together, in bytes.
    pub max_size: u64,
    /// How devices that fetch images call this machine; the address of the listener if absent.
    pub host: Option<String>,
    /// Where images are served in clear; absent is off.
    pub http: Option<SocketAddr>,
    /// Where images are served with the certificate of `[devices]`; absent is off.
    pub https: Option<SocketAddr>,
}

impl Default for Firmware {
    fn default() -> Self {
        Self {
            parallel: 4,
            max_image: 64 << 20,
            max_size: 1 << 30,
            host: None,
            http: None,
            https: None,
        }
    }
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Where the command line talks to the agent.
    pub socket: PathBuf,
    /// Where health, metrics and the admin API are served; absent is off. Not built.
    pub http: Option<SocketAddr>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/lwm2mqtt/admin.sock"),
            http: None,
        }
    }
}

/// `[homeassistant]`
#[derive(Clone, Debug, PartialEq)]
pub struct HomeAssistant {
    /// Whether discovery messages are published.
    pub discovery: bool,
    /// The first levels of their topics. No reply goes there, discovery or not.
    pub prefix: String,
}

impl Default for HomeAssistant {
    fn default() -> Self {
        Self {
            discovery: false,
            prefix: "homeassistant".to_owned(),
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
