//! The bootstrap server against scripted devices.

mod pack;
mod profiles;
mod rig;
mod runs;
mod trigger;
