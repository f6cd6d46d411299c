//! The UDP sockets that devices reach us at.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};

use anyhow::Context as _;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

use crate::route::Route;

/// Room for 2 000 devices that register at once, with the kernel's own cost of each datagram.
const RECEIVE_BUFFER: usize = 8 << 20;

/// The largest UDP datagram.
pub const DATAGRAM_MAX: usize = 65_535;

/// All listeners, numbered in the order of the configuration.
pub struct Sockets {
    sockets: Vec<UdpSocket>,
    /// Where to begin looking next, so that a busy listener does not starve the others.
    next: usize,
}

impl Sockets {
    /// Binds every address; all of them or none.
    pub fn bind(addresses: &[SocketAddr]) -> anyhow::Result<Self> {
        let bind = |address: &SocketAddr| {
            bind(*address).with_context(|| format!("cannot listen on {address} (UDP)"))
        };
        Ok(Self {
            sockets: addresses.iter().map(bind).collect::<anyhow::Result<_>>()?,
            next: 0,
        })
    }

    /// The addresses that are bound; a port 0 of the configuration has become a real one.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets
            .iter()
            .filter_map(|socket| socket.local_addr().ok())
            .collect()
    }

    /// Waits for a datagram. Cancel-safe.
    pub async fn receive(&mut self, buffer: &mut [u8]) -> (Route, usize) {
        std::future::poll_fn(|context| self.poll_receive(context, buffer)).await
    }

    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<(Route, usize)> {
        let count = self.sockets.len();
        for turn in 0..count {
            let index = (self.next + turn) % count;
            let mut read = ReadBuf::new(buffer);
            // An error here is about an earlier datagram of ours (ICMP); the next one may be fine.
            while let Poll::Ready(result) = self.sockets[index].poll_recv_from(context, &mut read) {
                if let Ok(address) = result {
                    self.next = index + 1;
                    return Poll::Ready((route(index, address), read.filled().len()));
                }
            }
        }
        Poll::Pending
    }

    /// A datagram that has come already, if there is one.
    pub fn try_receive(&mut self, buffer: &mut [u8]) -> Option<(Route, usize)> {
        let count = self.sockets.len();
        for turn in 0..count {
            let index = (self.next + turn) % count;
            if let Ok((length, address)) = self.sockets[index].try_recv_from(buffer) {
                return Some((route(index, address), length));
            }
        }
        None
    }

    /// Sends a datagram. UDP may lose it, and so may a full socket: retransmission mends both.
    pub fn send(&self, route: Route, datagram: &[u8]) -> io::Result<()> {
        let socket = self
            .sockets
            .get(usize::from(route.listener))
            .ok_or(io::ErrorKind::NotFound)?;
        socket.try_send_to(datagram, route.address).map(|_| ())
    }
}

const fn route(index: usize, address: SocketAddr) -> Route {
    Route {
        listener: index as u16,
        address,
    }
}

fn bind(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address).or_else(|error| {
        let instead = without_ipv6(address, &error).ok_or(error)?;
        tracing::info!("this host has no IPv6: listening on {instead} instead of {address}");
        std::net::UdpSocket::bind(instead)
    })?;
    socket.set_nonblocking(true)?;
    enlarge(&socket, address);
    Ok(UdpSocket::from_std(socket)?)
}

/// What to bind where the host has no IPv6: `[::]` means every address, so every IPv4 address then.
fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let errno = rustix::io::Errno::from_io_error(error)?;
    let has_none = matches!(
        errno,
        rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL
    );
    (has_none && address.ip() == Ipv6Addr::UNSPECIFIED)
        .then(|| (Ipv4Addr::UNSPECIFIED, address.port()).into())
}

/// Enlarges the receive buffer: beyond the kernel's cap where that is allowed, else up to it.
fn enlarge(socket: &std::net::UdpSocket, address: SocketAddr) {
    use rustix::net::sockopt::{
        set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, socket_recv_buffer_size,
    };
    if set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER).is_ok() {
        return;
    }
    let _ = set_socket_recv_buffer_size(socket, RECEIVE_BUFFER);
    // The kernel shows twice what it was given (socket(7)).
    let size = socket_recv_buffer_size(socket).unwrap_or_default() / 2;
    if size < RECEIVE_BUFFER {
        tracing::warn!(
            "{address}: the receive buffer is only {size} bytes, so a burst of registrations may be lost; allow more with: sysctl -w net.core.rmem_max={RECEIVE_BUFFER}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_every_ipv4_address_where_there_is_no_ipv6() {
        let none = io::Error::from(rustix::io::Errno::AFNOSUPPORT);
        let used = io::Error::from(rustix::io::Errno::ADDRINUSE);
        let instead = |address: &str, error| without_ipv6(address.parse().unwrap(), error);
        let all = "0.0.0.0:5684".parse().ok();
        assert_eq!(instead("[::]:5684", &none), all);
        assert_eq!(instead("[::]:5684", &used), None);
        assert_eq!(instead("[2001:db8::1]:5684", &none), None);
        assert_eq!(instead("192.0.2.1:5684", &none), None);
    }
}
