//! One connection, from the TCP handshake to its end.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::reader::{Packet, Reader};
use super::settings::Settings;
use super::stream::{self, Stream};
use super::{Event, Version, explain, words, writer};
use crate::gateway::outbox::{Outgoing, Session, Ticket};
use crate::gateway::publish::{Message, Qos};

/// From the first packet to CONNACK.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes waiting to be written above which [`Connection::has_room`] is false.
const ROOM: usize = 256 << 10;
/// Room for one read.
const READ: usize = 16 << 10;
/// The packet identifier of our one SUBSCRIBE; publishes use those below.
const SUBSCRIBE_ID: u16 = u16::MAX;

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Failure {
    /// The broker does not know this version of MQTT.
    Version,
    /// The broker closed the connection instead of a CONNACK: it may not know this version.
    Unanswered(String),
    /// Another client has our client id.
    TakenOver(String),
    /// Nobody is there.
    Absent(String),
    /// Anything else.
    Other(String),
}

/// A connection that the broker has accepted.
pub(super) struct Connection {
    pub(super) version: Version,
    pub(super) session: Session,
    pub(super) since: Instant,
    read: Box<dyn AsyncRead + Send + Unpin>,
    write: Box<dyn AsyncWrite + Send + Unpin>,
    /// Whether what was written must be flushed, and whether it was.
    is_layered: bool,
    is_flushed: bool,
    reader: Reader,
    out: BytesMut,
    keep_alive: Duration,
    last_write: Instant,
    last_read: Instant,
    /// When a PINGREQ was written that has not been answered.
    ping: Option<Instant>,
    /// The caller was told that there is no room.
    refused_room: bool,
    filters: Vec<String>,
}

/// Connects and waits for CONNACK, then asks for the subscriptions.
pub(super) async fn open(settings: Settings, version: Version) -> Result<Connection, Failure> {
    match timeout(OPEN_TIMEOUT, greet(&settings, version)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Absent(words::io(
            &io::ErrorKind::TimedOut.into(),
            &settings,
        ))),
    }
}

async fn greet(settings: &Settings, version: Version) -> Result<Connection, Failure> {
    let broken = |error: io::Error| Failure::Other(words::io(&error, settings));
    let Stream {
        mut read,
        mut write,
        is_layered,
        identity,
    } = stream::open(settings).await?;
    let unanswered = || match &identity {
        Some(identity) if identity.was_asked() => {
            Failure::Unanswered(explain::unidentified(settings))
        }
        _ => Failure::Unanswered(words::unanswered(settings)),
    };

    let mut out = BytesMut::new();
    writer::connect(version, settings, &mut out).map_err(Failure::Other)?;
    // A broker that does not want us may have closed the connection already. Why stands in what it
    // sent before.
    let written = async {
        write.write_all_buf(&mut out).await?;
        write.flush().await
    };
    let written = written.await;

    let mut reader = Reader::new(version);
    let (session, keep_alive) = loop {
        match read.read_buf(&mut reader.buffer).await {
            Ok(0) => return Err(unanswered()),
            Err(error)
                if matches!(
                    error.kind(),
                    // TLS ended without close_notify.
                    io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
                ) =>
            {
                return Err(unanswered());
            }
            Err(error) => return Err(broken(error)),
            Ok(_) => {}
        }
        if !reader.may_be_connack() {
            return Err(Failure::Other(words::no_broker(&reader.buffer)));
        }
        let packet = reader
            .next()
            .map_err(|error| Failure::Other(error.to_string()))?;
        match packet {
            Some(Packet::ConnAck {
                code: 0,
                session,
                keep_alive,
            }) => break (session, keep_alive),
            Some(Packet::ConnAck {
                code: 0x01 | 0x84, ..
            }) => return Err(Failure::Version),
            Some(Packet::ConnAck { code, .. }) => {
                return Err(Failure::Other(words::connect_refused(code, settings)));
            }
            _ => {}
        }
    };
    written.map_err(broken)?;
    if !settings.subscriptions.is_empty() {
        writer::subscribe(version, SUBSCRIBE_ID, &settings.subscriptions, &mut out)
            .map_err(Failure::Other)?;
    }
    let now = Instant::now();
    Ok(Connection {
        version,
        session,
        since: now,
        read,
        write,
        is_layered,
        is_flushed: true,
        reader,
        out,
        keep_alive: keep_alive.map_or(settings.keep_alive, |seconds| {
            Duration::from_secs(seconds.into())
        }),
        last_write: now,
        last_read: now,
        ping: None,
        refused_room: false,
        filters: settings
            .subscriptions
            .iter()
            .map(|subscription| subscription.filter.clone())
            .collect(),
    })
}

