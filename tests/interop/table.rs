//! What worked with whom: docs/interop.md, made of a whole run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::peers::{devices, program};
use crate::process::run;

/// Somebody else's program, in one role. The order is the table's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    LeshanDevice,
    Leshan1Device,
    AiocoapDevice,
    OpensslClient,
    CoapClientOpenssl,
    CoapClientGnutls,
    GnutlsClient,
    NodeDtlsClient,
    LeshanServer,
    OpensslServer,
    CoapServerOpenssl,
    CoapServerGnutls,
    CoapRdOpenssl,
}

/// What a case proves. The order is the table's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    NoSec,
    PskCcm8,
    PskCcm,
    PskGcm,
    PskCbc,
    EcdhePskCbc,
    X509Ccm8,
    X509Gcm,
    Cid,
    Rehandshake,
    Bootstrap,
    Refused,
}

pub type Cell = (Who, What);

/// How a case went; the later one of two is the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Worked,
    NotRun,
    Failed,
}

const DEVICES: &[Who] = &[
    Who::LeshanDevice,
    Who::Leshan1Device,
    Who::AiocoapDevice,
    Who::OpensslClient,
    Who::CoapClientOpenssl,
    Who::CoapClientGnutls,
    Who::GnutlsClient,
    Who::NodeDtlsClient,
];
const DEVICES_DO: &[What] = &[
    What::NoSec,
    What::PskCcm8,
    What::PskCcm,
    What::PskGcm,
    What::PskCbc,
    What::EcdhePskCbc,
    What::X509Ccm8,
    What::X509Gcm,
    What::Cid,
    What::Rehandshake,
    What::Bootstrap,
    What::Refused,
];
const SERVERS: &[Who] = &[
    Who::LeshanServer,
    Who::OpensslServer,
    Who::CoapServerOpenssl,
    Who::CoapServerGnutls,
    Who::CoapRdOpenssl,
];
const SERVERS_DO: &[What] = &[
    What::PskCcm8,
    What::X509Ccm8,
    What::X509Gcm,
    What::Cid,
    What::Refused,
];

impl What {
    fn title(self) -> &'static str {
        match self {
            What::NoSec => "NoSec",
            What::PskCcm8 => "PSK CCM_8",
            What::PskCcm => "PSK CCM",
            What::PskGcm => "PSK GCM",
            What::PskCbc => "PSK CBC-SHA256",
            What::EcdhePskCbc => "ECDHE-PSK CBC-SHA256",
            What::X509Ccm8 => "X.509 CCM_8",
            What::X509Gcm => "X.509 GCM",
            What::Cid => "CID",
            What::Rehandshake => "again from its port",
            What::Bootstrap => "bootstrap",
            What::Refused => "refused",
        }
    }
}

impl Who {
    /// Its name with the version that is here.
    fn title(self) -> Result<String> {
        let pom = |name: &str| {
            let file = devices().join(name).join("pom.xml");
            between(&file, "leshan-lwm2m-client</artifactId><version>", "<")
                .or_else(|_| between(&file, "leshan-client-cf</artifactId><version>", "<"))
        };
        let pip = |package: &str| {
            between(
                &devices().join("requirements-dtls.txt"),
                &format!("{package}=="),
                "\n",
            )
        };
        Ok(match self {
            Who::LeshanDevice => format!("Leshan client {} (Californium)", pom("leshan-2")?),
            Who::Leshan1Device => format!("Leshan client {} (Californium)", pom("leshan-1")?),
            Who::AiocoapDevice => format!(
                "aiocoap {}, DTLSSocket {} (tinydtls)",
                pip("aiocoap")?,
                pip("DTLSSocket")?
            ),
            Who::OpensslClient => format!("`openssl s_client` {}", openssl()),
            Who::CoapClientOpenssl => libcoap("coap-client-openssl"),
            Who::CoapClientGnutls => libcoap("coap-client-gnutls"),
            Who::GnutlsClient => format!("`gnutls-cli` {}", version("gnutls-cli", &["--version"])),
            Who::NodeDtlsClient => {
                let package = devices().join("node-dtls-client/package.json");
                let version = between(&package, "\"node-dtls-client\": \"", "\"")?;
                format!("node-dtls-client {version} (sends no extensions)")
            }
            Who::LeshanServer => format!("Leshan server {} (Californium)", pom("leshan-2")?),
            Who::OpensslServer => format!("`openssl s_server` {}", openssl()),
            Who::CoapServerOpenssl => libcoap("coap-server-openssl"),
            Who::CoapServerGnutls => libcoap("coap-server-gnutls"),
            Who::CoapRdOpenssl => libcoap("coap-rd-openssl"),
        })
    }
}

