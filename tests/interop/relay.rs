//! A wire between the agent and the broker that can be cut and joined.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;

#[derive(Default)]
struct State {
    cut: bool,
    closed: bool,
    open: Vec<TcpStream>,
}

/// Forwards TCP connections to a port of the loopback.
pub struct Relay {
    pub port: u16,
    state: Arc<Mutex<State>>,
}

impl Relay {
    pub fn to(target: u16) -> Result<Relay> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for inward in listener.incoming().flatten() {
                let mut state = lock(&shared);
                if state.closed {
                    break;
                }
                // While it is cut a connection is closed at once, as a port without a listener does.
                if state.cut {
                    continue;
                }
                let Ok(outward) = TcpStream::connect(("127.0.0.1", target)) else {
                    continue;
                };
                for (from, to) in [(&inward, &outward), (&outward, &inward)] {
                    if let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) {
                        thread::spawn(move || forward(from, to));
                    }
                }
                state.open.extend([inward, outward]);
            }
        });
        Ok(Relay { port, state })
    }

    /// Breaks every connection and refuses new ones.
    pub fn cut(&self) {
        let mut state = lock(&self.state);
        state.cut = true;
        for stream in state.open.drain(..) {
            // One that is down already is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn join(&self) {
        lock(&self.state).cut = false;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
        lock(&self.state).closed = true;
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forward(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
