//! Arguments in, exit code out.

fn main() -> std::process::ExitCode {
    lwm2mqtt::agent::cli::main()
}