fn openssl() -> String {
    version("openssl", &["version"])
}

/// libcoap's programs tell their version where they tell how they are used.
fn libcoap(name: &str) -> String {
    format!("`{name}` {}", version(name, &["-?"]))
}

/// The first word of the output that begins with a digit, without a `v` before it.
fn version(name: &str, arguments: &[&str]) -> String {
    let output = program(&[name]).and_then(|program| {
        run(
            Command::new(program).args(arguments),
            Duration::from_secs(5),
        )
    });
    let found = output.ok().and_then(|(_, text)| {
        text.split_whitespace()
            .map(|word| word.trim_start_matches('v'))
            .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
            .map(str::to_owned)
    });
    found.unwrap_or_else(|| "(not here)".to_owned())
}

fn between(file: &Path, before: &str, after: &str) -> Result<String> {
    let text = fs::read_to_string(file)?;
    let found = text
        .split_once(before)
        .and_then(|(_, rest)| rest.split_once(after));
    let (found, _) = found.with_context(|| format!("no {before} in {}", file.display()))?;
    Ok(found.to_owned())
}

/// What is known so far.
#[derive(Default)]
pub struct Table {
    outcomes: BTreeMap<Cell, Outcome>,
}

impl Table {
    /// Takes down how a case went.
    pub fn note(&mut self, cells: &[Cell], outcome: Outcome) {
        for cell in cells {
            let worst = self.outcomes.entry(*cell).or_insert(outcome);
            *worst = outcome.max(*worst);
        }
    }

    /// Writes docs/interop.md.
    pub fn write(&self) -> Result<PathBuf> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/interop.md");
        fs::write(&file, self.page()?)?;
        Ok(file)
    }

    fn page(&self) -> Result<String> {
        Ok(format!(
            r"# What was seen to work

`just interop --table` wrote this page: version {} of the agent's binary, with programs that others wrote, over loopback. What
a case does is in `tests/interop`; every cell has passed as a whole, or says that it has not. An empty cell has no case:
the peer does not have it, or nobody tried. **Raw Public Key** is in no cell: this gateway's DTLS engine does not have it.

## Devices, towards the gateway

{}
*CID*: its address changes, and its session goes on by its connection ID (RFC 9146); what is replayed, forged or late from elsewhere
moves nothing. *again from its port*: it dies and handshakes anew from the address of its live session (RFC 6347 §4.2.8). *refused*:
what its case tries of a wrong key, an unknown identity, another device's name, and a certificate that nobody vouches for, has
expired or is missing does not come in, and is said in words in the log and on `bridge/event`.

## Servers, towards our client role

{}
*CID*: our address changes. *refused*: a server whose certificate nobody trusted vouches for, or is for another name, or has expired.
",
            env!("CARGO_PKG_VERSION"),
            self.matrix(DEVICES, DEVICES_DO)?,
            self.matrix(SERVERS, SERVERS_DO)?
        ))
    }

    fn matrix(&self, peers: &[Who], columns: &[What]) -> Result<String> {
        let mut text = "| peer |".to_owned();
        for what in columns {
            write!(text, " {} |", what.title())?;
        }
        text.push_str("\n|---|");
        text.push_str(&":-:|".repeat(columns.len()));
        text.push('\n');
        for who in peers {
            write!(text, "| {} |", who.title()?)?;
            for what in columns {
                let word = match self.outcomes.get(&(*who, *what)) {
                    Some(Outcome::Worked) => "yes",
                    Some(Outcome::Failed) => "**no**",
                    Some(Outcome::NotRun) => "not run",
                    None => "",
                };
                write!(text, " {word} |")?;
            }
            text.push('\n');
        }
        Ok(text)
    }
}
