//! Requests from MQTT, and the commands that they become (MQTT contract §5).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value as Json};

use crate::gateway::json::Source;
use crate::gateway::reply::{CommandError, ErrorKind};
use crate::gateway::understand::Ask;
use crate::lwm2m::{Arguments, Path, Target, Value};
use crate::mapping::{Expression, QueueKind};
use crate::server::{DeviceId, Operation, OperationId};
use crate::time::{Instant, Now};

/// A command, in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// A request that is being carried out.
#[derive(Debug)]
pub struct Command {
    /// Who asked, and how to answer.
    pub asker: Asker,
    /// At which device.
    pub device: DeviceId,
    /// What follows the device in the topic of the request.
    pub what: String,
    /// Its payload: it is understood anew when it is its turn.
    pub payload: Vec<u8>,
    /// The operation's name.
    pub op: String,
    /// Its name in the mapping, if it has one.
    pub name: Option<String>,
    /// `<inst>/<name>`, if the request named one.
    pub signal: Option<String>,
    /// The nodes, unless they are of several operations.
    pub target: Option<Target>,
    /// The resources that it writes, if it does nothing else.
    pub writes: Vec<Path>,
    /// The signals that it wants to become something, as the request says it.
    pub wanted: Vec<(String, Json)>,
    /// How it waits.
    pub queue: QueueKind,
    /// What is left to do, in order; empty before it is its turn.
    pub steps: VecDeque<Step>,
    /// How many steps it has in all, once that is known.
    pub of: usize,
    /// How many of them are over.
    pub over: usize,
    /// Where the present one is.
    pub at: Option<Path>,
    /// The nodes that something was done at, in order.
    pub done: Vec<String>,
    /// What of the last word is known already.
    pub outcome: Outcome,
    /// What is under way.
    pub running: Option<OperationId>,
    /// The value that it waits for.
    pub awaiting: Option<Awaiting>,
    /// When a wait ends that began in an earlier process.
    pub wait_ends: Option<Now>,
    /// A value that came before it was waited for.
    pub early: Option<(Source, Value)>,
    /// Whether that has left for the device.
    pub left: bool,
    /// Whether what leaves next begins another attempt.
    pub fresh: bool,
    /// How often it was begun.
    pub attempts: u32,
    /// Whether what is under way must not be done twice.
    pub doubtable: bool,
    /// Whether something like that has left.
    pub doubtful: bool,
    /// Whether it was said that it waits.
    pub queued: bool,
    /// When it came.
    pub received: Now,
    /// Until when it may be sent.
    pub expires: Now,
}

impl Command {
    /// A command that nobody has looked into yet.
    pub fn new(
        asker: Asker,
        device: DeviceId,
        what: String,
        payload: Vec<u8>,
        received: Now,
    ) -> Self {
        Self {
            asker,
            device,
            what,
            payload,
            op: String::new(),
            name: None,
            signal: None,
            target: None,
            writes: Vec::new(),
            wanted: Vec::new(),
            queue: QueueKind::Fifo,
            steps: VecDeque::new(),
            of: 0,
            over: 0,
            at: None,
            done: Vec::new(),
            outcome: Outcome::default(),
            running: None,
            awaiting: None,
            wait_ends: None,
            early: None,
            left: false,
            fresh: true,
            attempts: 0,
            doubtable: false,
            doubtful: false,
            queued: false,
            received,
            expires: received,
        }
    }

    /// Takes over what a request was understood to be, but for the steps.
    pub fn describe(&mut self, ask: &Ask) {
        self.op = ask.op.to_owned();
        self.name.clone_from(&ask.command);
        self.signal.clone_from(&ask.signal);
        self.target.clone_from(&ask.target);
        self.queue = ask.turn.queue;
        self.of = ask.steps.len();
        let asked = ask.steps.iter().filter_map(|step| match step {
            Step::Ask(operation) => Some(operation),
            Step::Await(_) => None,
        });
        let written = asked.map(|operation| match operation {
            Operation::Write {
                path,
                replace: true,
                ..
            } => Some(*path),
            _ => None,
        });
        self.writes = written.collect::<Option<_>>().unwrap_or_default();
    }
}

/// One thing that a command does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Something is asked of the device.
    Ask(Operation),
    /// A value is waited for.
    Await(Await),
}

/// A value to wait for.
#[derive(Clone, Debug)]
pub struct Await {
    /// A resource or an instance of one.
    pub path: Path,
    /// What it is to be.
    pub wanted: Awaited,
    /// How it gets here.
    pub by: By,
    /// After how long it is given up.
    pub timeout: Duration,
}

/// What a value is to be.
#[derive(Clone, Debug)]
pub enum Awaited {
    /// What was written, in the device's unit.
    Becomes(Value),
    /// Something of which this holds.
    Holds(Expression),
}

