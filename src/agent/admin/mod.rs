//! The socket on which the command line talks to the running agent: one line of JSON asks, one line
//! answers. What a request means, the core knows.

mod client;

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

pub use client::{Asked, ask};

/// The longest request, in bytes.
const REQUEST_MAX: u64 = 64 * 1024;
/// Connections at a time.
const CONNECTIONS: usize = 16;
/// Connections that wait to be taken.
const BACKLOG: i32 = 16;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(60);

/// A request, and where its answer goes.
pub struct Request {
    /// One line, a JSON object if it is sound.
    pub line: Vec<u8>,
    /// Takes one line.
    pub answer: oneshot::Sender<String>,
}

/// The socket, bound. It is removed when this is dropped.
pub struct Socket {
    path: PathBuf,
    requests: mpsc::Receiver<Request>,
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
        let (sender, requests) = mpsc::channel(CONNECTIONS);
        Ok(Self {
            path: path.to_owned(),
            requests,
            task: tokio::spawn(serve(listener, sender)),
        })
    }

    /// The next request. Cancel-safe.
    pub async fn request(&mut self) -> Request {
        match self.requests.recv().await {
            Some(request) => request,
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

async fn serve(listener: UnixListener, requests: mpsc::Sender<Request>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let requests = requests.clone();
                tokio::spawn(async move {
                    let _ = converse(stream, requests).await;
                    drop(permit);
                });
            }
            // No file descriptors, most likely: that passes.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Answers one connection until it is closed.
async fn converse(mut stream: UnixStream, requests: mpsc::Sender<Request>) -> std::io::Result<()> {
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
        let (answer, answered) = oneshot::channel();
        if requests.send(Request { line, answer }).await.is_err() {
            return Ok(());
        }
        let Ok(mut answer) = answered.await else {
            return Ok(());
        };
        answer.push('\n');
        write.write_all(answer.as_bytes()).await?;
    }
}

#[cfg(test)]
mod tests;
