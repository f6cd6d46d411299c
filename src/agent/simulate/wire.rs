//! What one simulated device sends and receives by: a socket, with a secure session on it where
//! the server wants one.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;

use crate::dtls::{Connect, Fatal, Mux, Output, SessionId};
use crate::route::Route;
use crate::time::{Instant, Now};

/// The largest datagram that a device takes: a block of 1024 bytes, its options, and a DTLS record.
const DATAGRAM: usize = 2048;
/// Messages that wait for the handshake; CoAP repeats what is lost beyond.
const WAITING: usize = 8;
/// How long after a failed handshake the next one is tried, when there is something to send.
const RETRY: Duration = Duration::from_secs(2);

/// A socket towards one server.
pub(super) struct Wire {
    socket: UdpSocket,
    secure: Option<Secure>,
    /// Datagrams of the server, opened.
    received: VecDeque<Vec<u8>>,
    /// Times the server's host said that nothing listens there (ICMP).
    pub(super) unreachable: u64,
}

/// The session on it.
struct Secure {
    mux: Mux,
    connect: Connect,
    route: Route,
    session: Option<SessionId>,
    established: bool,
    waiting: VecDeque<Vec<u8>>,
    not_before: Instant,
    news: VecDeque<News>,
}

/// What became of a session.
#[derive(Debug)]
pub(super) enum News {
    /// It stands, with this suite.
    Secured(&'static str),
    /// The handshake failed.
    Failed(Fatal),
    /// The server ended it.
    Closed,
}

impl Wire {
    /// A wire on a connected socket.
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self {
            socket,
            secure: None,
            received: VecDeque::new(),
            unreachable: 0,
        }
    }

    /// The same, secured: the handshake begins with the first message.
    pub(super) fn secured(
        socket: UdpSocket,
        server: SocketAddr,
        mux: Mux,
        connect: Connect,
    ) -> Self {
        Self {
            secure: Some(Secure {
                mux,
                connect,
                route: Route {
                    listener: 0,
                    address: server,
                },
                session: None,
                established: false,
                waiting: VecDeque::new(),
                not_before: Instant::ZERO,
                news: VecDeque::new(),
            }),
            ..Self::new(socket)
        }
    }

    /// Ready when the server sent something.
    pub(super) async fn readable(&mut self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Sends a message. What cannot leave now is lost; the message layer repeats it.
    pub(super) async fn send(&mut self, now: Now, message: &[u8]) {
        let Some(secure) = &mut self.secure else {
            return self.put(message).await;
        };
        secure.send(now, message);
        self.flush(now).await;
    }

    /// Takes the datagrams that wait at the socket; [`Wire::next`] has what was in them.
    pub(super) async fn receive(&mut self, now: Now) {
        let mut buffer = [0; DATAGRAM];
        loop {
            match self.socket.try_recv(&mut buffer) {
                Ok(length) => match &mut self.secure {
                    None => self.received.push_back(buffer[..length].to_vec()),
                    Some(secure) => secure.mux.receive(now, secure.route, &buffer[..length]),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // nothing listens there at present; the message layer repeats
                Err(_) => self.unreachable += 1,
            }
        }
        self.flush(now).await;
    }

    /// The next message of the server.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        self.received.pop_front()
    }

    /// Whether there is a message or news.
    pub(super) fn has_news(&self) -> bool {
        let secure = self.secure.as_ref();
        !self.received.is_empty() || secure.is_some_and(|secure| !secure.news.is_empty())
    }

    /// What became of the session.
    pub(super) fn news(&mut self) -> Option<News> {
        self.secure.as_mut()?.news.pop_front()
    }

    /// When [`Wire::timeout`] is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.secure.as_ref()?.mux.next_timeout()
    }

    /// Does what is due.
    pub(super) async fn timeout(&mut self, now: Now) {
        if let Some(secure) = &mut self.secure {
            secure.mux.timeout(now);
        }
        self.flush(now).await;
    }

    /// Begins a new session with the next message. A server that lost the session says nothing
    /// about it (RFC 6347 §4.1.2.7), so a device that is not answered has to begin anew.
    pub(super) async fn renew(&mut self, now: Now) {
        if let Some(secure) = &mut self.secure
            && secure.established
            && let Some(session) = secure.session.take()
        {
            secure.established = false;
            secure.mux.close(session);
        }
        self.flush(now).await;
    }

    /// Says goodbye to the server, and notes what the network said last.
    pub(super) async fn close(&mut self, now: Now) {
        if let Some(secure) = &mut self.secure
            && let Some(session) = secure.session.take()
        {
            secure.mux.close(session);
        }
        self.flush(now).await;
        self.note_error();
    }

    /// Notes what the network said of an earlier datagram.
    pub(super) fn note_error(&mut self) {
        if let Ok(Some(_)) = self.socket.take_error() {
            self.unreachable += 1;
        }
    }

    /// Does all that the session wants.
    async fn flush(&mut self, now: Now) {
        while let Some(secure) = &mut self.secure
            && let Some(output) = secure.mux.poll()
        {
            match output {
                Output::Datagram { bytes, .. } => self.put(&bytes).await,
                Output::App { bytes, .. } => self.received.push_back(bytes),
                // A device has nothing else to do meanwhile.
                Output::Work(mut work) => {
                    work.run();
                    secure.mux.worked(now, work);
                }
                Output::Established { suite, .. } => secure.on_established(suite),
                Output::Failed { reason, .. } => secure.on_ended(now, News::Failed(reason)),
                Output::Closed { .. } => secure.on_ended(now, News::Closed),
                Output::Moved { .. } => {}
            }
        }
    }

    async fn put(&mut self, datagram: &[u8]) {
        // the error is an earlier datagram's (ICMP), and this one has not left
        if self.socket.send(datagram).await.is_err() {
            self.unreachable += 1;
            _ = self.socket.send(datagram).await;
        }
    }
}

impl Secure {
    fn send(&mut self, now: Now, message: &[u8]) {
        match self.session {
            Some(session) if self.established => return self.mux.send(session, message),
            Some(_) => {}
            None if now.instant < self.not_before => return,
            None => match self.mux.connect(now, self.route, self.connect.clone()) {
                Ok(session) => self.session = Some(session),
                Err(reason) => return self.on_ended(now, News::Failed(reason)),
            },
        }
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(message.to_vec());
    }

    fn on_established(&mut self, suite: &'static str) {
        self.established = true;
        self.news.push_back(News::Secured(suite));
        if let Some(session) = self.session {
            for message in self.waiting.drain(..) {
                self.mux.send(session, &message);
            }
        }
    }

    fn on_ended(&mut self, now: Now, news: News) {
        self.session = None;
        self.established = false;
        self.waiting.clear();
        self.not_before = now.instant + RETRY;
        self.news.push_back(news);
    }
}
