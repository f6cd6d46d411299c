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

/// The address as a person knows it: an IPv4 address that a socket of both families has dressed up
/// as IPv6 is shown plain.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address.ip().to_canonical(), self.address.port()).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_shown_as_the_ipv4_address_that_it_is() {
        for (address, shown) in [
            ("[::ffff:192.0.2.7]:5684", "192.0.2.7:5684"),
            ("[2001:db8::1]:5684", "[2001:db8::1]:5684"),
            ("192.0.2.7:5684", "192.0.2.7:5684"),
        ] {
            let route = Route {
                listener: 0,
                address: address.parse().unwrap(),
            };
            assert_eq!(route.to_string(), shown);
        }
    }
}
