//! Final replies that are remembered for a day, so that a request that comes again, under the same
//! id, is answered again and not carried out again (MQTT contract §5); and what of the commands
//! outlives the process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::gateway::command::{Asker, Body, Command, CommandId};
use crate::gateway::queue::{doubt, wanted};
use crate::gateway::reply::{CommandError, ErrorKind, Reply, Status};
use crate::gateway::topics::Verb;
use crate::gateway::{Gateway, Output};
use crate::kept::{Change, Document, DocumentKey, Kind, Urgency};
use crate::keyed::KeyedMap;
use crate::server::DeviceId;
use crate::time::{Now, UnixTime};

/// How long a final reply is remembered.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// Device and id of a request.
type Key = (Arc<str>, Arc<str>);

/// The final replies of a day, as far as there is room: the oldest give way.
pub(super) struct Answered {
    replies: KeyedMap<Key, Final>,
    /// By the time and number of each.
    order: BTreeMap<(UnixTime, u64), Key>,
    count: u64,
    bytes: usize,
}

pub(super) struct Final {
    at: (UnixTime, u64),
    payload: Vec<u8>,
}

impl Answered {
    pub(super) const fn new(replies: KeyedMap<Key, Final>) -> Self {
        Self {
            replies,
            order: BTreeMap::new(),
            count: 0,
            bytes: 0,
        }
    }

    fn insert(&mut self, key: Key, time: UnixTime, payload: Vec<u8>) {
        self.remove(&key);
        self.count += 1;
        let at = (time, self.count);
        self.bytes += payload.len();
        self.order.insert(at, key.clone());
        self.replies.insert(key, Final { at, payload });
    }

    fn remove(&mut self, key: &Key) {
        if let Some(Final { at, payload }) = self.replies.remove(key) {
            self.bytes -= payload.len();
            self.order.remove(&at);
        }
    }

    /// Whose reply is the oldest, if it is too old or there are too many.
    fn surplus(&self, now: UnixTime, most: usize, most_bytes: usize) -> Option<Key> {
        let ((time, _), key) = self.order.first_key_value()?;
        let too_many = self.replies.len() > most || self.bytes > most_bytes;
        (too_many || *time + REMEMBERED <= now).then(|| key.clone())
    }
}

/// A command as it is stored.
#[derive(Encode, Decode)]
struct KeptCommand {
    #[n(0)]
    order: u64,
    /// What follows the device in the topic.
    #[n(1)]
    what: String,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    payload: Vec<u8>,
    #[n(3)]
    reply_to: String,
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    correlation: Option<Vec<u8>>,
    /// Whether the asker chose the id.
    #[n(5)]
    given: bool,
    /// Milliseconds since 1970.
    #[n(6)]
    received: i64,
    #[n(7)]
    expires: i64,
    #[n(8)]
    queued: bool,
    /// Something that must not be repeated has left.
    #[n(9)]
    doubtful: bool,
    /// What was begun of it, if anything was.
    #[n(10)]
    progress: Option<KeptProgress>,
}

/// How far a command has come, as it is stored.
#[derive(Encode, Decode)]
struct KeptProgress {
    #[n(0)]
    attempts: u32,
    /// Steps that are over, and how many there are.
    #[n(1)]
    over: u32,
    #[n(2)]
    of: u32,
    /// Nodes that something was done at.
    #[n(3)]
    done: Vec<String>,
    /// The last response code.
    #[n(4)]
    code: Option<String>,
    /// When the wait for a value ends, in milliseconds since 1970.
    #[n(5)]
    wait_ends: Option<i64>,
}

/// A final reply as it is stored.
#[derive(Encode, Decode)]
struct KeptReply {
    /// Milliseconds since 1970.
    #[n(0)]
    at: i64,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    payload: Vec<u8>,
}

