//! One CoAP message through a program that only carries bytes, `openssl s_client` for instance.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::PATIENCE;

const URI_PATH: u16 = 11;
const CONTENT_FORMAT: u16 = 12;
const URI_QUERY: u16 = 15;
/// Message ID and token of every request made here.
const MARK: &[u8] = b"\x12\x34tokn";

/// A Register (LwM2M Transport 1.1 §6.4.3) with two object links. It has no zero byte and no line feed: gnutls-cli reads
/// lines of text.
pub fn register(endpoint: &str) -> Vec<u8> {
    let mut bytes = [b"\x44\x02", MARK].concat();
    let endpoint = format!("ep={endpoint}");
    let options: [(u16, &[u8]); 6] = [
        (URI_PATH, b"rd"),
        (CONTENT_FORMAT, &[40]),
        (URI_QUERY, endpoint.as_bytes()),
        (URI_QUERY, b"lt=60"),
        (URI_QUERY, b"lwm2m=1.1"),
        (URI_QUERY, b"b=U"),
    ];
    let mut before = 0;
    for (number, value) in options {
        // RFC 7252 §3.1; no delta here is above 12, no value longer than 268.
        let delta = u8::try_from(number - before).unwrap_or(0) << 4;
        match u8::try_from(value.len()).unwrap_or(u8::MAX) {
            length @ 0..13 => bytes.push(delta | length),
            length => bytes.extend([delta | 13, length - 13]),
        }
        bytes.extend(value);
        before = number;
    }
    bytes.push(0xff);
    bytes.extend(b"</1/0>,</3/0>");
    bytes
}

/// The code of the answer to [`register`], if it is among these bytes.
fn answer(bytes: &[u8]) -> Option<String> {
    let at = bytes
        .windows(MARK.len())
        .position(|window| window == MARK)?;
    let [.., _, code] = bytes.get(..at)? else {
        return None;
    };
    Some(format!("{}.{:02}", code >> 5, code & 0x1f))
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// An answer with this code.
    Answer(String),
    /// The program ended before one, and printed this besides.
    Nothing(String),
}

/// A program that carries bytes from its standard input to the other end, and back.
pub struct Carrier {
    child: Child,
    output: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    log: std::path::PathBuf,
}

impl Carrier {
    pub fn start(command: &mut Command, log: &Path) -> Result<Carrier> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(log)?)
            .spawn()
            .with_context(|| format!("{command:?} does not start"))?;
        let mut stdout = child.stdout.take().context("no stdout")?;
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut bytes) {
                if sender.send(bytes[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Carrier {
            child,
            output,
            seen: Vec::new(),
            log: log.to_owned(),
        })
    }

    /// Hands it bytes, which it sends as one datagram.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no stdin")?;
        // One that has ended already says more by its output.
        let _ = stdin.write_all(bytes).and_then(|()| stdin.flush());
        Ok(())
    }

    /// Waits until what came from the other end satisfies `wanted`; `None` when it ended before.
    pub fn until<T>(&mut self, wanted: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = wanted(&self.seen) {
                return Ok(Some(found));
            }
            match self.output.recv_timeout(Duration::from_millis(50)) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return Ok(None),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    if Instant::now() > until {
                        bail!("nothing of the kind within {PATIENCE:?}");
                    }
                }
            }
        }
    }

    /// Registers an endpoint.
    pub fn register(&mut self, endpoint: &str) -> Result<Said> {
        self.send(&register(endpoint))?;
        self.answer()
    }

    /// Ends its input.
    pub fn finish(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for the answer to [`register`].
    pub fn answer(&mut self) -> Result<Said> {
        Ok(match self.until(answer)? {
            Some(code) => Said::Answer(code),
            None => Said::Nothing(std::fs::read_to_string(&self.log).unwrap_or_default()),
        })
    }

    /// Whether an answer to [`register`] has come.
    pub fn has_answer(&mut self) -> bool {
        self.seen.extend(self.output.try_iter().flatten());
        answer(&self.seen).is_some()
    }

    /// Everything that it has printed.
    pub fn printed(&self) -> String {
        let errors = std::fs::read_to_string(&self.log).unwrap_or_default();
        format!("{}{errors}", String::from_utf8_lossy(&self.seen))
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // One that has ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
