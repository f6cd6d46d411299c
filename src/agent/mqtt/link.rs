//! A connection that is always wanted: opened, lost, waited for, opened again.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::backoff::Backoff;
use super::connection::{self, Connection, Failure, Incoming, Tickets};
use super::settings::{Settings, VersionChoice};
use super::{Event, Version, words};
use crate::gateway::outbox::Outgoing;

/// A connection that lasted this long was stable.
const STABLE: Duration = Duration::from_secs(10);
/// After so many take-overs in a row two gateways share a client id, and this one steps back.
const TAKE_OVERS: u32 = 3;
/// How long it steps back.
const STEP_BACK: Duration = Duration::from_secs(60);
/// How often a broker may close the connection instead of answering before 3.1.1 is tried.
const UNANSWERED: u32 = 2;

type Opening = Pin<Box<dyn Future<Output = Result<Connection, Failure>> + Send>>;

enum Phase {
    Waiting(Instant),
    Opening(Opening),
    Up(Box<Connection>),
}

/// The link to the broker. See the [module](super).
pub struct Link {
    settings: Settings,
    phase: Phase,
    inbox: VecDeque<Incoming>,
    tickets: Tickets,
    backoff: Backoff,
    /// The version of the next attempt.
    version: Version,
    /// Whether the broker is known to speak it.
    settled: bool,
    unanswered: u32,
    take_overs: u32,
}

/// A link that connects as soon as [`Link::event`] is awaited.
pub fn connect(settings: Settings) -> Link {
    Link {
        phase: Phase::Waiting(Instant::now()),
        inbox: VecDeque::new(),
        tickets: Tickets::default(),
        backoff: Backoff::new(settings.seed),
        version: match settings.version {
            VersionChoice::Auto | VersionChoice::V5 => Version::V5,
            VersionChoice::V311 => Version::V311,
        },
        settled: false,
        unanswered: 0,
        take_overs: 0,
        settings,
    }
}

impl Link {
    /// Waits for the next event; meanwhile writes what was published, answers the broker and
    /// connects again. Never ends. Cancel-safe: a dropped call loses nothing.
    pub async fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.ready() {
                return event;
            }
            match &mut self.phase {
                Phase::Waiting(until) => {
                    sleep_until(*until).await;
                    self.begin();
                }
                Phase::Opening(opening) => match opening.await {
                    Ok(connection) => self.opened(connection),
                    Err(failure) => self.failed(failure),
                },
                Phase::Up(connection) => {
                    let running =
                        connection.run(&self.settings, &mut self.tickets, &mut self.inbox);
                    if let Err(failure) = running.await {
                        self.lost(failure);
                    }
                }
            }
        }
    }

    /// The next event, if there is one without waiting.
    pub fn ready(&mut self) -> Option<Event> {
        match self.inbox.pop_front()? {
            Incoming::Event(event) => Some(event),
            Incoming::Message { id, message } => {
                if let Phase::Up(connection) = &mut self.phase
                    && id != 0
                {
                    connection.puback(id);
                }
                Some(Event::Message(message))
            }
        }
    }

    /// Sends a message that the outbox has handed over. Never waits. Without a connection it does
    /// nothing: the outbox will hand the message over again.
    pub fn publish(&mut self, outgoing: &Outgoing<'_>) {
        if let Phase::Up(connection) = &mut self.phase {
            connection.publish(outgoing, &mut self.tickets);
        }
    }

    /// Whether to publish more now. When not, [`Event::Room`] follows.
    pub fn has_room(&mut self) -> bool {
        match &mut self.phase {
            Phase::Up(connection) => connection.has_room(),
            _ => false,
        }
    }

    fn begin(&mut self) {
        let opening = connection::open(self.settings.clone(), self.version);
        self.phase = Phase::Opening(Box::pin(opening));
    }

    fn opened(&mut self, connection: Connection) {
        self.settled = true;
        self.unanswered = 0;
        self.tickets.connected(connection.session.resumed);
        self.inbox.push_back(Incoming::Event(Event::Connected {
            session: connection.session,
            version: connection.version,
        }));
        self.phase = Phase::Up(Box::new(connection));
    }

    /// An attempt failed. While the broker's version is not known, another may be why.
    fn failed(&mut self, failure: Failure) {
        let may_step_down =
            self.settings.version == VersionChoice::Auto && self.version == Version::V5;
        let is_absent = matches!(failure, Failure::Absent(_));
        let reason = match failure {
            Failure::Version if may_step_down => {
                self.settled = true;
                self.version = Version::V311;
                return self.begin();
            }
            Failure::Version => words::connect_refused(0x84, &self.settings),
            Failure::Unanswered(reason) => {
                self.unanswered += 1;
                if may_step_down && !self.settled && self.unanswered >= UNANSWERED {
                    self.version = Version::V311;
                    return self.begin();
                }
                reason
            }
            Failure::TakenOver(reason) | Failure::Absent(reason) | Failure::Other(reason) => {
                self.unanswered = 0;
                reason
            }
        };
        if self.settings.version == VersionChoice::Auto && !self.settled {
            self.version = Version::V5;
        }
        let wait = match is_absent {
            true => self.backoff.wait_absent(),
            false => self.backoff.wait(),
        };
        self.wait(reason, wait);
    }

    /// A connection ended.
    fn lost(&mut self, failure: Failure) {
        let stable = matches!(&self.phase, Phase::Up(up) if up.since.elapsed() >= STABLE);
        if stable {
            self.backoff.reset();
        }
        let (taken_over, mut reason) = match failure {
            Failure::TakenOver(reason) => (true, reason),
            Failure::Unanswered(reason) | Failure::Absent(reason) | Failure::Other(reason) => {
                (false, reason)
            }
            Failure::Version => (false, words::connect_refused(0x84, &self.settings)),
        };
        self.take_overs = if taken_over { self.take_overs + 1 } else { 0 };
        let mut wait = self.backoff.wait();
        if self.take_overs >= TAKE_OVERS {
            self.take_overs = 0;
            wait = STEP_BACK;
            reason = format!("{reason}; taken over {TAKE_OVERS} times in a row, so waiting");
        }
        self.wait(reason, wait);
    }

    fn wait(&mut self, reason: String, retry_in: Duration) {
        self.phase = Phase::Waiting(Instant::now() + retry_in);
        self.inbox
            .push_back(Incoming::Event(Event::Disconnected { reason, retry_in }));
    }

    /// Waits until what was sent is acknowledged, at most `patience`, then takes leave of the broker
    /// with a DISCONNECT: it does not publish the will. Returns how many messages remained
    /// unacknowledged. Publish all that must go out before.
    pub async fn close(mut self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        while matches!(self.phase, Phase::Up(_)) && self.tickets.unacknowledged() > 0 {
            if timeout_at(deadline, self.event()).await.is_err() {
                break;
            }
        }
        let left = self.tickets.unacknowledged();
        if let Phase::Up(connection) = self.phase {
            // A broker that does not take the last bytes in time gets no DISCONNECT.
            let grace = deadline.max(Instant::now() + Duration::from_millis(100));
            let _ = timeout_at(grace, connection.close()).await;
        }
        left
    }
}