impl Gateway {
    /// Answers a request whose id is known: again with its last word, or with where it stands.
    /// Whether it was one.
    pub(super) fn repeat(
        &mut self,
        now: Now,
        device: DeviceId,
        asker: &Asker,
        what: &str,
        payload: &[u8],
    ) -> Result<bool, CommandError> {
        let Some(endpoint) = self.server.endpoint_name(device).filter(|_| asker.given) else {
            return Ok(false);
        };
        let key: Key = (endpoint.clone(), asker.id.as_str().into());
        self.forget_answers(now);
        if let Some(last) = self.answered.replies.get(&key) {
            let payload = last.payload.clone();
            self.send_reply(now, asker, payload);
            return Ok(true);
        }
        let under_way = self.device(device).and_then(|device| {
            device
                .commands
                .iter()
                .find(|id| {
                    self.commands
                        .get(id)
                        .is_some_and(|command| command.asker.id == asker.id)
                })
                .copied()
        });
        let Some(id) = under_way else {
            return Ok(false);
        };
        let Some(command) = self.commands.get_mut(&id) else {
            return Ok(false);
        };
        if command.what != what || command.payload != payload {
            return Err(CommandError::new(
                ErrorKind::Duplicate,
                format!("another command {} is under way", asker.id),
            ));
        }
        // Whoever asked last is told how it ends.
        command.asker = asker.clone();
        let status = match (command.attempts, command.queued) {
            (1.., _) => Status::Sent,
            (0, true) => Status::Queued,
            (0, false) => Status::Accepted,
        };
        self.tell(now, id, status, Reply::default());
        Ok(true)
    }

    /// Remembers the last word about a command that is over, and stores that it is.
    pub(super) fn keep_answer(&mut self, now: Now, command: &Command, payload: Vec<u8>) {
        let Some(endpoint) = self.server.endpoint_name(command.device).cloned() else {
            return;
        };
        let id: Arc<str> = command.asker.id.as_str().into();
        if command.asker.given {
            let kept = KeptReply {
                at: now.unix.as_millis(),
                payload: payload.clone(),
            };
            self.put(document_key(Kind::Reply, &endpoint, &id), &kept);
            self.answered
                .insert((endpoint.clone(), id.clone()), now.unix, payload);
        }
        let key = document_key(Kind::Command, &endpoint, &id);
        self.outputs
            .push_back(Output::Store(Change::Drop(key, Urgency::Now)));
        self.forget_answers(now);
    }

    /// Forgets replies that are too old or too many.
    fn forget_answers(&mut self, now: Now) {
        let (most, bytes) = (self.limits.answers, self.limits.answer_bytes);
        while let Some(key) = self.answered.surplus(now.unix, most, bytes) {
            if self
                .answered
                .replies
                .get(&key)
                .is_some_and(|last| last.at.0 + REMEMBERED > now.unix)
            {
                self.counters.answers_forgotten += 1;
            }
            self.answered.remove(&key);
            let key = document_key(Kind::Reply, &key.0, &key.1);
            self.outputs
                .push_back(Output::Store(Change::Drop(key, Urgency::Soon)));
        }
    }

    /// Stores a command before anything that is said of it.
    pub(super) fn keep_command(&mut self, id: CommandId) {
        let Some(command) = self.commands.get(&id) else {
            return;
        };
        let Some(endpoint) = self.server.endpoint_name(command.device).cloned() else {
            return;
        };
        let kept = KeptCommand {
            order: id.0,
            what: command.what.clone(),
            payload: command.payload.clone(),
            reply_to: command.asker.topic.to_string(),
            correlation: command.asker.correlation.clone(),
            given: command.asker.given,
            received: command.received.unix.as_millis(),
            expires: command.expires.unix.as_millis(),
            queued: command.queued,
            doubtful: command.doubtful,
            progress: (command.attempts > 0).then(|| KeptProgress {
                attempts: command.attempts,
                over: command.over as u32,
                of: command.of as u32,
                done: command.done.clone(),
                code: command.outcome.code.clone(),
                wait_ends: command
                    .awaiting
                    .as_ref()
                    .map(|it| it.until.unix.as_millis()),
            }),
        };
        let key = document_key(Kind::Command, &endpoint, &command.asker.id.as_str().into());
        self.put(key, &kept);
    }

    fn put<T: Encode<()>>(&mut self, key: DocumentKey, content: &T) {
        // A vector takes everything.
        let Ok(body) = minicbor::to_vec(content) else {
            return;
        };
        let change = Change::Put(Document { key, body }, Urgency::Now);
        self.outputs.push_back(Output::Store(change));
    }

