//! Images served by HTTP and HTTPS, for devices that fetch them (RFC 9110).
//!
//! What is served stands under a name that only the device was told. There is nothing else.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{
    ACCEPT_RANGES, ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderValue, IF_RANGE, RANGE,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::gateway::firmware::image::Digest;
use crate::secret::Secret;
use crate::server::DeviceId;

/// Connections at a time.
const CONNECTIONS: usize = 64;
/// How long a client may take for its request, or for the handshake of TLS.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much is read from the file at a time.
const PIECE: u64 = 64 * 1024;

/// Where it is served.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How devices call this machine in URIs; `None` for the address of the listener.
    pub host: Option<String>,
    /// In clear.
    pub http: Option<SocketAddr>,
    /// With TLS, and with what.
    pub https: Option<(SocketAddr, Certificate)>,
}

/// Our certificate and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// PEM, the leaf first.
    pub file: PathBuf,
    /// PEM.
    pub key: Secret,
}

/// What a device has fetched.
pub struct Fetched {
    /// Which.
    pub device: DeviceId,
    /// To which byte.
    pub bytes: u64,
}

/// The server, listening.
pub struct Serving {
    offers: Offers,
    fetched: mpsc::Receiver<Fetched>,
    /// Where it listens in clear.
    pub http: Option<SocketAddr>,
    /// Where it listens with TLS.
    pub https: Option<SocketAddr>,
}

type Offers = Arc<Mutex<BTreeMap<String, Offer>>>;

#[derive(Clone)]
struct Offer {
    path: PathBuf,
    digest: Digest,
    device: DeviceId,
}

impl Serving {
    /// Binds what is to be bound, and serves nothing yet.
    ///
    /// # Errors
    ///
    /// When an address cannot be had, or the certificate not be used.
    pub fn start(settings: &Settings) -> anyhow::Result<Self> {
        let offers = Offers::default();
        // Progress that nobody has time for is left out.
        let (sender, fetched) = mpsc::channel(64);
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let listen =
            |address: SocketAddr, tls: Option<TlsAcceptor>| -> anyhow::Result<SocketAddr> {
                let shown = || format!("[firmware] {address}");
                let listener = std::net::TcpListener::bind(address).with_context(shown)?;
                listener.set_nonblocking(true).with_context(shown)?;
                let listener = TcpListener::from_std(listener).with_context(shown)?;
                let bound = listener.local_addr().with_context(shown)?;
                let (offers, sender, room) = (offers.clone(), sender.clone(), room.clone());
                tokio::spawn(accept(listener, tls, offers, sender, room));
                Ok(bound)
            };
        let http = settings
            .http
            .map(|address| listen(address, None))
            .transpose()?;
        let https = match &settings.https {
            None => None,
            Some((address, certificate)) => Some(listen(*address, Some(acceptor(certificate)?))?),
        };
        Ok(Self {
            offers,
            fetched,
            http,
            https,
        })
    }

    /// Serves a file at `/fw/TOKEN` from now on.
    pub fn serve(&self, token: &str, path: PathBuf, digest: Digest, device: DeviceId) {
        let offer = Offer {
            path,
            digest,
            device,
        };
        lock(&self.offers).insert(token.to_owned(), offer);
    }

    /// Serves it no more. Who is fetching it may do so to the end.
    pub fn unserve(&self, token: &str) {
        lock(&self.offers).remove(token);
    }

    /// The next news of what is fetched. Cancel-safe.
    pub async fn fetched(&mut self) -> Fetched {
        match self.fetched.recv().await {
            Some(fetched) => fetched,
            None => std::future::pending().await,
        }
    }
}

fn lock(offers: &Offers) -> std::sync::MutexGuard<'_, BTreeMap<String, Offer>> {
    offers.lock().unwrap_or_else(PoisonError::into_inner)
}

fn acceptor(certificate: &Certificate) -> anyhow::Result<TlsAcceptor> {
    let shown = certificate.file.display().to_string();
    let chain = CertificateDer::pem_file_iter(&certificate.file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| anyhow::anyhow!("{shown}: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.expose())
        .map_err(|_| anyhow::anyhow!("[devices] key is no private key in PEM"))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context(shown)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    offers: Offers,
    fetched: mpsc::Sender<Fetched>,
    room: Arc<Semaphore>,
) {
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // No file descriptors, most likely: that passes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (tls, offers, fetched) = (tls.clone(), offers.clone(), fetched.clone());
        tokio::spawn(async move {
            converse(stream, tls, offers, fetched).await;
            drop(permit);
        });
    }
}

async fn converse(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    offers: Offers,
    fetched: mpsc::Sender<Fetched>,
) {
    match tls {
        None => http(stream, offers, fetched).await,
        Some(tls) => {
            let handshake = tokio::time::timeout(PATIENCE, tls.accept(stream)).await;
            if let Ok(Ok(stream)) = handshake {
                http(stream, offers, fetched).await;
            }
        }
    }
}

async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    offers: Offers,
    fetched: mpsc::Sender<Fetched>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, &offers, &fetched);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("a connection that fetches an image ended: {error}");
    }
}

