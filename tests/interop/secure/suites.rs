//! Every suite that the gateway serves, one by one, by `openssl s_client`; and certificates that it must not take.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use super::message::{Carrier, Said, register};
use super::{Gateway, KEY, Pki, WRONG_KEY};
use crate::peers::program;
use crate::table::{What, Who};
use crate::{Case, Need, Stage, step};

const OPENSSL: Need = Need::Program("openssl");

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (suite, what) in [
        ("PSK-AES128-CCM8", What::PskCcm8),
        ("PSK-AES128-CCM", What::PskCcm),
        ("PSK-AES128-GCM-SHA256", What::PskGcm),
        ("PSK-AES128-CBC-SHA256", What::PskCbc),
        ("ECDHE-PSK-AES128-CBC-SHA256", What::EcdhePskCbc),
    ] {
        cases.push(Case::new(
            format!("secure openssl {suite}"),
            OPENSSL,
            &[(Who::OpensslClient, what)],
            move |stage| psk(stage, suite),
        ));
    }
    for (suite, what) in [
        ("ECDHE-ECDSA-AES128-CCM8", What::X509Ccm8),
        ("ECDHE-ECDSA-AES128-GCM-SHA256", What::X509Gcm),
    ] {
        cases.push(Case::new(
            format!("secure openssl {suite}"),
            OPENSSL,
            &[(Who::OpensslClient, what)],
            move |stage| certificate(stage, suite),
        ));
    }
    cases.push(Case::new(
        "secure openssl certificates refused",
        OPENSSL,
        &[(Who::OpensslClient, What::Refused)],
        certificates_refused,
    ));
    cases.push(Case::new(
        "secure openssl keys refused",
        OPENSSL,
        &[(Who::OpensslClient, What::Refused)],
        keys_refused,
    ));
    cases
}

/// `openssl s_client` towards the gateway.
pub fn s_client(gateway: &Gateway, suite: &str) -> Result<Command> {
    let mut command = Command::new(program(&["openssl"])?);
    command.args(["s_client", "-dtls1_2", "-connect", &gateway.coaps]);
    // CCM_8 is below what OpenSSL allows by default.
    command.args(["-cipher", &format!("{suite}:@SECLEVEL=0"), "-quiet"]);
    Ok(command)
}

pub fn with_psk(mut command: Command, identity: &str, key: &str) -> Command {
    command.args(["-psk_identity", identity, "-psk", key]);
    command
}

/// It trusts the gateway by its authority, and shows the certificate of this name.
fn with_certificate(mut command: Command, pki: &Pki, name: Option<&str>) -> Command {
    command.args(["-verify_return_error", "-verify", "2", "-CAfile"]);
    command.arg(pki.file("ca.pem"));
    if let Some(name) = name {
        command.arg("-cert").arg(pki.file(&format!("{name}.pem")));
        command.arg("-key").arg(pki.file(&format!("{name}.key")));
    }
    command
}

fn log(stage: &Stage, name: &str) -> PathBuf {
    stage.folder.join(format!("{name}.log"))
}

fn psk(stage: &Stage, suite: &str) -> Result<()> {
    let gateway = Gateway::start(stage)?;
    gateway.add_psk("sec1", "id1")?;
    let mut client = with_psk(s_client(&gateway, suite)?, "id1", KEY);
    let mut client = Carrier::start(&mut client, &log(stage, "client"))?;
    let said = client.register("sec1")?;
    ensure!(
        said == Said::Answer("2.01".into()),
        "{suite}: {said:?}; {}",
        client.printed()
    );
    gateway.is_online("sec1")?;
    step!("registered with {suite}, and nothing else offered");
    Ok(())
}

fn certificate(stage: &Stage, suite: &str) -> Result<()> {
    let pki = Pki::of(stage, "sec1")?;
    let gateway = Gateway::with_certificates(stage, &pki)?;
    let client = s_client(&gateway, suite)?;
    let mut client = with_certificate(client, &pki, Some("device"));
    let mut client = Carrier::start(&mut client, &log(stage, "client"))?;
    let said = client.register("sec1")?;
    ensure!(
        said == Said::Answer("2.01".into()),
        "{suite}: {said:?}; {}",
        client.printed()
    );
    gateway.is_online("sec1")?;
    step!("registered with {suite}, each having checked the other's certificate");
    Ok(())
}

