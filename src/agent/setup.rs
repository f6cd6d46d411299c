//! From the configuration to what an agent is started with.

use std::sync::Arc;

use anyhow::Context as _;
use tracing::warn;

use crate::agent::config::{self, Config};
use crate::agent::entropy;
use crate::agent::mqtt::{self, Address};
use crate::agent::run::Options;
use crate::coap;
use crate::diagnostic::Diagnostic;
use crate::gateway::{Limits, Replies, Settings, Setup};
use crate::mapping::{Compiled, Plan};
use crate::server;

/// Why an agent cannot be started.
#[derive(Debug)]
pub enum Obstacle {
    /// Mapping files have mistakes.
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
    let (sources, mut diagnostics) = config::mapping_sources(&config.mappings.paths);
    let base = &config.mqtt.base_topic;
    let Compiled {
        plan,
        diagnostics: found,
    } = Plan::compile(&sources, &models, base);
    diagnostics.extend(found);
    let Some(plan) = plan else {
        return Err(Obstacle::Mappings(diagnostics));
    };
    for diagnostic in &diagnostics {
        warn!("{diagnostic}");
    }
    let join = match config.devices.join {
        config::Join::Open => server::Join::Open,
        config::Join::Known | config::Join::Window => server::Join::Known,
    };
    let name = config.gateway.name();
    let gateway = Setup {
        settings: Settings {
            id: name.clone(),
            base_topic: base.clone(),
            last_seen_interval: config.mqtt.last_seen_interval,
            replies: Replies {
                filters: config.mqtt.reply_topics.clone(),
                discovery_prefix: config.homeassistant.prefix.clone(),
            },
            server: server::Settings {
                join,
                lifetime_grace: config.devices.lifetime_grace,
            },
            listeners: Vec::new(),
        },
        limits: Limits::default(),
        parameters: coap::Parameters::default(),
        models: Arc::new(models),
        plan,
        seed: entropy::seed()?,
    };
    Ok(Options {
        listeners: config.devices.coap.clone(),
        gateway,
        mqtt: broker(config, &name)?,
    })
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