fn answer(
    request: &Request<Incoming>,
    offers: &Offers,
    fetched: &mpsc::Sender<Fetched>,
) -> Response<Piece> {
    let token = request.uri().path().strip_prefix("/fw/");
    let offer = token.and_then(|token| lock(offers).get(token).cloned());
    let Some(offer) = offer else {
        let mut response = bare(StatusCode::NOT_FOUND);
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = bare(StatusCode::METHOD_NOT_ALLOWED);
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    let opened =
        File::open(&offer.path).and_then(|file| file.metadata().map(|it| (file, it.len())));
    let Ok((file, size)) = opened else {
        return bare(StatusCode::GONE);
    };
    let etag = format!("\"{}\"", offer.digest);
    let (status, range) = match wanted(request.method(), request.headers(), &etag, size) {
        Wanted::All => (StatusCode::OK, 0..size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Nothing => {
            let mut response = bare(StatusCode::RANGE_NOT_SATISFIABLE);
            set(
                response.headers_mut(),
                CONTENT_RANGE,
                format!("bytes */{size}"),
            );
            return response;
        }
    };
    let (start, end) = (range.start, range.end);
    let is_get = request.method() == Method::GET;
    let body = Piece {
        source: is_get.then(|| Source {
            file,
            range,
            device: offer.device,
            fetched: fetched.clone(),
        }),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(end - start));
    set(headers, ETAG, etag);
    if status == StatusCode::PARTIAL_CONTENT {
        let last = end.saturating_sub(1);
        set(
            headers,
            CONTENT_RANGE,
            format!("bytes {start}-{last}/{size}"),
        );
    }
    response
}

fn bare(status: StatusCode) -> Response<Piece> {
    let mut response = Response::new(Piece { source: None });
    *response.status_mut() = status;
    response
}

fn set(headers: &mut HeaderMap, name: hyper::header::HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// What of a file a request wants.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part(Range<u64>),
    /// A range that is not there.
    Nothing,
}

/// Takes the headers apart (RFC 9110 §14.2, §13.1.5). A range that makes no sense, several ranges,
/// one of another content and one of anything but a GET are no range.
fn wanted(method: &Method, headers: &HeaderMap, etag: &str, size: u64) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if method != Method::GET {
        return Wanted::All;
    }
    if headers.contains_key(IF_RANGE) && text(IF_RANGE) != Some(etag) {
        return Wanted::All;
    }
    let range = text(RANGE)
        .and_then(|range| range.trim().split_once('='))
        .filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes"));
    let Some((first, last)) = range.and_then(|(_, range)| range.split_once('-')) else {
        return Wanted::All;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More than fits is beyond every end.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (number(first), number(last)) {
        (Some(first), None) if last.is_empty() && first < size => Wanted::Part(first..size),
        (Some(first), Some(last)) if first <= last && first < size => {
            Wanted::Part(first..last.saturating_add(1).min(size))
        }
        (None, Some(last)) if first.is_empty() && last > 0 && size > 0 => {
            Wanted::Part(size.saturating_sub(last)..size)
        }
        (Some(first), None) if last.is_empty() && first >= size => Wanted::Nothing,
        (Some(first), Some(last)) if first <= last => Wanted::Nothing,
        (None, Some(0)) if first.is_empty() => Wanted::Nothing,
        _ => Wanted::All,
    }
}

/// A part of a file as the body of a response; or nothing.
struct Piece {
    source: Option<Source>,
}

struct Source {
    file: File,
    range: Range<u64>,
    device: DeviceId,
    fetched: mpsc::Sender<Fetched>,
}

impl Body for Piece {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let Some(source) = self.source.as_mut() else {
            return Poll::Ready(None);
        };
        let length = (source.range.end - source.range.start).min(PIECE);
        if length == 0 {
            return Poll::Ready(None);
        }
        let mut piece = vec![0; length as usize];
        if let Err(error) = source.file.read_exact_at(&mut piece, source.range.start) {
            return Poll::Ready(Some(Err(error)));
        }
        source.range.start += length;
        let _ = source.fetched.try_send(Fetched {
            device: source.device,
            bytes: source.range.start,
        });
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.source
            .as_ref()
            .is_none_or(|source| source.range.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        let left = self
            .source
            .as_ref()
            .map_or(0, |source| source.range.end - source.range.start);
        SizeHint::with_exact(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_what_rfc_9110_makes_of_it() {
        for (range, expected) in [
            ("bytes=0-99", Wanted::Part(0..100)),
            ("bytes=100-", Wanted::Part(100..1000)),
            ("Bytes=100-", Wanted::Part(100..1000)),
            ("bytes=-100", Wanted::Part(900..1000)),
            ("bytes=-5000", Wanted::Part(0..1000)),
            ("bytes=990-99999999999999999999", Wanted::Part(990..1000)),
            ("bytes=1000-", Wanted::Nothing),
            ("bytes=2000-3000", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=5-2", Wanted::All),
            ("bytes=0-1,5-6", Wanted::All),
            ("bytes=a-b", Wanted::All),
            ("bytes=+1-2", Wanted::All),
            ("bytes=-", Wanted::All),
            ("lines=0-1", Wanted::All),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, HeaderValue::from_static(range));
            assert_eq!(
                wanted(&Method::GET, &headers, "\"e\"", 1000),
                expected,
                "{range}"
            );
            assert_eq!(wanted(&Method::HEAD, &headers, "\"e\"", 1000), Wanted::All);
        }
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_static("bytes=5-"));
        headers.insert(IF_RANGE, HeaderValue::from_static("\"e\""));
        let get = |headers, etag| wanted(&Method::GET, headers, etag, 10);
        assert_eq!(get(&headers, "\"e\""), Wanted::Part(5..10));
        assert_eq!(get(&headers, "\"f\""), Wanted::All);
        assert_eq!(get(&HeaderMap::new(), "\"e\""), Wanted::All);
    }
}
