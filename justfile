# Lists the recipes.
default:
    @just --list --unsorted

# Every test that needs nothing but cargo.
test *ARGS:
    script/test {{ARGS}}

# Changed datagrams into the DTLS engine under AddressSanitizer, for SECONDS (60) and with a SEED.
fuzz-dtls *ARGS:
    script/fuzz-dtls {{ARGS}}

# The agent killed 200 times under load, and a thousand runs of a fleet over a bad network in virtual time.
soak:
    LWM2MQTT_KILLS=200 cargo test --test agent killed:: -- --nocapture
    LWM2MQTT_KILLS=100 LWM2MQTT_OUTAGE=60 cargo test --test agent custody:: -- --nocapture
    LWM2MQTT_SEEDS=1000 LWM2MQTT_FLEET=200 cargo test --profile sim --test sim -- --nocapture whatever_happens_to_a_fleet

# Formats the code.
fmt:
    cargo fmt

# Formatting, lints and scripts, as CI has them.
lint:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    cargo clippy --all-targets --all-features -- -D warnings
    shellcheck .ci/run script/setup script/test script/demo script/bench-agent script/fuzz-dtls

# The wall around the core: it builds without sockets, runtime and MQTT client.
check-core:
    cargo check --lib --no-default-features
    cargo clippy --no-default-features --features agent -- -D warnings

# Broker, gateway and simulated devices in one process.
demo *ARGS:
    script/demo {{ARGS}}

# Devices written by others and mosquitto; WORDs choose cases by name.
interop *WORDS:
    script/setup --interop
    cargo test --features interop --test interop -- {{WORDS}}
    cargo test --test agent -- --ignored mosquitto

# docs/conformance.md and docs/wishes.md, made anew from the tests.
conformance:
    LWM2MQTT_BLESS=1 cargo test --test conformance

# The benchmarks inside one process.
bench *ARGS:
    cargo bench {{ARGS}}

# The release binary under a fleet of synthetic devices: rates, CPU, latency, memory.
bench-agent *CASES:
    script/bench-agent {{CASES}}

# Licences, advisories and sources of the dependencies (cargo install cargo-deny).
deny:
    cargo deny check

# All of CI.
ci:
    .ci/run
