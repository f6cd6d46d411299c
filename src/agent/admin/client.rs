//! The command line's end of the socket.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
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

/// Asks the agent at this socket.
///
/// # Errors
///
/// When the socket is there and cannot be used.
pub fn ask(socket: &Path, request: &Json) -> anyhow::Result<Asked> {
    let shown = socket.display();
    let stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(Asked::Nobody);
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(error).with_context(|| {
                format!("the agent's socket {shown} is for its user and group; run this as one of them, or as root")
            });
        }
        Err(error) => return Err(error).with_context(|| format!("the agent's socket {shown}")),
    };
    let answer = exchange(stream, request)
        .with_context(|| format!("the agent at {shown} does not answer"))?;
    let answer: Json = serde_json::from_str(&answer)
        .with_context(|| format!("the agent at {shown} gave an answer that is not JSON"))?;
    if answer["ok"] == true {
        return Ok(Asked::Done(answer["result"].clone()));
    }
    let detail = answer["error"]["detail"].as_str();
    Ok(Asked::Refused(
        detail.unwrap_or("the agent refused it").to_owned(),
    ))
}

fn exchange(mut stream: UnixStream, request: &Json) -> std::io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_MAX)).read_line(&mut answer)?;
    Ok(answer)
}