/// How a value gets here that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// It is read.
    Reads,
    /// The device says it.
    Notifications,
    /// Both.
    Either,
}

/// A value that is waited for.
#[derive(Debug)]
pub struct Awaiting {
    /// Which.
    pub what: Await,
    /// Until when.
    pub until: Now,
    /// When it is looked after next.
    pub due: Instant,
    /// When it is read next, as soon as the device is there.
    pub poll: Option<Instant>,
    /// The Read that is under way.
    pub polled: Option<OperationId>,
    /// The last value that was not the one.
    pub seen: Option<Value>,
}

/// What is known of the last word of a command before it is said.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The device's last response code.
    pub code: Option<String>,
    /// See [`Reply::fallback`](crate::gateway::reply::Reply::fallback).
    pub fallback: Option<&'static str>,
    /// The instance that a Create made.
    pub location: Option<String>,
    /// How it was seen that the device took what was written.
    pub confirmed: Option<&'static str>,
    /// The value, if it is the only one.
    pub value: Option<Json>,
    /// Values by path.
    pub values: Option<BTreeMap<String, Json>>,
    /// What a Discover found.
    pub links: Option<BTreeMap<String, BTreeMap<String, Json>>>,
}

impl Outcome {
    /// Adds a value, which may be the only one.
    pub fn add_value(&mut self, path: Path, value: Json, is_only: bool) {
        if is_only {
            self.value = Some(value);
        } else {
            let values = self.values.get_or_insert_default();
            values.insert(path.to_string(), value);
        }
    }
}

/// Who asked for something, and how to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The request's id, or one of ours.
    pub id: String,
    /// Whether it is the request's.
    pub given: bool,
    /// Where the answer goes.
    pub topic: Arc<str>,
    /// What goes with it.
    pub correlation: Option<Vec<u8>>,
    /// The request of the command line that hears the answer instead, as long as somebody listens.
    pub line: Option<u64>,
}

/// The payload of a request, taken apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Body {
    /// `id`
    pub id: Option<String>,
    /// `reply_to`
    pub reply_to: Option<String>,
    /// `ttl`
    pub ttl: Option<Duration>,
    /// What is left of a JSON object.
    pub arguments: Map<String, Json>,
    /// A bare value: JSON that is not an object, or text that is not JSON.
    pub bare: Option<Json>,
}

/// The most nodes of one composite operation.
pub(super) const COMPOSITE_MAX: usize = 256;

/// The longest id that is echoed, in bytes.
const ID_MAX: usize = 256;

impl Body {
    /// Takes a payload apart. What was understood before a mistake comes with it, so that the
    /// answer carries the request's id. Text that is not JSON is a string: `mosquitto_pub -m hello`
    /// writes hello.
    pub fn parse(payload: &[u8]) -> (Self, Option<CommandError>) {
        let mut body = Self::default();
        let mistake = body.read(payload).err();
        (
            body,
            mistake.map(|detail| CommandError::new(ErrorKind::Parse, detail)),
        )
    }

