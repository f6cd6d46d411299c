//! TLS and WebSocket in front of a broker that has neither, and certificates for them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use lwm2mqtt::agent::mqtt::{Key, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// A certificate authority.
pub(crate) struct Authority {
    pub(crate) pem: String,
    pub(crate) key: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self {
            pem: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for these names; `change` makes something else of it.
    pub(crate) fn issue(&self, names: &[&str], change: impl Fn(&mut CertificateParams)) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Issued {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// What a broker on this host should have.
    pub(crate) fn server(&self) -> Issued {
        self.issue(&["localhost", "127.0.0.1"], |_| {})
    }

    /// What a gateway should have.
    pub(crate) fn client(&self) -> Issued {
        self.issue(&[], |params| {
            params
                .distinguished_name
                .push(DnType::CommonName, "gateway");
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    }
}

/// Valid in these years only, January to January.
pub(crate) fn years(from: i32, to: i32) -> impl Fn(&mut CertificateParams) {
    move |params| {
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
    }
}

/// The files of one test.
pub(crate) struct Files(PathBuf);

impl Files {
    pub(crate) fn new(test: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// A file that only its owner may read.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Trusts `authority`, and is `ours` if anybody asks.
    pub(crate) fn tls(&self, authority: &Authority, ours: Option<&Issued>) -> Tls {
        Tls {
            ca_file: Some(self.write("ca.pem", &authority.pem)),
            cert_file: ours.map(|ours| self.write("gateway.pem", &ours.certificate)),
            key: ours.map(|ours| Key::File(self.write("gateway.key", &ours.key))),
        }
    }
}

/// What the front does before it forwards.
#[derive(Clone)]
pub(crate) struct Front {
    tls: Option<TlsAcceptor>,
    web_socket: Option<Frames>,
    deaf: Duration,
}

/// How a WebSocket front misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frames {
    /// Not at all: frames of any length, with pings between them.
    Good,
    /// It knows no subprotocol.
    Bare,
    /// It sends text.
    Text,
}

impl Front {
    /// Without TLS.
    pub(crate) fn clear() -> Self {
        Self {
            tls: None,
            web_socket: None,
            deaf: Duration::ZERO,
        }
    }

    /// TLS with this certificate; `clients` are the authorities of client certificates.
    pub(crate) fn tls(
        server: &Issued,
        clients: Option<&Authority>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                let pem = authority.pem.as_bytes();
                roots
                    .add(CertificateDer::from_pem_slice(pem).unwrap())
                    .unwrap();
                let roots = Arc::new(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(server.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes()).unwrap();
        let config = builder.with_single_cert(chain, key).unwrap();
        Self {
            tls: Some(TlsAcceptor::from(Arc::new(config))),
            ..Self::clear()
        }
    }

    /// With WebSocket at the path `/mqtt`.
    pub(crate) fn web_socket(self, frames: Frames) -> Self {
        Self {
            web_socket: Some(frames),
            ..self
        }
    }

    /// Forwards nothing for so long after the handshakes.
    pub(crate) fn deaf(self, deaf: Duration) -> Self {
        Self { deaf, ..self }
    }

    /// Listens on a free port, which it gives, and forwards to `broker`.
    pub(crate) async fn before(self, broker: u16) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // A handshake that fails is what some tests are about.
                tokio::spawn(self.clone().serve(stream, broker));
            }
        });
        port
    }

    async fn serve(self, stream: TcpStream, broker: u16) -> Option<()> {
        match &self.tls {
            None => self.forward(stream, broker).await,
            Some(tls) => {
                let stream = tls.accept(stream).await.ok()?;
                self.forward(stream, broker).await
            }
        }
    }

    async fn forward<S>(&self, mut stream: S, broker: u16) -> Option<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut broker = TcpStream::connect(("127.0.0.1", broker)).await.ok()?;
        let Some(frames) = self.web_socket else {
            tokio::time::sleep(self.deaf).await;
            copy_bidirectional(&mut stream, &mut broker).await.ok()?;
            return Some(());
        };
        #[expect(clippy::result_large_err, reason = "the library's type")]
        let greet =
            |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
                if request.uri().path() != "/mqtt" {
                    let mut refusal = ErrorResponse::new(None);
                    *refusal.status_mut() = StatusCode::NOT_FOUND;
                    return Err(refusal);
                }
                assert_eq!(request.headers()["Sec-WebSocket-Protocol"], "mqtt");
                if frames != Frames::Bare {
                    let mqtt = HeaderValue::from_static("mqtt");
                    response
                        .headers_mut()
                        .append("Sec-WebSocket-Protocol", mqtt);
                }
                Ok(response)
            };
        let socket = tokio_tungstenite::accept_hdr_async(stream, greet)
            .await
            .ok()?;
        tokio::time::sleep(self.deaf).await;
        let (mut sink, mut source) = socket.split();
        let (mut read, mut write) = broker.split();
        let down = async {
            let mut buffer = vec![0; 64 << 10];
            for round in 0_usize.. {
                // Sometimes a byte alone, sometimes many packets at once.
                let most = [1, 3, 64 << 10, 2, 1000][round % 5];
                let length = read.read(&mut buffer[..most]).await.ok()?;
                if length == 0 {
                    break;
                }
                let bytes = Bytes::copy_from_slice(&buffer[..length]);
                let frame = match frames {
                    Frames::Text => Message::text("hello"),
                    _ => Message::Binary(bytes),
                };
                sink.send(frame).await.ok()?;
                if round % 7 == 0 {
                    sink.send(Message::Ping(Bytes::from_static(b"there?")))
                        .await
                        .ok()?;
                    sink.send(Message::Binary(Bytes::new())).await.ok()?;
                }
            }
            Some(())
        };
        let up = async {
            while let Some(message) = source.next().await {
                match message.ok()? {
                    Message::Binary(bytes) => write.write_all(&bytes).await.ok()?,
                    Message::Pong(bytes) => assert_eq!(&*bytes, b"there?"),
                    Message::Close(_) => break,
                    other => panic!("{other:?}"),
                }
            }
            Some(())
        };
        tokio::select! { ended = up => ended, ended = down => ended }
    }
}
