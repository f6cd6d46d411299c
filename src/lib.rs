//! lwm2mqtt joins LwM2M devices to MQTT.
//!
//! The crate is a core without input or output, and a shell around it.
//!
//! * The core ([`coap`], [`dtls`], [`lwm2m`], [`server`], [`client`], [`mapping`], [`gateway`]) is made of
//!   state machines. Time, bytes and randomness are arguments; what they want done comes out of a
//!   `poll`. It builds alone with `--no-default-features`.
//! * The shell ([`agent`], feature `agent`) owns sockets, the MQTT connection, configuration
//!   files and the command line.
//!
//! The contract of the run loop: call [`gateway::Gateway::handle`] with one input, then drain
//! [`gateway::Gateway::poll`] until it returns [`gateway::Output::Timeout`], then wait until that
//! instant or the next input.

#[cfg(feature = "agent")]
pub mod agent;
pub mod client;
pub mod coap;
pub mod diagnostic;
pub mod dtls;
pub mod gateway;
pub mod kept;
pub mod keyed;
pub mod lwm2m;
pub mod mapping;
pub mod name;
pub mod name_pattern;
pub mod route;
pub mod secret;
pub mod server;
pub mod time;
pub(crate) mod timers;
