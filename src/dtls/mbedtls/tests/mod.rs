//! Our client against our server, in virtual time.

mod papers;
mod psk;
mod rig;
mod x509;
