//! The agent against real sockets and real brokers.

#![cfg(feature = "agent")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "tests fail by panicking, and these touch the outside"
)]

mod broker;
mod credentials;
mod custody;
mod device;
mod firmware;
mod front;
mod gateway;
mod home;
mod killed;
mod mappings;
mod mqtt;
mod operate;
mod outage;
mod retained;
mod scripted;
#[cfg(feature = "dtls")]
mod secure;
mod sleeper;
mod tls;
