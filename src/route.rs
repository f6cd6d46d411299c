//! Where a datagram comes from, and where it goes.

use std::fmt;
use std::net::SocketAddr;

/// One address, as seen through one of our listeners.
///
/// A device is answered from the listener that it spoke to (LwM2M Transport 1.1 §6.4), so the
/// listener is part of the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Index of the listener, as the shell numbers them.
    pub listener: u16,
    /// The other end's address.
    pub address: SocketAddr,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}
