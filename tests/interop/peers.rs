//! Where the peers come from: programs of the system, packages of Maven, PyPI and npm kept under `target/interop`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::run;

/// A device written by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// Eclipse Leshan 2.x, LwM2M 1.1.
    Leshan2,
    /// Eclipse Leshan 1.5, LwM2M 1.0.
    Leshan1,
    /// aiocoap, LwM2M 1.1 with SenML only.
    Aiocoap,
    /// The same with DTLSSocket, which is tinydtls. On its own, because it has to be compiled.
    AiocoapDtls,
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Peer::Leshan2 => "leshan-2",
            Peer::Leshan1 => "leshan-1",
            Peer::Aiocoap => "aiocoap",
            Peer::AiocoapDtls => "aiocoap-dtls",
        }
    }

    /// The LwM2M version that it registers with.
    pub fn lwm2m(self) -> &'static str {
        match self {
            Peer::Leshan1 => "1.0",
            Peer::Leshan2 | Peer::Aiocoap | Peer::AiocoapDtls => "1.1",
        }
    }

    /// The command that starts the device, its packages fetched and its program built before.
    pub fn command(self) -> Result<Command> {
        match self {
            Peer::Leshan2 | Peer::Leshan1 => leshan(self.name(), "Device"),
            Peer::Aiocoap => aiocoap(self.name(), "requirements.txt"),
            Peer::AiocoapDtls => aiocoap(self.name(), "requirements-dtls.txt"),
        }
    }
}

/// What this suite keeps between runs, and the logs of the last one.
pub fn kept(name: &str) -> Result<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .context("no target folder")?;
    let folder = target.join("interop").join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A program of the system, by the first of its names that exists.
pub fn program(names: &[&str]) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let folders: Vec<PathBuf> = folders.collect();
    names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|file| file.is_file())
        .with_context(|| format!("{} is not installed", names.join(" or ")))
}

pub fn devices() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/devices")
}

/// Leshan 2.x as a server.
pub fn leshan_server() -> Result<Command> {
    leshan(Peer::Leshan2.name(), "Server")
}

/// node-dtls-client, whose ClientHello has no extensions: one datagram there, and one back.
pub fn node_dtls_client() -> Result<Command> {
    let (node, npm) = (program(&["node", "nodejs"])?, program(&["npm"])?);
    let name = "node-dtls-client";
    let (source, built) = (devices().join(name), kept(name)?);
    let package = source.join("package.json");
    once(&built, &package, || {
        let mut shell = Command::new("sh");
        shell.args([
            "-ec",
            r#"cp "$1" "$2" && cd "$2" && "$0" install --silent --no-audit --no-fund"#,
        ]);
        shell.arg(&npm).arg(&package).arg(&built);
        shell
    })?;
    let mut command = Command::new(node);
    command
        .arg(source.join("exchange.js"))
        .env("NODE_PATH", built.join("node_modules"));
    Ok(command)
}

fn leshan(name: &str, class: &str) -> Result<Command> {
    let (java, javac, mvn) = (
        program(&["java"])?,
        program(&["javac"])?,
        program(&["mvn"])?,
    );
    let (source, built) = (devices().join(name), kept(name)?);
    let lib = built.join("lib");
    once(&built, &source.join("pom.xml"), || {
        let mut maven = Command::new(&mvn);
        maven
            .args(["-q", "-B", "dependency:copy-dependencies", "-f"])
            .arg(source.join("pom.xml"));
        maven.arg(format!("-DoutputDirectory={}", lib.display()));
        maven
    })?;
    let program = source.join(class).with_extension("java");
    once(&built, &program, || {
        let mut compiler = Command::new(&javac);
        compiler
            .arg("-cp")
            .arg(lib.join("*"))
            .arg("-d")
            .arg(&built)
            .arg(&program);
        compiler
    })?;
    let mut command = Command::new(java);
    // The client compiler alone: the device lives for seconds.
    command.args(["-XX:TieredStopAtLevel=1", "-cp"]);
    command
        .arg(format!("{}/*:{}", lib.display(), built.display()))
        .arg(class);
    // Californium writes its default settings into the working folder.
    command.current_dir(&built);
    Ok(command)
}

fn aiocoap(name: &str, requirements: &str) -> Result<Command> {
    let (python, built) = (program(&["python3"])?, kept(name)?);
    let requirements = devices().join(requirements);
    let inside = built.join("venv/bin/python");
    once(&built, &requirements, || {
        let mut shell = Command::new("sh");
        shell.args([
            "-ec",
            r#""$0" -m venv --clear "$1" && "$2" -m pip -q install -r "$3""#,
        ]);
        shell
            .arg(&python)
            .arg(built.join("venv"))
            .arg(&inside)
            .arg(&requirements);
        shell
    })?;
    let mut command = Command::new(inside);
    command.arg(devices().join("aiocoap_device.py"));
    Ok(command)
}

/// Runs what `recipe` makes, up to three times, unless it went well before for this very `source`.
fn once(built: &Path, source: &Path, recipe: impl Fn() -> Command) -> Result<()> {
    let name = source.file_name().context("no file name")?;
    let done = built.join(format!("{}.done", name.display()));
    let text = fs::read_to_string(source)?;
    if fs::read_to_string(&done).is_ok_and(|before| before == text) {
        return Ok(());
    }
    let mut output = String::new();
    for attempt in 1..=3 {
        println!(
            "  fetching or building {} (try {attempt})",
            source.display()
        );
        match run(&mut recipe(), Duration::from_secs(300)) {
            Ok((0, _)) => {
                fs::write(&done, &text)?;
                return Ok(());
            }
            Ok((_, printed)) => output = printed,
            Err(error) => output = error.to_string(),
        }
        thread::sleep(Duration::from_secs(2 * attempt));
    }
    let last: Vec<&str> = output.lines().rev().take(5).collect();
    bail!(
        "three tries failed: {}",
        last.into_iter().rev().collect::<Vec<_>>().join(" / ")
    )
}

/// Fails with the name of a program that every case needs and that is missing.
pub fn essentials() -> Result<()> {
    for names in [&["mosquitto"][..], &["mosquitto_sub"], &["mosquitto_pub"]] {
        program(names)?;
    }
    Ok(())
}
