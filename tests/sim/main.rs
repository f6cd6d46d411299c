//! The whole core in virtual time: scripted devices, a scripted broker, no sockets.

#![allow(clippy::unwrap_used, clippy::panic)]

mod bootstrap;
mod broker;
mod commands;
#[path = "../contract/mod.rs"]
mod contract;
mod custody;
mod devices;
mod driven;
mod firmware;
mod fleet;
mod formats;
mod history;
mod joining;
mod live;
mod operations;
mod profiles;
mod queue;
mod reload;
mod renaming;
mod restart;
mod retained;
mod rig;
mod road;
mod safety;
mod scripts;
mod secure;
mod sends;
mod strategies;
mod supervision;
mod tap;
mod updater;
mod values;
mod whole;
mod writes;
