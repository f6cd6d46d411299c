//! From an address to a stream of bytes that MQTT is spoken over.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::connection::Failure;
use super::settings::Settings;
use super::tls::{Client, Identity};
use super::{explain, websocket, words};

/// Both directions to the broker.
pub(super) struct Stream {
    pub(super) read: Box<dyn AsyncRead + Send + Unpin>,
    pub(super) write: Box<dyn AsyncWrite + Send + Unpin>,
    /// Whether bytes may stay behind in a layer between MQTT and TCP until they are flushed.
    pub(super) is_layered: bool,
    /// With TLS: who we are.
    pub(super) identity: Option<Arc<Identity>>,
}

impl Stream {
    fn layered<S>(stream: S, identity: Option<Arc<Identity>>) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(stream);
        Self {
            read: Box::new(read),
            write: Box::new(write),
            is_layered: true,
            identity,
        }
    }
}

/// Connects to the broker's address: TCP, and what its scheme says on top.
pub(super) async fn open(settings: &Settings) -> Result<Stream, Failure> {
    let broken = |error: io::Error| Failure::Other(words::io(&error, settings));
    let address = &settings.address;
    // Before anything is sent: a broker is not to be bothered by mistakes in our files.
    let client = if address.transport.is_secure() {
        Some(read_files(settings).await?)
    } else {
        None
    };
    let found: Vec<_> = tokio::net::lookup_host((address.host.as_str(), address.port))
        .await
        .map_err(|error| {
            let host = &address.host;
            Failure::Other(format!("the name {host:?} does not resolve ({error})"))
        })?
        .collect();
    let absent = |error: io::Error| Failure::Absent(words::io(&error, settings));
    let stream = TcpStream::connect(&*found).await.map_err(absent)?;
    stream.set_nodelay(true).map_err(broken)?;
    match client {
        None if address.transport.is_web_socket() => {
            let frames = websocket::open(stream, address).await;
            let frames =
                frames.map_err(|error| Failure::Other(explain::web_socket(&error, settings)))?;
            Ok(Stream::layered(frames, None))
        }
        None => {
            let (read, write) = stream.into_split();
            Ok(Stream {
                read: Box::new(read),
                write: Box::new(write),
                is_layered: false,
                identity: None,
            })
        }
        Some(client) => {
            let identity = Some(Arc::clone(&client.identity));
            let stream = secure(stream, client, settings).await?;
            if !address.transport.is_web_socket() {
                return Ok(Stream::layered(stream, identity));
            }
            let frames = websocket::open(stream, address).await;
            let frames =
                frames.map_err(|error| Failure::Other(explain::web_socket(&error, settings)))?;
            Ok(Stream::layered(frames, identity))
        }
    }
}

/// Reads the files on a thread of its own, because devices wait on this one.
async fn read_files(settings: &Settings) -> Result<Client, Failure> {
    let tls = settings.tls.clone();
    match tokio::task::spawn_blocking(move || tls.client()).await {
        Ok(read) => read.map_err(Failure::Other),
        Err(error) => Err(Failure::Other(error.to_string())),
    }
}

async fn secure(
    stream: TcpStream,
    client: Client,
    settings: &Settings,
) -> Result<TlsStream<TcpStream>, Failure> {
    let host = settings.address.host.clone();
    let name = ServerName::try_from(host)
        .map_err(|error| Failure::Other(format!("{}: {error}", settings.address)))?;
    TlsConnector::from(client.config)
        .connect(name, stream)
        .await
        .map_err(|error| {
            let asked = client.identity.was_asked();
            Failure::Other(explain::handshake(&error, settings, asked))
        })
}
