//! A NAT between one device and the gateway: it can change the port that the gateway sees, and remembers what went by.

use std::net::UdpSocket;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// The content types of a record (RFC 6347 §4.1, RFC 9146 §3).
const HANDSHAKE: u8 = 22;
const TLS12_CID: u8 = 25;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// Length of a record's header without a connection ID.
const RECORD: usize = 13;
/// Length of a handshake message's header.
const MESSAGE: usize = 12;

struct State {
    gateway: String,
    device: Option<std::net::SocketAddr>,
    outward: Arc<UdpSocket>,
    to_gateway: Vec<Vec<u8>>,
    to_device: Vec<Vec<u8>>,
    /// Keep the next record with a connection ID instead of passing it on.
    hold: bool,
    held: Option<Vec<u8>>,
    closed: bool,
}

/// Forwards datagrams between a port of its own and the gateway.
pub struct Nat {
    /// Where the device finds the gateway.
    pub address: String,
    inward: Arc<UdpSocket>,
    state: Arc<Mutex<State>>,
}

impl Nat {
    pub fn to(gateway: &str) -> Result<Nat> {
        let inward = Arc::new(UdpSocket::bind("127.0.0.1:0")?);
        inward.set_read_timeout(Some(Duration::from_millis(100)))?;
        let address = inward.local_addr()?.to_string();
        let state = State {
            gateway: gateway.to_owned(),
            device: None,
            outward: Arc::new(UdpSocket::bind("127.0.0.1:0")?),
            to_gateway: Vec::new(),
            to_device: Vec::new(),
            hold: false,
            held: None,
            closed: false,
        };
        let nat = Nat {
            address,
            inward,
            state: Arc::new(Mutex::new(state)),
        };
        let (inward, state) = (Arc::clone(&nat.inward), Arc::clone(&nat.state));
        thread::spawn(move || from_device(&inward, &state));
        nat.open()?;
        Ok(nat)
    }

    /// From now on the gateway sees the device at another port, and what it sends to the old one is lost.
    pub fn rebind(&self) -> Result<()> {
        lock(&self.state).outward = Arc::new(UdpSocket::bind("127.0.0.1:0")?);
        self.open()
    }

    fn open(&self) -> Result<()> {
        let outward = Arc::clone(&lock(&self.state).outward);
        outward.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (inward, state) = (Arc::clone(&self.inward), Arc::clone(&self.state));
        thread::spawn(move || from_gateway(&outward, &inward, &state));
        Ok(())
    }

    /// The port that the gateway sees.
    pub fn port(&self) -> Result<u16> {
        Ok(lock(&self.state).outward.local_addr()?.port())
    }

    /// Forgets what went by.
    pub fn forget(&self) {
        let mut state = lock(&self.state);
        state.to_gateway.clear();
        state.to_device.clear();
    }

    /// How many datagrams went to the device since [`Nat::forget`].
    pub fn reached_device(&self) -> usize {
        lock(&self.state).to_device.len()
    }

    /// What the device has sent that carries a connection ID, oldest first.
    pub fn records_with_cid(&self) -> Vec<Vec<u8>> {
        let state = lock(&self.state);
        let with_cid = |datagram: &&Vec<u8>| datagram.first() == Some(&TLS12_CID);
        state.to_gateway.iter().filter(with_cid).cloned().collect()
    }

    /// Keeps the next record of the device that carries a connection ID.
    pub fn hold(&self) {
        let mut state = lock(&self.state);
        state.hold = true;
        state.held = None;
    }

    /// What [`Nat::hold`] has kept.
    pub fn held(&self) -> Option<Vec<u8>> {
        lock(&self.state).held.clone()
    }

    /// How many handshakes the device has begun: ClientHellos that differ in their random.
    pub fn handshakes(&self) -> usize {
        let state = lock(&self.state);
        let mut randoms: Vec<&[u8]> = state
            .to_gateway
            .iter()
            .filter_map(|datagram| message(datagram, CLIENT_HELLO))
            .filter_map(|hello| hello.get(2..34))
            .collect();
        randoms.sort_unstable();
        randoms.dedup();
        randoms.len()
    }

    /// The suite of the last ServerHello.
    pub fn suite(&self) -> Result<u16> {
        let state = lock(&self.state);
        let mut hellos = state
            .to_device
            .iter()
            .filter_map(|datagram| message(datagram, SERVER_HELLO));
        let hello = hellos.next_back().context("no ServerHello went by")?;
        // Version, random, session ID (RFC 5246 §7.4.1.3).
        let session = usize::from(*hello.get(34).context("a short ServerHello")?);
        let suite = hello.get(35 + session..37 + session);
        let suite = suite.context("a short ServerHello")?;
        Ok(u16::from_be_bytes([suite[0], suite[1]]))
    }
}

/// The body of the first handshake message, if it is of this type.
fn message(datagram: &[u8], kind: u8) -> Option<&[u8]> {
    let is = datagram.first() == Some(&HANDSHAKE) && datagram.get(RECORD) == Some(&kind);
    datagram.get(RECORD + MESSAGE..).filter(|_| is)
}

impl Drop for Nat {
    fn drop(&mut self) {
        lock(&self.state).closed = true;
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn from_device(inward: &UdpSocket, shared: &Mutex<State>) {
    let mut buffer = [0; 2048];
    while !lock(shared).closed {
        let Ok((length, device)) = inward.recv_from(&mut buffer) else {
            continue;
        };
        let datagram = &buffer[..length];
        let mut state = lock(shared);
        state.device = Some(device);
        if state.hold && datagram.first() == Some(&TLS12_CID) {
            state.hold = false;
            state.held = Some(datagram.to_vec());
            continue;
        }
        state.to_gateway.push(datagram.to_vec());
        // A lost datagram is sent again by its sender.
        let _ = state.outward.send_to(datagram, state.gateway.as_str());
    }
}

fn from_gateway(outward: &Arc<UdpSocket>, inward: &UdpSocket, shared: &Mutex<State>) {
    let mut buffer = [0; 2048];
    loop {
        {
            let state = lock(shared);
            if state.closed || !Arc::ptr_eq(outward, &state.outward) {
                break;
            }
        }
        let Ok(length) = outward.recv(&mut buffer) else {
            continue;
        };
        let mut state = lock(shared);
        if !Arc::ptr_eq(outward, &state.outward) {
            break;
        }
        state.to_device.push(buffer[..length].to_vec());
        if let Some(device) = state.device {
            let _ = inward.send_to(&buffer[..length], device);
        }
    }
}
