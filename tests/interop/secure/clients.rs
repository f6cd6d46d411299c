//! DTLS clients of other makes, each registering by one request; and aiocoap over tinydtls as a whole device.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::message::{Carrier, Said, register};
use super::{Gateway, KEY, KEY_TEXT, WRONG_KEY};
use crate::device::Device;
use crate::nat::Nat;
use crate::peers::{Peer, node_dtls_client, program};
use crate::process::{PATIENCE, run};
use crate::table::{What, Who};
use crate::{Case, Need, Stage, step};

/// Suites by their IANA numbers.
const PSK_CCM8: u16 = 0xc0a8;
const PSK_CCM: u16 = 0xc0a4;
const PSK_GCM: u16 = 0x00a8;
const PSK_CBC: u16 = 0x00ae;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "secure coap-client-openssl",
            Need::Program("coap-client-openssl"),
            &[
                (Who::CoapClientOpenssl, What::PskCcm8),
                (Who::CoapClientOpenssl, What::Refused),
            ],
            |stage| libcoap(stage, "coap-client-openssl"),
        ),
        Case::new(
            "secure coap-client-gnutls",
            Need::Program("coap-client-gnutls"),
            &[
                (Who::CoapClientGnutls, What::PskCcm8),
                (Who::CoapClientGnutls, What::Refused),
            ],
            |stage| libcoap(stage, "coap-client-gnutls"),
        ),
        Case::new(
            "secure gnutls-cli",
            Need::Program("gnutls-cli"),
            &[
                (Who::GnutlsClient, What::PskCcm8),
                (Who::GnutlsClient, What::PskCcm),
                (Who::GnutlsClient, What::PskGcm),
            ],
            gnutls,
        ),
        Case::new(
            "secure node-dtls-client",
            Need::NodeDtlsClient,
            &[
                (Who::NodeDtlsClient, What::PskCcm8),
                (Who::NodeDtlsClient, What::PskGcm),
                (Who::NodeDtlsClient, What::PskCbc),
                (Who::NodeDtlsClient, What::Refused),
            ],
            node,
        ),
        Case::new(
            "secure aiocoap tinydtls",
            Need::Device(Peer::AiocoapDtls),
            &[
                (Who::AiocoapDevice, What::PskCcm8),
                (Who::AiocoapDevice, What::Refused),
            ],
            tinydtls,
        ),
    ]
}