    fn read(&mut self, payload: &[u8]) -> Result<(), String> {
        let text =
            std::str::from_utf8(payload).map_err(|_| "the payload is not UTF-8".to_owned())?;
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Ok(());
        }
        let mut arguments = match serde_json::from_str(trimmed) {
            Ok(Json::Object(arguments)) => arguments,
            Ok(bare) => {
                self.bare = Some(bare);
                return Ok(());
            }
            Err(error) if trimmed.starts_with('{') => {
                return Err(format!("the payload is not JSON: {error}"));
            }
            Err(_) => {
                self.bare = Some(Json::String(text.to_owned()));
                return Ok(());
            }
        };
        self.id = match arguments.remove("id") {
            None => None,
            Some(Json::String(id)) if id.len() <= ID_MAX => Some(id),
            Some(Json::Number(id)) => Some(id.to_string()),
            Some(_) => return Err(format!("id is a string of at most {ID_MAX} bytes")),
        };
        self.reply_to = match arguments.remove("reply_to") {
            None => None,
            Some(Json::String(topic)) => Some(topic),
            Some(_) => return Err("reply_to is a topic".to_owned()),
        };
        self.ttl = match arguments.remove("ttl") {
            None => None,
            Some(ttl) => Some(
                parse_ttl(&ttl).ok_or("ttl is a number of seconds, or a text such as \"24h\"")?,
            ),
        };
        self.arguments = arguments;
        Ok(())
    }

    /// The value to write: the bare payload, or `value`.
    pub fn value(&self) -> Option<&Json> {
        self.bare.as_ref().or_else(|| self.arguments.get("value"))
    }

    /// The node of a raw operation.
    pub fn path(&self) -> Result<Path, CommandError> {
        let text = self
            .arguments
            .get("path")
            .or(self.bare.as_ref())
            .and_then(Json::as_str);
        let text = text.ok_or_else(|| {
            CommandError::new(ErrorKind::Parse, "no path, such as {\"path\":\"/3/0/9\"}")
        })?;
        text.parse()
            .map_err(|error| CommandError::new(ErrorKind::Parse, format!("path {text}: {error}")))
    }

    /// The nodes of a composite operation, in their order.
    pub fn paths(&self) -> Result<Target, CommandError> {
        let wrong = |detail: String| CommandError::new(ErrorKind::Parse, detail);
        let paths = self.arguments.get("paths").and_then(Json::as_array);
        let paths = paths.filter(|paths| (1..=COMPOSITE_MAX).contains(&paths.len()));
        let paths = paths.ok_or_else(|| {
            wrong(format!(
                "no paths, 1 to {COMPOSITE_MAX} of them, such as {{\"paths\":[\"/3/0/9\",\"/1/0\"]}}"
            ))
        })?;
        let read = |json: &Json| {
            let text = json
                .as_str()
                .ok_or_else(|| wrong(format!("{json} is no path")))?;
            text.parse()
                .map_err(|error| wrong(format!("path {text}: {error}")))
        };
        let paths: Vec<Path> = paths.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Target::composite(paths))
    }

    /// The arguments of an Execute, `args`: a text, or a value or `null` a digit.
    pub fn execute_arguments(&self) -> Result<Arguments, CommandError> {
        let parsed = match self.arguments.get("args").or(self.bare.as_ref()) {
            None | Some(Json::Null) => Some(Arguments::default()),
            Some(Json::String(text)) => Arguments::parse(text),
            Some(Json::Object(values)) => {
                let mut arguments = Arguments::default();
                let mut each = values.iter();
                let taken = each.try_for_each(|(digit, value)| {
                    let value = match value {
                        Json::Null => None,
                        Json::String(text) => Some(text.clone()),
                        other => Some(other.to_string()),
                    };
                    arguments.add(digit.parse().ok()?, value)
                });
                taken.map(|()| arguments)
            }
            Some(_) => None,
        };
        parsed.ok_or_else(|| {
            CommandError::new(
                ErrorKind::Parse,
                "args is a text such as \"0='U',5\", or {\"0\":\"U\",\"5\":null}: digits, each once, and \
                 values without spaces, quotes and backslashes",
            )
        })
    }
}

fn parse_ttl(json: &Json) -> Option<Duration> {
    match json {
        Json::Number(seconds) => Some(Duration::from_secs(seconds.as_u64()?)),
        Json::String(text) => {
            let digits = text
                .find(|character: char| !character.is_ascii_digit())
                .unwrap_or(text.len());
            let (number, unit) = text.split_at(digits);
            let seconds = match unit {
                "s" | "" => 1,
                "m" | "min" => 60,
                "h" => 3_600,
                "d" => 86_400,
                _ => return None,
            };
            Some(Duration::from_secs(
                number.parse::<u64>().ok()?.checked_mul(seconds)?,
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(payload: &[u8]) -> Body {
        let (body, mistake) = Body::parse(payload);
        assert_eq!(mistake, None);
        body
    }

    #[test]
    fn a_payload_is_a_value_or_an_object_that_holds_one() {
        assert_eq!(good(b"-20.0").value(), Some(&Json::from(-20.0)));
        assert_eq!(good(b"true").value(), Some(&Json::from(true)));
        assert_eq!(
            good(b"hello there").value(),
            Some(&Json::from("hello there"))
        );
        let body = good(br#"{"value":true,"id":"c1","ttl":"24h","reply_to":"app/1"}"#);
        assert_eq!(body.value(), Some(&Json::from(true)));
        assert_eq!(body.id.as_deref(), Some("c1"));
        assert_eq!(body.ttl, Some(Duration::from_secs(86_400)));
        assert_eq!(body.reply_to.as_deref(), Some("app/1"));
        assert_eq!(good(b""), Body::default());
    }

    #[test]
    fn what_cannot_be_understood_is_refused_with_the_id_it_came_with() {
        let (body, mistake) = Body::parse(br#"{"id":"c1","ttl":"soon"}"#);
        assert_eq!(
            (body.id.as_deref(), mistake.unwrap().kind),
            (Some("c1"), ErrorKind::Parse)
        );
        for payload in [&br#"{"value":"#[..], b"\xff", br#"{"id":["x"]}"#] {
            assert_eq!(Body::parse(payload).1.unwrap().kind, ErrorKind::Parse);
        }
    }
}
