//! From the configuration to what an agent is started with.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tracing::warn;

use crate::agent::config::{self, AttachmentFiles, Config, Missing};
use crate::agent::dtls::Engines;
use crate::agent::entropy;
use crate::agent::local;
use crate::agent::mappings::MappingFiles;
use crate::agent::mqtt::{self, Address};
use crate::agent::run::{Listen, Options};
use crate::agent::serving;
use crate::agent::takeover::Takeover;
use crate::coap;
use crate::diagnostic::Diagnostic;
use crate::gateway::{AdminAccess, Limits, MappingCause, MappingsRead, Replies, Settings, Setup};
use crate::gateway::{firmware, outbox};
use crate::lwm2m::model::Models;
use crate::server::bootstrap::Profiles;
use crate::server::credentials::Policy;
use crate::server::{self, Purpose};

/// Why an agent cannot be started.
#[derive(Debug)]
pub enum Obstacle {
    /// Mapping files or bootstrap profiles have mistakes.
    Mappings(Vec<Diagnostic>),
    /// Something else.
    Other(anyhow::Error),
}

impl From<Obstacle> for anyhow::Error {
    fn from(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::Mappings(diagnostics) => Self::msg(
                diagnostics
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("\n"),
            ),
            Obstacle::Other(error) => error,
        }
    }
}

impl From<anyhow::Error> for Obstacle {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Reads mappings and object files, and puts everything together.
///
/// An object file with a mistake is left out with a warning. A mapping file with a mistake is an
/// obstacle: without it, values would stand under other names than the operator wants.
pub fn options(config: &Config) -> Result<Options, Obstacle> {
    let (models, problems) = config::models(&config.models.paths);
    for problem in problems {
        warn!("{problem}");
    }
    let models = Arc::new(models);
    let base = &config.mqtt.base_topic;
    let mut mappings = MappingFiles::new(config.mappings.paths.clone(), models.clone(), base);
    let MappingsRead {
        plan, diagnostics, ..
    } = mappings.read(MappingCause::Request);
    let Some(plan) = plan else {
        return Err(Obstacle::Mappings(diagnostics));
    };
    for diagnostic in &diagnostics {
        warn!("{diagnostic}");
    }
    let profiles = bootstrap_profiles(config, &models)?;
    let join = match config.devices.join {
        config::Join::Open => server::Join::Open,
        config::Join::Known => server::Join::Known,
        config::Join::Window => server::Join::Window,
    };
    let name = config.gateway.name();
    let listeners = listeners(&config.devices, profiles.iter().next().is_some());
    let is_secured = listeners.iter().any(|listen| listen.secure);
    let gateway = Setup {
        settings: Settings {
            id: name.clone(),
            base_topic: base.clone(),
            last_seen_interval: config.mqtt.last_seen_interval,
            lifetime_max: config.devices.lifetime_max,
            replies: Replies {
                filters: config.mqtt.reply_topics.clone(),
                discovery_prefix: config.homeassistant.prefix.clone(),
            },
            server: server::Settings {
                policy: Policy {
                    join,
                    coap_from: config.devices.coap_from.clone(),
                },
                lifetime_grace: config.devices.lifetime_grace,
                awake_window: config.devices.awake_window,
                listeners: Vec::new(),
                bootstrap_profiles: Arc::new(profiles),
            },
            admin: match config.mqtt.admin {
                config::AdminVerbs::Off => AdminAccess::Off,
                config::AdminVerbs::Read => AdminAccess::Read,
                config::AdminVerbs::All => AdminAccess::All,
            },
            has_store: false,
            has_mappings: false,
            firmware: firmware::Settings {
                parallel: config.firmware.parallel as usize,
                ..firmware::Settings::default()
            },
        },
        limits: Limits {
            outbox: outbox::Limits {
                queued_bytes: usize::try_from(config.mqtt.spool_max_size).unwrap_or(usize::MAX),
                ..outbox::Limits::default()
            },
            ..Limits::default()
        },
        parameters: coap::Parameters {
            ack_timeout: config.devices.ack_timeout,
            ..coap::Parameters::default()
        },
        models,
        plan,
        engine: None,
        seed: entropy::seed()?,
    };
    Ok(Options {
        listeners,
        local: local::Settings::of(config, mappings),
        gateway,
        mqtt: broker(config, &name)?,
        engines: match is_secured {
            true => Some(Engines::of(&config.devices)?),
            false => None,
        },
        serving: serving(config)?,
        takeover: is_secured.then(|| Takeover::new(&config.store.path)),
    })
}

/// Where images are served.
fn serving(config: &Config) -> anyhow::Result<serving::Settings> {
    let certificate = || {
        let (file, key) = (&config.devices.cert_file, &config.devices.key);
        let (file, key) = file
            .clone()
            .zip(key.clone())
            .context("[firmware] https needs cert_file and key of [devices]")?;
        anyhow::Ok(serving::Certificate { file, key })
    };
    let https = config.firmware.https;
    Ok(serving::Settings {
        host: config.firmware.host.clone(),
        http: config.firmware.http,
        https: https
            .map(|address| anyhow::Ok((address, certificate()?)))
            .transpose()?,
    })
}

/// The sockets that the configuration names. The bootstrap server's come with its first profile.
fn listeners(devices: &config::Devices, bootstrap: bool) -> Vec<Listen> {
    let listen = |addresses: &[SocketAddr], secure, purpose| {
        addresses
            .iter()
            .map(move |address| Listen {
                address: *address,
                secure,
                purpose,
            })
            .collect::<Vec<_>>()
    };
    let mut all = listen(&devices.coap, false, Purpose::Management);
    all.extend(listen(&devices.coaps, true, Purpose::Management));
    if bootstrap {
        all.extend(listen(&devices.bootstrap.coap, false, Purpose::Bootstrap));
        all.extend(listen(&devices.bootstrap.coaps, true, Purpose::Bootstrap));
    }
    all
}

/// The profiles of the bootstrap server. One with a mistake is an obstacle: a device that it sends
/// to the wrong place does not come back by itself.
fn bootstrap_profiles(config: &Config, models: &Models) -> Result<Profiles, Obstacle> {
    let (sources, mut diagnostics) = config::toml_sources(&config.devices.bootstrap.profiles);
    let attachments = AttachmentFiles::of_process(Missing::Error);
    let compiled = Profiles::compile(&sources, models, &attachments);
    diagnostics.extend(compiled.diagnostics);
    let sound = !diagnostics.iter().any(Diagnostic::is_error);
    let Some(profiles) = compiled.profiles.filter(|_| sound) else {
        return Err(Obstacle::Mappings(diagnostics));
    };
    for diagnostic in &diagnostics {
        warn!("{diagnostic}");
    }
    Ok(profiles)
}

fn broker(config: &Config, name: &str) -> anyhow::Result<mqtt::Settings> {
    let mqtt = &config.mqtt;
    let address: Address = mqtt
        .url
        .parse()
        .with_context(|| format!("[mqtt] url {}", mqtt.url))?;
    let password = match &mqtt.password {
        None => None,
        Some(password) => Some(
            String::from_utf8(password.expose().to_vec())
                .ok()
                .context("[mqtt] password is not text in UTF-8")?,
        ),
    };
    Ok(mqtt::Settings {
        version: mqtt.version,
        username: mqtt.username.clone(),
        password,
        tls: mqtt.tls.clone(),
        keep_alive: mqtt.keep_alive,
        seed: entropy::number()?,
        ..mqtt::Settings::new(
            address,
            mqtt.client_id
                .clone()
                .unwrap_or_else(|| format!("lwm2mqtt-{name}")),
        )
    })
}