/// What a device of this suite's own goes through once it is registered: its values come, it is read and written.
pub fn served(gateway: &Gateway, device: &mut Device, name: &str) -> Result<()> {
    let topic = format!("lwm2mqtt/d/{name}/v/temperature-0/sensor-value");
    gateway
        .broker
        .retained_is(&topic, |value| value["value"] == 20.5)?;
    device.set("/3303/0/5700", "21.25")?;
    let value = gateway
        .broker
        .retained_is(&topic, |value| value["value"] == 21.25)?;
    // An id that was answered before is not carried out again.
    static TURN: AtomicU32 = AtomicU32::new(0);
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    ensure!(
        gateway.read(name, "/3/0/1", &format!("served-{turn}"))? == json!("interop"),
        "the manufacturer"
    );
    let set = format!("lwm2mqtt/d/{name}/set/light-control-0/on-off");
    gateway.broker.publish("5", &set, r#"{"value":true}"#)?;
    device.expect("wrote /3311/0/5850 true")?;
    step!("its values are retained ({value}), it was read and written");
    Ok(())
}

/// `coap-client` of libcoap through a NAT, which sees the suite. Gives what it printed.
fn coap_client(nat: &Nat, name: &str, identity: &str, key: &str) -> Result<String> {
    let mut command = Command::new(program(&[name])?);
    command.args([
        "-v", "7", "-B", "5", "-m", "post", "-u", identity, "-k", key,
    ]);
    command.args(["-t", "40", "-e", "</1/0>,</3/0>"]);
    command.arg(format!(
        "coaps://{}/rd?ep=sec1&lt=60&lwm2m=1.1&b=U",
        nat.address
    ));
    Ok(run(&mut command, PATIENCE)?.1)
}

fn libcoap(stage: &Stage, name: &str) -> Result<()> {
    let gateway = Gateway::start(stage)?;
    gateway.add_psk("sec1", "id1")?;
    let nat = Nat::to(&gateway.coaps)?;
    for (identity, key, reason) in [
        ("id1", "P4s$w0rx", "the key of PSK identity id1"),
        ("id9", KEY_TEXT, "PSK identity id9 is not known"),
    ] {
        let printed = coap_client(&nat, name, identity, key)?;
        ensure!(!printed.contains(" c:2.01"), "it came in: {printed}");
        gateway.says("handshake_failed", &[reason])?;
    }
    step!("a wrong key and an unknown identity were refused");
    let printed = coap_client(&nat, name, "id1", KEY_TEXT)?;
    ensure!(printed.contains(" c:2.01"), "no 2.01: {printed}");
    gateway.is_online("sec1")?;
    let suite = nat.suite()?;
    ensure!(suite == PSK_CCM8, "the suite is {suite:#06x}");
    step!("it registered with CCM_8");
    Ok(())
}

fn gnutls(stage: &Stage) -> Result<()> {
    let gateway = Gateway::start(stage)?;
    for (cipher, suite) in [
        ("AES-128-CCM-8", PSK_CCM8),
        ("AES-128-CCM", PSK_CCM),
        ("AES-128-GCM", PSK_GCM),
    ] {
        let (name, nat) = (cipher.to_lowercase(), Nat::to(&gateway.coaps)?);
        gateway.add_psk(&name, &name)?;
        let (_, port) = nat.address.split_once(':').context("no port")?;
        let mut command = Command::new(program(&["gnutls-cli"])?);
        command.args(["--udp", "--pskusername", &name, "--pskkey", KEY]);
        command.args([
            "--priority",
            &format!("NORMAL:-KX-ALL:+PSK:-CIPHER-ALL:+{cipher}"),
        ]);
        command.args(["-p", port, "127.0.0.1"]);
        let mut client = Carrier::start(&mut command, &stage.folder.join("client.log"))?;
        client.until(|seen| {
            let seen = String::from_utf8_lossy(seen);
            seen.contains("Simple Client Mode").then_some(())
        })?;
        // It sends what it reads line by line, and the last line when its input ends.
        client.send(&register(&name))?;
        client.finish();
        let said = client.answer()?;
        ensure!(
            said == Said::Answer("2.01".into()),
            "{cipher}: {said:?}; {}",
            client.printed()
        );
        gateway.is_online(&name)?;
        ensure!(nat.suite()? == suite, "the suite is {:#06x}", nat.suite()?);
        step!("it registered with {cipher}");
    }
    Ok(())
}

fn node(stage: &Stage) -> Result<()> {
    let gateway = Gateway::start(stage)?;
    for (name, suite) in [
        ("TLS_PSK_WITH_AES_128_CCM_8", PSK_CCM8),
        ("TLS_PSK_WITH_AES_128_GCM_SHA256", PSK_GCM),
        ("TLS_PSK_WITH_AES_128_CBC_SHA256", PSK_CBC),
    ] {
        let endpoint = format!("node-{suite:04x}");
        gateway.add_psk(&endpoint, &endpoint)?;
        let nat = Nat::to(&gateway.coaps)?;
        let ask = |key: &str| -> Result<Said> {
            let message: String = register(&endpoint)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let (_, port) = nat.address.split_once(':').context("no port")?;
            let mut command = node_dtls_client()?;
            command.args(["127.0.0.1", port, &endpoint, key, name, &message]);
            let (code, printed) = run(&mut command, PATIENCE)?;
            // 2.01, message ID and token.
            Ok(match code {
                0 if printed.starts_with("64411234746f6b6e") => Said::Answer("2.01".into()),
                _ => Said::Nothing(printed),
            })
        };
        ensure!(
            matches!(ask("P4s$w0rx")?, Said::Nothing(_)),
            "a wrong key came in"
        );
        gateway.says("handshake_failed", &["the key of PSK identity", &endpoint])?;
        let said = ask(KEY_TEXT)?;
        ensure!(said == Said::Answer("2.01".into()), "{name}: {said:?}");
        gateway.is_online(&endpoint)?;
        ensure!(nat.suite()? == suite, "the suite is {:#06x}", nat.suite()?);
        step!("without any extension it registered with {name}");
    }
    Ok(())
}

fn tinydtls(stage: &Stage) -> Result<()> {
    let gateway = Gateway::start(stage)?;
    gateway.add_psk("sec1", "id1")?;
    let nat = Nat::to(&gateway.coaps)?;
    let peer = Peer::AiocoapDtls;
    let wrong = format!("psk=id1:{WRONG_KEY}");
    let mut device = Device::begin(stage, peer, &[&nat.address, "sec1", "60", &wrong])?;
    gateway.says("handshake_failed", &["the key of PSK identity id1"])?;
    ensure!(
        device
            .says()
            .is_none_or(|line| !line.starts_with("registered")),
        "a wrong key came in"
    );
    device.kill();
    step!("a wrong key was refused");

    let nat = Nat::to(&gateway.coaps)?;
    let right = format!("psk=id1:{KEY}");
    let mut device = Device::begin(stage, peer, &[&nat.address, "sec1", "60", &right])?;
    device.registers()?;
    ensure!(
        nat.suite()? == PSK_CCM8,
        "the suite is {:#06x}",
        nat.suite()?
    );
    served(&gateway, &mut device, "sec1")?;
    device.deregister()?;
    gateway
        .broker
        .retained_is("lwm2mqtt/d/sec1/availability", |now| {
            now["reason"] == "deregistered"
        })?;
    step!("it de-registered");
    Ok(())
}
