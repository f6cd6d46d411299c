//! Who may be whom: an identity is bound to its endpoint, and whoever is refused is told about in words.

use anyhow::{Result, ensure};

use super::clients::served;
use super::message::{Carrier, Said};
use super::suites::{s_client, with_psk};
use super::{Gateway, KEY, WRONG_KEY};
use crate::device::Device;
use crate::peers::Peer;
use crate::table::{What, Who};
use crate::{Case, Need, Stage, step};

pub fn cases() -> Vec<Case> {
    vec![Case::new(
        "secure known leshan-2",
        Need::Device(Peer::Leshan2),
        &[
            (Who::LeshanDevice, What::PskCcm8),
            (Who::OpensslClient, What::Refused),
        ],
        known,
    )]
}

fn known(stage: &Stage) -> Result<()> {
    let gateway = Gateway::start(stage)?;
    let printed = gateway.add("sec1", &["--psk-identity", "id1", "--psk-key", KEY])?;
    step!("device add says: {}", printed.trim());
    gateway.add_psk("sec2", "id2")?;
    let options = [
        "psk=id1:5034732477307264",
        "suite=TLS_PSK_WITH_AES_128_CCM_8",
    ];
    let arguments = [&[gateway.coaps.as_str(), "sec1", "300"][..], &options].concat();
    let mut device = Device::begin(stage, Peer::Leshan2, &arguments)?;
    device.registers()?;
    gateway.is_online("sec1")?;
    served(&gateway, &mut device, "sec1")?;

    // By s_client, because it says at once how it went.
    let tries = [
        (
            "wrong-key",
            "id1",
            WRONG_KEY,
            "sec1",
            None,
            "handshake_failed",
            "the key of PSK identity id1",
        ),
        (
            "unknown",
            "id9",
            KEY,
            "sec1",
            None,
            "handshake_failed",
            "PSK identity id9 is not known",
        ),
        (
            "other-name",
            "id1",
            KEY,
            "other",
            Some("4.00"),
            "registration_refused",
            "other",
        ),
        (
            "stolen-name",
            "id2",
            KEY,
            "sec1",
            Some("4.00"),
            "registration_refused",
            "id2",
        ),
    ];
    for (name, identity, key, endpoint, code, kind, words) in tries {
        let mut client = with_psk(s_client(&gateway, "PSK-AES128-CCM8")?, identity, key);
        let mut client = Carrier::start(&mut client, &stage.folder.join(format!("{name}.log")))?;
        let said = client.register(endpoint)?;
        match code {
            Some(code) => ensure!(said == Said::Answer(code.into()), "{name}: {said:?}"),
            None => ensure!(matches!(said, Said::Nothing(_)), "{name}: {said:?}"),
        }
        let event = gateway.says(kind, &[words])?;
        step!("{name}: {event}");
    }
    gateway.never_saw("other")?;
    // The first one is still the one that is there.
    device.set("/3303/0/5700", "22.5")?;
    let topic = "lwm2mqtt/d/sec1/v/temperature-0/sensor-value";
    gateway
        .broker
        .retained_is(topic, |value| value["value"] == 22.5)?;
    ensure!(gateway.read("sec1", "/3/0/2", "still")? == "sec1", "serial");
    step!("the first device was not displaced");

    let listed = gateway.agent.command(&["device", "list"])?;
    for secret in [KEY, WRONG_KEY, super::KEY_TEXT] {
        ensure!(
            !gateway.agent.log().contains(secret) && !listed.contains(secret),
            "a key is in the log or in `device list`"
        );
    }
    Ok(())
}
