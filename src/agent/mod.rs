//! The shell: sockets, the MQTT connection, configuration, the command line.
//!
//! The only place that touches clocks, files and the network, so the bans of `clippy.toml` are
//! lifted here. What is *absent*: any knowledge of what a value means.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the shell touches the outside"
)]

pub mod acl;
pub mod admin;
pub mod check;
pub mod cli;
pub mod config;
pub mod contract;
#[cfg(feature = "demo")]
pub mod demo;
pub mod device;
pub mod devices;
pub mod dtls;
pub mod entropy;
pub mod firmware;
pub mod images;
pub mod local;
pub mod log;
pub mod mappings;
pub mod mqtt;
pub mod operate;
pub mod retained;
pub mod run;
pub mod serving;
pub mod setup;
pub mod simulate;
pub mod socket;
pub mod store;
pub mod takeover;
pub mod watched;
mod worker;
