//! Networks that devices may come from.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address and how many of its leading bits count: `192.168.10.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// What stands before the `/`.
    #[error("it does not begin with the number of an address")]
    Address,
    /// What stands behind it.
    #[error("the number of bits is not from 0 to {0}")]
    Prefix(u8),
    /// Bits behind the prefix are set.
    #[error("it has bits beyond its prefix; the network is {0}")]
    Host(Network),
}

impl Network {
    /// Whether an address lies in it. An IPv4 address that came in through an IPv6 socket is an
    /// IPv4 address (RFC 4291 §2.5.5.2).
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                u32::from(network) == masked(u128::from(u32::from(address)), 32, self.prefix) as u32
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                u128::from(network) == masked(u128::from(address), 128, self.prefix)
            }
            _ => false,
        }
    }
}

/// The first `prefix` of `width` bits, the others zero.
fn masked(bits: u128, width: u8, prefix: u8) -> u128 {
    let low = u32::from(width.saturating_sub(prefix));
    bits.checked_shr(low)
        .and_then(|high| high.checked_shl(low))
        .unwrap_or(0)
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = text
            .split_once('/')
            .map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Address)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => width,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|prefix| *prefix <= width)
                .ok_or(NetworkError::Prefix(width))?,
        };
        let network = match address {
            IpAddr::V4(address) => {
                IpAddr::V4((masked(u128::from(u32::from(address)), 32, prefix) as u32).into())
            }
            IpAddr::V6(address) => IpAddr::V6(masked(u128::from(address), 128, prefix).into()),
        };
        let network = Self {
            address: network,
            prefix,
        };
        if network.address == address {
            Ok(network)
        } else {
            Err(NetworkError::Host(network))
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_the_network_that_its_first_bits_name() {
        for (network, address, inside) in [
            ("192.168.10.0/24", "192.168.10.255", true),
            ("192.168.10.0/24", "192.168.11.0", false),
            ("192.168.10.0/24", "::ffff:192.168.10.7", true),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("fd00:1::/32", "fd00:1:ffff::1", true),
            ("fd00:1::/32", "fd00:2::1", false),
            ("::/0", "2001:db8::1", true),
        ] {
            let parsed: Network = network.parse().unwrap();
            let address = address.parse().unwrap();
            assert_eq!(parsed.contains(address), inside, "{network} {address}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for (text, error) in [
            ("localhost", NetworkError::Address),
            ("10.0.0.0/33", NetworkError::Prefix(32)),
            ("10.0.0.0/", NetworkError::Prefix(32)),
            ("::/129", NetworkError::Prefix(128)),
            (
                "10.0.0.1/8",
                NetworkError::Host("10.0.0.0/8".parse().unwrap()),
            ),
        ] {
            assert_eq!(text.parse::<Network>(), Err(error), "{text}");
        }
    }
}