impl Connection {
    /// Writes a message to the buffer.
    pub(super) fn publish(&mut self, outgoing: &Outgoing<'_>, tickets: &mut Tickets) {
        let (id, again) = match outgoing.qos {
            Qos::AtMostOnce => (0, false),
            Qos::AtLeastOnce => tickets.assign(outgoing.ticket),
        };
        writer::publish(self.version, outgoing, id, again, &mut self.out);
    }

    /// Whether the socket keeps up.
    pub(super) fn has_room(&mut self) -> bool {
        let room = self.out.len() < ROOM;
        self.refused_room |= !room;
        room
    }

    pub(super) fn puback(&mut self, id: u16) {
        writer::puback(id, &mut self.out);
    }

    /// Moves bytes until there is something to tell. Can be dropped at any await: what was read is
    /// in the reader, what was not written in the buffer.
    pub(super) async fn run(
        &mut self,
        settings: &Settings,
        tickets: &mut Tickets,
        inbox: &mut VecDeque<Incoming>,
    ) -> Result<(), Failure> {
        let broken = |error: io::Error| Failure::Other(words::io(&error, settings));
        loop {
            while let Some(packet) = self
                .reader
                .next()
                .map_err(|error| Failure::Other(error.to_string()))?
            {
                self.receive(packet, settings, tickets, inbox)?;
            }
            if self.refused_room && self.out.len() < ROOM / 2 {
                self.refused_room = false;
                inbox.push_back(Incoming::Event(Event::Room));
            }
            if !inbox.is_empty() {
                return Ok(());
            }
            let deadline = self.deadline();
            self.reader.buffer.reserve(READ);
            tokio::select! {
                biased;
                written = push(&mut self.write, &mut self.out), if !self.out.is_empty() || !self.is_flushed => {
                    let length = written.map_err(broken)?;
                    self.is_flushed = length == 0 || !self.is_layered;
                    self.last_write = Instant::now();
                }
                read = self.read.read_buf(&mut self.reader.buffer) => {
                    if read.map_err(broken)? == 0 {
                        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
                    }
                    self.last_read = Instant::now();
                }
                () = sleep_until(deadline) => self.tick()?,
            }
        }
    }

    fn receive(
        &mut self,
        packet: Packet,
        settings: &Settings,
        tickets: &mut Tickets,
        inbox: &mut VecDeque<Incoming>,
    ) -> Result<(), Failure> {
        let event = match packet {
            Packet::PubAck { id, code } => match tickets.acknowledged(id) {
                Some(ticket) if code < 0x80 => Event::Delivered(ticket),
                Some(ticket) => Event::Refused { ticket, code },
                None => return Ok(()),
            },
            Packet::Publish { id, message } => {
                inbox.push_back(Incoming::Message { id, message });
                return Ok(());
            }
            Packet::Oversized { id, topic, size } => {
                if id != 0 {
                    self.puback(id);
                }
                Event::Oversized { topic, size }
            }
            Packet::SubAck { codes } => {
                // Behind MQTT 5 properties: as many codes as there were filters.
                let codes = &codes[codes.len().saturating_sub(self.filters.len())..];
                let refused = self
                    .filters
                    .iter()
                    .zip(codes)
                    .filter(|(_, code)| **code >= 0x80)
                    .map(|(filter, code)| format!("{filter}: {}", words::reason(*code)))
                    .collect();
                Event::Subscribed { refused }
            }
            Packet::Pong => {
                self.ping = None;
                return Ok(());
            }
            Packet::Disconnect { code } => {
                let reason = words::disconnected(code, settings);
                return Err(if code == 0x8E {
                    Failure::TakenOver(reason)
                } else {
                    Failure::Other(reason)
                });
            }
            Packet::ConnAck { .. } => {
                return Err(Failure::Other("the broker sent a second CONNACK".into()));
            }
            Packet::Other => return Ok(()),
        };
        inbox.push_back(Incoming::Event(event));
        Ok(())
    }

    /// When to look at the keep alive again. Both directions count: the broker must hear from us
    /// (MQTT 5 §3.1.2.10), and we want to notice a broker that takes all and answers nothing.
    fn deadline(&self) -> Instant {
        match self.ping {
            Some(sent) => sent + self.patience(),
            None => self.last_write.min(self.last_read) + self.keep_alive,
        }
    }

    /// How long a PINGREQ may remain unanswered.
    fn patience(&self) -> Duration {
        self.keep_alive.min(Duration::from_secs(10))
    }

