//! The command line: arguments in, exit code out.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tokio::runtime::Runtime;

use crate::agent::config::{Config, Loaded, Missing, Sources};
use crate::agent::run::{Agent, terminated};
use crate::agent::setup::{self, Obstacle};
use crate::agent::{
    acl, check, config, contract, device, firmware, log, operate, retained, simulate,
};
use crate::diagnostic::Diagnostic;

/// Failure at run time.
pub const EXIT_FAILURE: u8 = 1;
/// The command line was not understood (sysexits EX_USAGE).
pub const EXIT_USAGE: u8 = 64;
/// The configuration or a mapping has mistakes (sysexits EX_CONFIG).
pub const EXIT_CONFIG: u8 = 78;

/// Joins LwM2M devices to MQTT.
#[derive(Debug, Parser)]
#[command(
    name = "lwm2mqtt",
    version,
    about,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    /// The configuration file; without it /etc/lwm2mqtt/lwm2mqtt.toml, if that exists
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print results as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent in the foreground
    Run,
    /// Check configuration and mappings, and show every mistake with its place
    ///
    /// Exits with 0 when there is none, else with 78.
    Check {
        /// Mapping files or folders, or a configuration file; without any, all that the
        /// configuration names
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    #[cfg(feature = "demo")]
    Demo(crate::agent::demo::Args),
    Simulate(Box<simulate::Args>),
    Device(device::Device),
    Firmware(firmware::Firmware),
    #[command(flatten)]
    Operate(operate::Operation),
    /// Show the running agent on one screen
    #[command(after_help = "Examples:\n  lwm2mqtt status\n  lwm2mqtt status --json")]
    Status,
    Acl(acl::Acl),
    Retained(retained::RetainedCommand),
    /// Print files made from the program's own knowledge
    Generate {
        #[command(subcommand)]
        what: Generate,
    },
}

#[derive(Debug, Subcommand)]
enum Generate {
    /// A configuration file with every key, its default and what it means
    Config,
    /// What stands on MQTT, for programs
    ///
    /// Topics are below the base of the configuration.
    Schema {
        /// In what form
        #[arg(value_enum)]
        form: Form,
    },
}

/// A form in which what stands on MQTT is written down.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Form {
    /// A JSON Schema with a definition for each payload
    Mqtt,
    /// An AsyncAPI 3.0 document
    Asyncapi,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() {
                EXIT_USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let (file, json) = (cli.config.as_deref(), cli.json);
    match cli.command {
        Command::Run => with_config(file, run),
        Command::Check { paths } => check::run(file, &paths, json),
        #[cfg(feature = "demo")]
        Command::Demo(args) => finish(block_on(crate::agent::demo::run(args, json))),
        Command::Simulate(args) => finish(block_on(simulate::run(*args, json))),
        Command::Firmware(args) => asked(file, |config| firmware::run(config, &args, json)),
        Command::Device(args) => asked(file, |config| device::run(config, &args, json)),
        Command::Operate(operation) => asked(file, |config| operate::run(config, &operation, json)),
        Command::Retained(args) => asked(file, |config| retained::run(config, &args, json)),
        Command::Acl(args) => asked(file, |config| Ok(acl::run(config, &args))),
        Command::Status => asked(file, |config| device::status(config, json)),
        Command::Generate {
            what: Generate::Config,
        } => {
            print!("{}", config::template());
            ExitCode::SUCCESS
        }
        Command::Generate {
            what: Generate::Schema { form },
        } => asked(file, |config| {
            let base = &config.mqtt.base_topic;
            let document = match form {
                Form::Mqtt => contract::schema(base),
                Form::Asyncapi => contract::async_api(base),
            };
            println!("{document:#}");
            Ok(ExitCode::SUCCESS)
        }),
    }
}

/// Loads the configuration, shows all its mistakes, and goes on if there are none.
fn with_config(file: Option<&Path>, go_on: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    let Loaded {
        config,
        diagnostics,
        ..
    } = Config::load(file);
    show(&diagnostics);
    config.map_or_else(|| EXIT_CONFIG.into(), go_on)
}

/// As [`with_config`] for a command that only asks the agent: what the configuration may not do as
/// its author believes, the agent itself has said.
fn asked(file: Option<&Path>, ask: impl FnOnce(&Config) -> anyhow::Result<ExitCode>) -> ExitCode {
    let Loaded {
        config,
        mut diagnostics,
        ..
    } = Config::load_from(&Sources {
        // Only the agent needs its secrets, and only it may be able to read them.
        unreadable_secrets: Missing::Warning,
        ..Sources::of_process(file)
    });
    diagnostics.retain(Diagnostic::is_error);
    show(&diagnostics);
    let Some(config) = config else {
        return EXIT_CONFIG.into();
    };
    ask(&config).unwrap_or_else(|error| finish(Err(error)))
}

fn run(config: Config) -> ExitCode {
    log::start(&config.log.level);
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return finish(Err(error.into())),
    };
    // Sockets belong to a runtime from their first moment.
    let _entered = runtime.enter();
    let agent = match setup::options(&config) {
        Ok(options) => Agent::start(options),
        Err(Obstacle::Mappings(diagnostics)) => {
            show(&diagnostics);
            return EXIT_CONFIG.into();
        }
        Err(Obstacle::Other(error)) => Err(error),
    };
    finish(agent.map(|agent| {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        runtime.block_on(agent.run(async {
            terminated().await;
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        }));
    }))
}

/// Shows mistakes in files to a person.
fn show(diagnostics: &[Diagnostic]) {
    let colour = std::io::stderr().is_terminal();
    for diagnostic in diagnostics {
        eprintln!("{}", diagnostic.render(colour));
    }
}

/// One thread does everything: a gateway is a loop around one state machine, and what it waits for
/// is the network.
fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

fn block_on(future: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    runtime()?.block_on(future)
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lwm2mqtt: {error:#}");
            EXIT_FAILURE.into()
        }
    }
}
