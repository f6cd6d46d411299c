//! The command line's end of the socket.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Take, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value as Json;

/// How long an agent may think.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest answer: a list of a great many devices.
const ANSWER_MAX: u64 = 256 << 20;

/// What came of asking the agent.
#[derive(Debug)]
pub enum Asked {
    /// It did it: the result.
    Done(Json),
    /// It did not: its sentence.
    Refused(String),
    /// No agent runs.
    Nobody,
}

/// Asks the agent at this socket something that one line answers.
///
/// # Errors
///
/// When the socket is there and cannot be used.
pub fn ask(socket: &Path, request: &Json) -> anyhow::Result<Asked> {
    let Some(mut conversation) = Conversation::begin(socket, request)? else {
        return Ok(Asked::Nobody);
    };
    match conversation.next(Some(PATIENCE))? {
        Some(Line::Said(result)) => Ok(Asked::Done(result)),
        Some(Line::Refused(why)) => Ok(Asked::Refused(why)),
        Some(Line::Lost(_)) | None => bail!("the agent gave no answer"),
    }
}

/// An answer that may have many lines. What was begun for it ends when this is dropped.
pub struct Conversation {
    reader: BufReader<Take<UnixStream>>,
    shown: String,
}

/// A line of an answer.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// What there is to say.
    Said(Json),
    /// It was not done, or is over: the agent's sentence.
    Refused(String),
    /// So many lines were lost, because they were not read fast enough.
    Lost(u64),
}

impl Conversation {
    /// Asks; `None` when no agent runs.
    ///
    /// # Errors
    ///
    /// When the socket is there and cannot be used.
    pub fn begin(socket: &Path, request: &Json) -> anyhow::Result<Option<Self>> {
        let shown = socket.display();
        let mut stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(error).with_context(|| {
                    format!("the agent's socket {shown} is for its user and group; run this as one of them, or as root")
                });
            }
            Err(error) => return Err(error).with_context(|| format!("the agent's socket {shown}")),
        };
        stream.set_write_timeout(Some(PATIENCE))?;
        stream
            .write_all(format!("{request}\n").as_bytes())
            .with_context(|| format!("the agent at {shown} does not listen"))?;
        Ok(Some(Self {
            reader: BufReader::new(stream.take(ANSWER_MAX)),
            shown: shown.to_string(),
        }))
    }

    /// The next line, for which the agent has so long, or for ever. `None` when time is up or the
    /// agent is gone after what it said.
    ///
    /// # Errors
    ///
    /// When it does not answer at all, or with something else.
    pub fn next(&mut self, patience: Option<Duration>) -> anyhow::Result<Option<Line>> {
        let shown = &self.shown;
        let stream = self.reader.get_mut();
        stream.set_limit(ANSWER_MAX);
        stream.get_mut().set_read_timeout(patience)?;
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
                    && line.is_empty() =>
            {
                return Ok(None);
            }
            Err(error) => {
                return Err(error).with_context(|| format!("the agent at {shown} does not answer"));
            }
        }
        let mut answer: Json = serde_json::from_str(&line)
            .with_context(|| format!("the agent at {shown} gave an answer that is not JSON"))?;
        if answer["ok"] != true {
            let detail = answer["error"]["detail"].as_str();
            let detail = detail.unwrap_or("the agent refused it").to_owned();
            return Ok(Some(Line::Refused(detail)));
        }
        Ok(Some(match answer["lost"].as_u64() {
            Some(lost) => Line::Lost(lost),
            None => Line::Said(answer["result"].take()),
        }))
    }
}