    fn tick(&mut self) -> Result<(), Failure> {
        if Instant::now() < self.deadline() {
            return Ok(());
        }
        let Some(sent) = self.ping else {
            writer::ping(&mut self.out);
            self.ping = Some(Instant::now());
            return Ok(());
        };
        if self.last_read > sent {
            // Busy with other things, but there.
            self.ping = None;
            return Ok(());
        }
        let seconds = self.patience().as_secs();
        Err(Failure::Other(format!(
            "the broker has not answered a ping within {seconds} s"
        )))
    }

    /// Writes what is left, and a DISCONNECT, so that the broker does not publish the will.
    pub(super) async fn close(mut self) -> io::Result<()> {
        writer::disconnect(&mut self.out);
        self.write.write_all_buf(&mut self.out).await?;
        self.write.shutdown().await
    }
}

/// Writes some of `out`, or flushes when it is empty: then 0 bytes were written. Cancel-safe.
async fn push(
    write: &mut Box<dyn AsyncWrite + Send + Unpin>,
    out: &mut BytesMut,
) -> io::Result<usize> {
    if out.is_empty() {
        write.flush().await?;
        return Ok(0);
    }
    match write.write_buf(out).await? {
        0 => Err(io::ErrorKind::BrokenPipe.into()),
        length => Ok(length),
    }
}

/// What came in, before the caller has taken it.
pub(super) enum Incoming {
    Event(Event),
    /// To be acknowledged when taken, if its identifier is not 0.
    Message {
        id: u16,
        message: Message,
    },
}

/// Which packet identifier carries which message.
#[derive(Default)]
pub(super) struct Tickets {
    last_id: u16,
    /// Sent on this connection, in order.
    sent: VecDeque<(u16, Ticket)>,
    /// Sent on an earlier connection of the same session, and not again so far.
    earlier: VecDeque<(u16, Ticket)>,
}

impl Tickets {
    /// A connection begins.
    pub(super) fn connected(&mut self, resumed: bool) {
        if resumed {
            self.earlier.append(&mut self.sent);
        } else {
            self.earlier.clear();
            self.sent.clear();
        }
    }

    /// The packet identifier for a message, and whether the message had it before: in a resumed
    /// session it is sent again as the same packet (MQTT 5 §4.4). The outbox sends again before it
    /// sends anew, so what is left of the earlier ones then never will be, and their identifiers
    /// are free.
    fn assign(&mut self, ticket: Ticket) -> (u16, bool) {
        let earlier = self.earlier.iter().position(|(_, sent)| *sent == ticket);
        if let Some((id, _)) = earlier.and_then(|index| self.earlier.remove(index)) {
            self.sent.push_back((id, ticket));
            return (id, true);
        }
        self.earlier.clear();
        // The window is far smaller than the range, so this ends soon.
        loop {
            self.last_id = self.last_id % (SUBSCRIBE_ID - 1) + 1;
            let id = self.last_id;
            if !self.sent.iter().any(|(used, _)| *used == id) {
                self.sent.push_back((id, ticket));
                return (id, false);
            }
        }
    }

    fn acknowledged(&mut self, id: u16) -> Option<Ticket> {
        let index = self.sent.iter().position(|(sent, _)| *sent == id)?;
        self.sent.remove(index).map(|(_, ticket)| ticket)
    }

    /// Messages sent on this connection and not acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.sent.len()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::BufWriter;

    use super::*;

    #[tokio::test]
    async fn what_a_layer_keeps_back_is_flushed() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (read, write) = tokio::io::split(ours);
        let now = Instant::now();
        let mut connection = Connection {
            version: Version::V5,
            session: Session::default(),
            since: now,
            read: Box::new(read),
            write: Box::new(BufWriter::new(write)),
            is_layered: true,
            is_flushed: true,
            reader: Reader::new(Version::V5),
            out: BytesMut::new(),
            keep_alive: Duration::from_secs(60),
            last_write: now,
            last_read: now,
            ping: None,
            refused_room: false,
            filters: Vec::new(),
        };
        let settings = Settings::new("mqtts://localhost".parse().unwrap(), "gateway");
        let (mut tickets, mut inbox) = (Tickets::default(), VecDeque::new());
        writer::ping(&mut connection.out);
        let mut seen = [0; 2];
        tokio::select! {
            ended = connection.run(&settings, &mut tickets, &mut inbox) => panic!("{ended:?}"),
            read = theirs.read_exact(&mut seen) => assert_eq!(read.unwrap(), 2),
            () = tokio::time::sleep(Duration::from_secs(5)) => panic!("nothing came"),
        }
        assert_eq!(seen, [0xC0, 0]);
    }
}
