//! The bootstrap server against scripted devices.

mod broken_off;
mod pack;
mod profiles;
mod rig;
mod runs;
mod trigger;
