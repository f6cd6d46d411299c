//! The agent's log, on standard error; systemd's journal adds time and priority by itself.

use std::io::IsTerminal;

use tracing_subscriber::filter::EnvFilter;

/// Starts logging at `level`; `RUST_LOG` refines it for developers.
///
/// Under systemd (`JOURNAL_STREAM`) a line carries no time of its own.
pub fn start(level: &str) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,lwm2mqtt={level}")));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start, as in tests that share a process, changes nothing.
    let _ = if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().try_init()
    } else {
        builder.try_init()
    };
}
