//! The socket on which the command line talks to the running agent: one line of JSON asks, and one
//! or more answer. What a request means, the core knows.

mod client;

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt as _, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

pub use client::{Asked, Conversation, Line, ask};

/// The longest request, in bytes.
const REQUEST_MAX: u64 = 64 * 1024;
/// Connections at a time.
const CONNECTIONS: usize = 16;
/// Connections that wait to be taken.
const BACKLOG: i32 = 16;
/// How long a connection may be silent before it asks something.
const IDLE: Duration = Duration::from_secs(60);
/// Lines that wait for one who reads slowly; beyond, they are dropped and counted.
const LINES: usize = 1_024;

/// What comes from the command line.
pub enum Heard {
    /// A request.
    Request(Request),
    /// Whoever made this request does not wait for more of its answer.
    Left(u64),
}

/// A request, and where its answer goes.
pub struct Request {
    /// Its number; each has one of its own.
    pub id: u64,
    /// One line, a JSON object if it is sound.
    pub line: Vec<u8>,
    /// Where the answer goes.
    pub answer: Answer,
}

/// Where the lines of an answer go. It is over when this is dropped.
pub struct Answer {
    lines: mpsc::Sender<String>,
    /// Room for the last line, however many wait.
    last: mpsc::OwnedPermit<String>,
    lost: u64,
    begun: bool,
}

impl Answer {
    /// Where to say an answer, and where it is heard.
    fn new() -> Option<(Self, mpsc::Receiver<String>)> {
        let (lines, heard) = mpsc::channel(LINES + 1);
        let last = lines.clone().try_reserve_owned().ok()?;
        let answer = Self {
            lines,
            last,
            lost: 0,
            begun: false,
        };
        Some((answer, heard))
    }

    /// Says a line that others follow. Where there is no room for it, it is lost, and how many were
    /// is said once there is room again.
    pub fn say(&mut self, line: String) {
        self.begun = true;
        if self.lost > 0 {
            let Ok(room) = self.lines.try_reserve() else {
                self.lost += 1;
                return;
            };
            let lost = self.lost;
            room.send(format!("{{\"ok\":true,\"more\":true,\"lost\":{lost}}}"));
            self.lost = 0;
        }
        if self.lines.try_send(line).is_err() {
            self.lost += 1;
        }
    }

    /// Whether a line was said.
    pub const fn is_begun(&self) -> bool {
        self.begun
    }

    /// Says the last line.
    pub fn end(self, line: String) {
        self.last.send(line);
    }
}

/// The socket, bound. It is removed when this is dropped.
pub struct Socket {
    path: PathBuf,
    heard: mpsc::Receiver<Heard>,
    task: tokio::task::JoinHandle<()>,
}

impl Socket {
    /// Binds the socket for owner and group. One that a dead agent left is replaced.
    ///
    /// # Errors
    ///
    /// When another agent answers there, something else has the name, or it cannot be bound.
    pub fn bind(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("{shown}")),
            Ok(found) if !found.file_type().is_socket() => {
                bail!("{shown} is there and no socket; see [admin] socket")
            }
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => bail!("another lwm2mqtt answers at {shown}; see [admin] socket"),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).with_context(|| format!("{shown}"))?;
                }
                Err(error) => return Err(error).with_context(|| format!("{shown}")),
            },
        }
        if let Some(folder) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(folder)
                .with_context(|| format!("{}", folder.display()))?;
        }
        let listener = bind(path).with_context(|| format!("{shown}"))?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
            .with_context(|| format!("{shown}"))?;
        let (sender, heard) = mpsc::channel(CONNECTIONS);
        Ok(Self {
            path: path.to_owned(),
            heard,
            task: tokio::spawn(serve(listener, sender)),
        })
    }

    /// The next request, or the end of one. Cancel-safe.
    pub async fn hear(&mut self) -> Heard {
        match self.heard.recv().await {
            Some(heard) => heard,
            None => std::future::pending().await,
        }
    }
}

/// Nobody else may connect in the moment before the rights are set: the file takes those of the
/// socket (Linux). The umask would do, too, but for all threads.
fn bind(path: &Path) -> std::io::Result<std::os::unix::net::UnixListener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o660))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(listener: UnixListener, heard: mpsc::Sender<Heard>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let numbers = Arc::new(AtomicU64::new(0));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (heard, numbers) = (heard.clone(), numbers.clone());
                tokio::spawn(async move {
                    let _ = converse(stream, heard, &numbers).await;
                    drop(permit);
                });
            }
            // No file descriptors, most likely: that passes.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Answers one connection until it is closed.
async fn converse(
    mut stream: UnixStream,
    heard: mpsc::Sender<Heard>,
    numbers: &AtomicU64,
) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut reader = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(REQUEST_MAX + 1);
        let read = timeout(IDLE, limited.read_until(b'\n', &mut line)).await;
        if !matches!(read, Ok(Ok(length)) if length > 0) {
            return Ok(());
        }
        if line.len() as u64 > REQUEST_MAX {
            write
                .write_all(b"{\"ok\":false,\"error\":{\"kind\":\"parse\",\"detail\":\"the request is too long\"}}\n")
                .await?;
            return Ok(());
        }
        let id = numbers.fetch_add(1, Ordering::Relaxed);
        let Some((answer, mut lines)) = Answer::new() else {
            return Ok(());
        };
        let request = Request { id, line, answer };
        if heard.send(Heard::Request(request)).await.is_err() {
            return Ok(());
        }
        if let Err(gone) = pass_on(&mut lines, &mut reader, &mut write, &heard, id).await {
            let _ = heard.send(Heard::Left(id)).await;
            return Err(gone);
        }
    }
}

/// Passes the lines of an answer on until it is over. That nobody waits for more is told as soon as
/// it is seen, so that what was begun for the answer ends.
async fn pass_on(
    lines: &mut mpsc::Receiver<String>,
    reader: &mut (impl AsyncBufReadExt + Unpin),
    write: &mut (impl AsyncWriteExt + Unpin),
    heard: &mpsc::Sender<Heard>,
    id: u64,
) -> std::io::Result<()> {
    let mut reads = true;
    loop {
        tokio::select! {
            line = lines.recv() => {
                let Some(mut line) = line else {
                    return Ok(());
                };
                line.push('\n');
                write.write_all(line.as_bytes()).await?;
            }
            // Something to read is the next request, which waits.
            read = reader.fill_buf(), if reads => {
                reads = false;
                if !matches!(read, Ok(bytes) if !bytes.is_empty()) {
                    // What is under way to it is still said: it may have closed one direction only.
                    let _ = heard.send(Heard::Left(id)).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
