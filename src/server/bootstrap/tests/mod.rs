//! The bootstrap server against scripted devices.
