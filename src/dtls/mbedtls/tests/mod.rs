//! Our client against our server, in virtual time.

mod psk;
mod rig;
