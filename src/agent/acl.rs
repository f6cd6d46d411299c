//! `lwm2mqtt acl`: who may do what at the broker, in the broker's own words.
//!
//! The roles fall out of the topics (MQTT contract §3): a viewer sees devices, an operator may also
//! write signals and run commands, a maintainer may also send raw operations and ask the gateway
//! itself.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::agent::config::Config;

/// Print access rules for the broker
#[derive(Debug, Args)]
pub struct Acl {
    #[command(subcommand)]
    broker: Broker,
}

#[derive(Debug, Subcommand)]
enum Broker {
    /// A file for mosquitto's `acl_file`
    ///
    /// Each role is a user name of the broker's, and may be given several times.
    #[command(
        after_help = "Example:\n  lwm2mqtt acl mosquitto --viewer dashboard --operator alice --operator bob > /etc/mosquitto/lwm2mqtt.acl"
    )]
    Mosquitto(Users),
}

/// The broker's names of those who have a role.
#[derive(Debug, Default, Args)]
struct Users {
    /// The user that the gateway connects as; without it the one of [mqtt] user
    #[arg(long, value_name = "USER")]
    gateway: Option<String>,
    /// Sees all of devices
    #[arg(long, value_name = "USER")]
    viewer: Vec<String>,
    /// Also writes signals and runs commands
    #[arg(long, value_name = "USER")]
    operator: Vec<String>,
    /// Also sends raw operations and asks the gateway itself
    #[arg(long, value_name = "USER")]
    maintainer: Vec<String>,
}

/// What a role may do with topics.
struct Rules {
    reads: Vec<String>,
    writes: Vec<String>,
}

/// Prints what was asked for.
pub fn run(config: &Config, acl: &Acl) -> ExitCode {
    let Broker::Mosquitto(users) = &acl.broker;
    print!("{}", mosquitto(config, users));
    ExitCode::SUCCESS
}

/// The file, whole.
fn mosquitto(config: &Config, users: &Users) -> String {
    let base = &config.mqtt.base_topic;
    let below = |topics: &[&str]| {
        topics
            .iter()
            .map(|topic| format!("{base}/{topic}"))
            .collect()
    };
    let viewer = Rules {
        reads: below(&["d/#", "bridge/state"]),
        writes: Vec::new(),
    };
    let operator = Rules {
        reads: below(&["d/#", "bridge/state"]),
        writes: below(&["d/+/set/#", "d/+/get/#", "d/+/do/#", "d/+/cancel"]),
    };
    let maintainer = Rules {
        reads: below(&["d/#", "bridge/#"]),
        writes: below(&[
            "d/+/set/#",
            "d/+/get/#",
            "d/+/do/#",
            "d/+/cancel",
            "d/+/lwm2m/+",
            "bridge/request/#",
        ]),
    };
    let gateway = Rules {
        reads: below(&["#"]),
        writes: below(&["#"])
            .into_iter()
            .chain(config.mqtt.reply_topics.iter().cloned())
            .collect::<Vec<String>>(),
    };
    let named = |given: &[String], usual: &str| match given {
        [] => vec![usual.to_owned()],
        given => given.to_vec(),
    };
    let own = users.gateway.clone().or(config.mqtt.username.clone());
    let own = own.unwrap_or_else(|| "lwm2mqtt".to_owned());
    let roles = [
        ("the gateway itself", vec![own], gateway),
        (
            "viewers see devices",
            named(&users.viewer, "viewer"),
            viewer,
        ),
        (
            "operators also write signals and run commands",
            named(&users.operator, "operator"),
            operator,
        ),
        (
            "maintainers also send raw operations and ask the gateway itself",
            named(&users.maintainer, "maintainer"),
            maintainer,
        ),
    ];
    let mut text = String::from(
        "# Access rules for mosquitto, made by `lwm2mqtt acl mosquitto`: its `acl_file`. A user who is not named\n\
         # may do nothing. The gateway may answer on the topics of [mqtt] reply_topics; where a mapping puts\n\
         # values on topics outside of the base, add these to its rules.\n",
    );
    for (meaning, users, rules) in roles {
        for user in users {
            // Writing to a string does not fail.
            let _ = write!(text, "\n# {meaning}\nuser {user}\n");
            let both: BTreeSet<&String> = rules
                .reads
                .iter()
                .filter(|topic| rules.writes.contains(topic))
                .collect();
            for topic in &both {
                let _ = writeln!(text, "topic readwrite {topic}");
            }
            for (verb, topics) in [("read", &rules.reads), ("write", &rules.writes)] {
                for topic in topics.iter().filter(|topic| !both.contains(topic)) {
                    let _ = writeln!(text, "topic {verb} {topic}");
                }
            }
        }
    }
    text
}
