//! TLS to mosquitto, which has another implementation of it (OpenSSL): a private authority, client
//! certificates, an expired certificate and its renewal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

use crate::agent::Agent;
use crate::broker::{Broker, Memory, free_tcp_port};
use crate::process::eventually;
use crate::{Stage, step};

const STATE: &str = "lwm2mqtt/bridge/state";

/// An authority that writes what it issues into a folder.
struct Authority<'a> {
    folder: &'a Path,
    issuer: Issuer<'static, KeyPair>,
}

impl<'a> Authority<'a> {
    /// Its own certificate is `NAME.pem`.
    fn new(folder: &'a Path, name: &str) -> Result<Self> {
        let mut params = CertificateParams::new([])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let path = folder.join(format!("{name}.pem"));
        fs::write(path, params.self_signed(&key)?.pem())?;
        Ok(Self {
            folder,
            issuer: Issuer::new(params, key),
        })
    }

    /// `NAME.pem` and `NAME.key`.
    fn issue(&self, name: &str, mut params: CertificateParams) -> Result<()> {
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(self.folder.join(format!("{name}.pem")), certificate.pem())?;
        let path = self.folder.join(format!("{name}.key"));
        fs::write(&path, key.serialize_pem())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(())
    }

    /// A certificate of mosquitto that is good until January of a year.
    fn server(&self, until: i32) -> Result<()> {
        let mut params = CertificateParams::new(["localhost".to_owned()])?;
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        self.issue("server", params)
    }

    fn client(&self, name: &str) -> Result<()> {
        let mut params = CertificateParams::new([])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(name, params)
    }
}

/// `scheme` is `mqtts` or `wss`.
pub fn mosquitto(stage: &Stage, scheme: &str) -> Result<()> {
    let folder = stage.folder.as_path();
    let authority = Authority::new(folder, "ca")?;
    authority.server(4000)?;
    authority.client("gateway")?;
    Authority::new(folder, "rogue")?.client("rogue-gateway")?;

    let broker = Broker::prepared(folder.to_owned(), Memory::Lost)?;
    let port = free_tcp_port()?;
    listen(folder, port, scheme)?;
    let mut broker = broker.started()?;
    let url = format!("{scheme}://localhost:{port}");

    // The drop-in counts over the broker without TLS that every agent here is told of.
    fs::create_dir_all(folder.join("conf.d"))?;
    let connect = |client: Option<&str>| -> Result<Agent> {
        let at = |name: &str| folder.join(name);
        let mut text = format!("[mqtt]\nurl = \"{url}\"\nca_file = {:?}\n", at("ca.pem"));
        if let Some(client) = client {
            let (cert, key) = (at(&format!("{client}.pem")), at(&format!("{client}.key")));
            text += &format!("cert_file = {cert:?}\nkey = {{ file = {key:?} }}\n");
        }
        fs::write(folder.join("conf.d/tls.toml"), text)?;
        Agent::start(folder, broker.port, "5", "")
    };

    let agent = connect(None)?;
    says(
        folder,
        "wants a client certificate, and the gateway has none; set [mqtt] cert_file and key",
    )?;
    drop(agent);
    step!("without a certificate of ours the agent says that one is wanted");

    let agent = connect(Some("rogue-gateway"))?;
    says(folder, "refuses our certificate")?;
    drop(agent);
    step!("with one of another authority it says that it is refused");

    let mut agent = connect(Some("gateway"))?;
    broker.retained_is(STATE, |state| state["state"] == "online")?;
    let watch = broker.watch("5")?;
    broker.request("lwm2mqtt/d/nobody/set", "{}", "app/answers", "1")?;
    watch.sees("app/answers", |answer| {
        answer["error"]["kind"] == "unknown_device"
    })?;
    step!("with ours it connects over {scheme}, publishes and answers");
    drop(watch);

    broker.kill();
    authority.server(2021)?;
    broker.restart()?;
    says(
        folder,
        &format!(
            "the certificate of localhost:{port} expired on 2021-01-01 00:00:00 UTC; renew it at the broker"
        ),
    )?;
    ensure!(agent.is_running(), "the agent ended");
    ensure!(
        broker.retained(STATE)?.is_none(),
        "it connected all the same"
    );
    step!("an expired certificate of the broker stops it, with a sentence that says so");

    broker.kill();
    authority.server(4000)?;
    broker.restart()?;
    broker.retained_is(STATE, |state| state["state"] == "online")?;
    step!("with a renewed one it is back, without a restart");
    Ok(())
}

/// Adds the listener with TLS.
fn listen(folder: &Path, port: u16, scheme: &str) -> Result<()> {
    let file = folder.join("mosquitto.conf");
    let mut text = fs::read_to_string(&file)?;
    text += &format!("\nlistener {port} 127.0.0.1\nrequire_certificate true\n");
    for (key, name) in [
        ("cafile", "ca.pem"),
        ("certfile", "server.pem"),
        ("keyfile", "server.key"),
    ] {
        text += &format!("{key} {}\n", folder.join(name).display());
    }
    if scheme == "wss" {
        text += "protocol websockets\n";
    }
    fs::write(file, text)?;
    Ok(())
}

/// Waits for the agent to log a sentence.
fn says(folder: &Path, sentence: &str) -> Result<()> {
    eventually("the sentence", || {
        let log = fs::read_to_string(folder.join("agent.log")).unwrap_or_default();
        Ok(log.contains(sentence).then_some(()))
    })
    .with_context(|| format!("the agent never said {sentence:?}"))
}