fn certificates_refused(stage: &Stage) -> Result<()> {
    let pki = Pki::of(stage, "sec1")?;
    let gateway = Gateway::with_certificates(stage, &pki)?;
    let wrong = [
        (
            "rogue",
            Some("rogue"),
            "is signed by no authority that we trust",
        ),
        ("missing", None, "it sent no certificate"),
        ("expired", Some("expired"), "has expired"),
    ];
    for (name, shown, reason) in wrong {
        let client = s_client(&gateway, "ECDHE-ECDSA-AES128-CCM8")?;
        let mut client = with_certificate(client, &pki, shown);
        let mut client = Carrier::start(&mut client, &log(stage, name))?;
        client.send(&register("sec1"))?;
        let event = gateway.says("handshake_failed", &[reason])?;
        // Not every client ends by itself.
        ensure!(!client.has_answer(), "a {name} certificate was served");
        step!("a {name} certificate was refused: {event}");
    }
    gateway.never_saw("sec1")?;

    // A good certificate, and a name that is not its own.
    let client = s_client(&gateway, "ECDHE-ECDSA-AES128-CCM8")?;
    let mut client = with_certificate(client, &pki, Some("other"));
    let mut client = Carrier::start(&mut client, &log(stage, "other"))?;
    let said = client.register("sec1")?;
    ensure!(
        said == Said::Answer("4.00".into()),
        "with another's certificate: {said:?}"
    );
    let event = gateway.says("registration_refused", &["sec1", "other"])?;
    step!("another's certificate was refused: {event}");
    gateway.never_saw("sec1")?;

    let client = s_client(&gateway, "ECDHE-ECDSA-AES128-CCM8")?;
    let mut client = with_certificate(client, &pki, Some("device"));
    let mut client = Carrier::start(&mut client, &log(stage, "device"))?;
    let said = client.register("sec1")?;
    ensure!(
        said == Said::Answer("2.01".into()),
        "its own certificate: {said:?}"
    );
    step!("with its own certificate it registered");
    Ok(())
}

/// The alerts that a program was sent, by their numbers.
fn alerts(printed: &str) -> Vec<String> {
    let numbers = printed.split("SSL alert number ").skip(1);
    numbers
        .filter_map(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn keys_refused(stage: &Stage) -> Result<()> {
    let gateway = Gateway::start(stage)?;
    gateway.add_psk("sec1", "id1")?;
    let mut seen = Vec::new();
    let wrong = [
        ("wrong", "id1", WRONG_KEY, "the key of PSK identity id1"),
        ("unknown", "id9", KEY, "PSK identity id9 is not known"),
    ];
    for (name, identity, key, reason) in wrong {
        let mut client = with_psk(s_client(&gateway, "PSK-AES128-CCM8")?, identity, key);
        let mut client = Carrier::start(&mut client, &log(stage, name))?;
        let said = client.register("sec1")?;
        ensure!(matches!(said, Said::Nothing(_)), "{name}: {said:?}");
        let event = gateway.says("handshake_failed", &[reason])?;
        step!("refused: {event}");
        seen.push(alerts(&client.printed()));
    }
    ensure!(
        seen[0] == seen[1],
        "from outside a wrong key and an unknown identity differ: {seen:?}"
    );
    step!("from outside the two look the same: {:?}", seen[0]);

    let mut client = with_psk(s_client(&gateway, "AES128-CCM8")?, "id1", KEY);
    let mut client = Carrier::start(&mut client, &log(stage, "suite"))?;
    ensure!(
        matches!(client.register("sec1")?, Said::Nothing(_)),
        "a suite that is not served was served"
    );
    let event = gateway.says("handshake_failed", &["no common cipher suite"])?;
    step!("a suite that is not served: {event}");
    gateway.never_saw("sec1")
}