    /// Takes back a command or a reply of an earlier process, after its device; why it cannot be.
    pub(super) fn restore_document(
        &mut self,
        now: Now,
        document: Document,
    ) -> Result<(), &'static str> {
        const UNREADABLE: &str = "it cannot be read";
        let Document { key, body } = document;
        match key.kind {
            Kind::Command => {
                let device = self
                    .server
                    .device_of(&key.endpoint)
                    .filter(|device| self.device(*device).is_some())
                    .ok_or("its device is not known")?;
                let kept = minicbor::decode(&body).map_err(|_| UNREADABLE)?;
                self.restore_command(now, device, &key.id, kept);
            }
            Kind::Reply => {
                let kept: KeptReply = minicbor::decode(&body).map_err(|_| UNREADABLE)?;
                let at = UnixTime::from_millis(kept.at);
                self.answered
                    .insert((key.endpoint, key.id), at, kept.payload);
            }
            Kind::Update => self
                .restore_update(now, &key.endpoint, &body)
                .map_err(|_| UNREADABLE)?,
            Kind::Cleared => self.restore_cleared(&key.id, &body).ok_or(UNREADABLE)?,
        }
        Ok(())
    }

    fn restore_command(&mut self, now: Now, device: DeviceId, name: &str, kept: KeptCommand) {
        let id = CommandId(kept.order);
        self.command_count = self.command_count.max(kept.order);
        let (body, _) = Body::parse(&kept.payload);
        let verb = Verb::parse(&kept.what);
        let received = now.back_to(UnixTime::from_millis(kept.received));
        let asker = Asker {
            id: name.to_owned(),
            given: kept.given,
            line: None,
            topic: kept.reply_to.into(),
            correlation: kept.correlation,
        };
        let mut command = Command {
            wanted: wanted(verb, &body),
            queued: kept.queued,
            doubtful: kept.doubtful,
            ..Command::new(asker, device, kept.what.clone(), kept.payload, received)
        };
        command.expires = ahead(now, kept.expires);
        command.op = verb.name().to_owned();
        // If it is not understood any more, it is told so when it is its turn.
        if let Ok(ask) = self.understand(now.unix, device, verb, &body) {
            command.describe(&ask);
        }
        if let Some(progress) = kept.progress {
            command.attempts = progress.attempts;
            command.over = progress.over as usize;
            command.of = progress.of as usize;
            command.done = progress.done;
            command.outcome.code = progress.code;
            command.wait_ends = progress.wait_ends.map(|end| ahead(now, end));
        }
        self.command_bytes += command.payload.len();
        self.command_deadlines.insert((command.expires.instant, id));
        self.commands.insert(id, command);
        if let Some(device) = self.device_mut(device) {
            let place = device.commands.partition_point(|other| *other < id);
            device.commands.insert(place, id);
            device.queue_shown = true;
        }
        let wanted: Vec<String> = self
            .commands
            .get(&id)
            .into_iter()
            .flat_map(|command| &command.wanted)
            .map(|(label, _)| label.clone())
            .collect();
        if let Some(device) = self.device_mut(device) {
            for label in wanted {
                // The last one that wants it.
                let target = device.targets.entry(label).or_insert(id);
                *target = id.max(*target);
            }
        }
    }

    /// Goes on with the commands of an earlier process: those that may not be sent again end.
    pub(super) fn commands_restored(&mut self, now: Now) {
        let doubtful: Vec<_> = self
            .commands
            .iter()
            .filter(|(_, command)| command.doubtful)
            .map(|(id, _)| *id)
            .collect();
        for id in doubtful {
            self.fail(now, id, doubt());
        }
        let waiting: Vec<_> = self
            .commands
            .iter()
            .filter(|(_, command)| command.wait_ends.is_some())
            .map(|(id, command)| (*id, command.device))
            .collect();
        for (id, device) in waiting {
            match self.understand_again(now, device, id) {
                Ok(()) => self.next_step(now, id),
                Err(error) => self.fail(now, id, error),
            }
        }
        self.forget_answers(now);
    }
}

/// The moment of this stamp; now, if that is over.
fn ahead(now: Now, millis: i64) -> Now {
    let left = u64::try_from(millis - now.unix.as_millis()).unwrap_or(0);
    Now {
        instant: now.instant + Duration::from_millis(left),
        unix: UnixTime::from_millis(millis),
    }
}

fn document_key(kind: Kind, endpoint: &Arc<str>, id: &Arc<str>) -> DocumentKey {
    DocumentKey {
        kind,
        endpoint: endpoint.clone(),
        id: id.clone(),
    }
}
