//! From the configuration to what an agent is started with.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use tracing::warn;

use crate::agent::config::{self, Config};
use crate::agent::entropy;
use crate::agent::local;
use crate::agent::mqtt::{self, Address, AddressError};
use crate::agent::run::Options;
use crate::coap;
use crate::diagnostic::Diagnostic;
use crate::gateway::{AdminAccess, Limits, Settings, Setup};
use crate::mapping::{Compiled, Plan};
use crate::server;
use crate::server::credentials::Policy;

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
        config::Join::Known => server::Join::Known,
        config::Join::Window => server::Join::Window,
    };
    let name = config.gateway.name();
    let gateway = Setup {
        settings: Settings {
            id: name.clone(),
            base_topic: base.clone(),
            last_seen_interval: config.mqtt.last_seen_interval,
            server: server::Settings {
                policy: Policy {
                    join,
                    coap_from: config.devices.coap_from.clone(),
                },
                lifetime_grace: config.devices.lifetime_grace,
            },
            listeners: Vec::new(),
            admin: match config.mqtt.admin {
                config::AdminVerbs::Off => AdminAccess::Off,
                config::AdminVerbs::Read => AdminAccess::Read,
                config::AdminVerbs::All => AdminAccess::All,
            },
            has_store: false,
        },
        limits: Limits::default(),
        parameters: coap::Parameters::default(),
        models: Arc::new(models),
        plan,
        seed: entropy::seed()?,
    };
    Ok(Options {
        listeners: config.devices.coap.clone(),
        local: local::Settings::of(config),
        gateway,
        mqtt: broker(config, &name)?,
    })
}

fn broker(config: &Config, name: &str) -> anyhow::Result<mqtt::Settings> {
    let mqtt = &config.mqtt;
    let address: Address = match mqtt.url.parse() {
        Ok(address) => address,
        Err(error @ AddressError::NotBuilt(_)) => bail!(
            "[mqtt] url {}: {error}. The agent does not connect in clear where security is asked for",
            mqtt.url
        ),
        Err(error) => return Err(error).with_context(|| format!("[mqtt] url {}", mqtt.url)),
    };
    Ok(mqtt::Settings {
        version: mqtt.version,
        username: mqtt.username.clone(),
        password: mqtt
            .password
            .as_ref()
            .map(|password| password.expose().to_owned()),
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
