//! What a person, or a script, reads of a simulation.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::Args;
use super::fleet::{Fleet, Report, Seen, Totals};
use crate::client::Event;
use crate::lwm2m::Value;

/// With more devices than this, what each of them goes through is counted instead of told.
const TOLD_ONE_BY_ONE: u32 = 10;

/// Says what the devices see.
pub(super) struct Teller {
    fleet: Fleet,
    totals: Arc<Totals>,
    json: bool,
    quiet: bool,
    one_by_one: bool,
    live: bool,
    /// Devices with a registration.
    registered: BTreeSet<u32>,
    pub(super) ever_registered: u32,
    failed: u64,
    written: u64,
    executed: u64,
    last_failure: Option<String>,
    shown: String,
}

impl Teller {
    pub(super) fn new(args: &Args, fleet: &Fleet, totals: Arc<Totals>, json: bool) -> Self {
        Self {
            fleet: fleet.clone(),
            totals,
            json,
            quiet: args.quiet,
            one_by_one: fleet.devices <= TOLD_ONE_BY_ONE || json,
            live: io::stderr().is_terminal() && !json,
            registered: BTreeSet::new(),
            ever_registered: 0,
            failed: 0,
            written: 0,
            executed: 0,
            last_failure: None,
            shown: String::new(),
        }
    }

    pub(super) fn begin(&self, uri: &str) -> io::Result<()> {
        if self.quiet || self.json {
            return Ok(());
        }
        let Fleet { devices, .. } = self.fleet;
        let last = self.fleet.endpoint_name(devices - 1);
        let names = match devices {
            1 => last,
            _ => format!("{} to {last}", self.fleet.endpoint_name(0)),
        };
        writeln!(
            io::stdout(),
            "{devices} simulated {} ({names}), LwM2M {}, registering with {uri}. Ctrl-C stops.",
            plural(devices.into(), "device", "devices"),
            self.fleet.version,
        )
    }

    /// Why nobody registered, as far as we know.
    pub(super) fn obstacle(&self) -> &str {
        match &self.last_failure {
            _ if self.totals.unreachable.load(Ordering::Relaxed) > 0 => "nothing listens there",
            Some(failure) => failure,
            None => "no answer yet",
        }
    }

    pub(super) fn tell(&mut self, report: &Report) -> io::Result<()> {
        let event = match &report.seen {
            Seen::Client(event) => Some(event),
            Seen::Secured(_) => None,
            Seen::NotSecured(reason) => {
                self.last_failure = Some(reason.clone());
                None
            }
        };
        let failure = match event {
            None => matches!(report.seen, Seen::NotSecured(_)),
            Some(event) => self.count(report.device, event),
        };
        let caused_by_a_server =
            matches!(event, Some(Event::Written { .. } | Event::Executed { .. }));
        let worth_a_line = match self.quiet {
            true => failure && self.one_by_one,
            false => self.one_by_one || caused_by_a_server,
        };
        if !worth_a_line {
            return Ok(());
        }
        let endpoint = self.fleet.endpoint_name(report.device);
        let mut out = io::stdout().lock();
        if self.json {
            return writeln!(out, "{}", json_line(&endpoint, report));
        }
        if self.live && !self.shown.is_empty() {
            self.shown.clear();
            write!(io::stderr(), "\r\x1b[K")?;
        }
        let at = report.at.to_string();
        let time = at.get(11..23).unwrap_or(&at);
        writeln!(out, "{time}  {endpoint}  {}", sentence(&report.seen))
    }

    /// Counts what happened; whether it is a failure.
    fn count(&mut self, device: u32, event: &Event) -> bool {
        match event {
            Event::Registered { .. } => {
                self.registered.insert(device);
                self.ever_registered += 1;
                false
            }
            Event::RegistrationLost { .. } => {
                self.registered.remove(&device);
                true
            }
            Event::Deregistered { .. } | Event::Restarting { .. } => {
                self.registered.remove(&device);
                false
            }
            Event::RegistrationFailed { reason, .. } => {
                self.failed += 1;
                self.last_failure = Some(reason.to_string());
                true
            }
            Event::Written { .. } => {
                self.written += 1;
                false
            }
            Event::Executed { .. } => {
                self.executed += 1;
                false
            }
            _ => false,
        }
    }

    /// One line that counts, renewed in place on a terminal; without one, only while the number of
    /// registrations moves.
    pub(super) fn progress(&mut self) -> io::Result<()> {
        if self.quiet || self.json || self.one_by_one {
            return Ok(());
        }
        let registered = format!(
            "{} of {} registered",
            self.registered.len(),
            self.fleet.devices
        );
        let notifications = self.totals.notifications.load(Ordering::Relaxed);
        if self.live {
            self.shown = registered;
            let shown = &self.shown;
            write!(
                io::stderr(),
                "\r\x1b[K{shown}, {notifications} notifications sent"
            )
        } else if self.shown != registered {
            self.shown = registered;
            writeln!(io::stderr(), "{}", self.shown)
        } else {
            Ok(())
        }
    }

    pub(super) fn end(&mut self) -> io::Result<()> {
        if self.live && !self.shown.is_empty() {
            write!(io::stderr(), "\r\x1b[K")?;
        }
        let count = |total: &std::sync::atomic::AtomicU64| total.load(Ordering::Relaxed);
        let notifications = count(&self.totals.notifications);
        let (requests, refused) = (count(&self.totals.requests), count(&self.totals.refused));
        let mut out = io::stdout().lock();
        if self.json {
            let summary = json!({
                "event": "summary", "devices": self.fleet.devices, "registrations": self.ever_registered,
                "failed_registrations": self.failed, "notifications": notifications, "requests": requests,
                "refused": refused, "written": self.written, "executed": self.executed,
            });
            return writeln!(out, "{summary}");
        }
        writeln!(
            out,
            "{} {}: {} {} ({} failed), {notifications} notifications, {requests} requests answered \
             ({refused} refused), {} written, {} executed",
            self.fleet.devices,
            plural(self.fleet.devices.into(), "device", "devices"),
            self.ever_registered,
            plural(self.ever_registered.into(), "registration", "registrations"),
            self.failed,
            self.written,
            self.executed,
        )
    }
}

fn plural(count: u64, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}

fn sentence(seen: &Seen) -> String {
    let event = match seen {
        Seen::Client(event) => event,
        Seen::Secured(suite) => return format!("secured by {suite}"),
        Seen::NotSecured(reason) => return format!("no secure session: {reason}"),
    };
    match event {
        Event::Registered {
            version, location, ..
        } => format!("registered at {location}, LwM2M {version}"),
        Event::VersionRefused { version, .. } => format!("LwM2M {version} refused, stepping down"),
        Event::RegistrationFailed {
            reason, retry_in, ..
        } => format!(
            "could not register: {reason}; again in {:.1} s",
            retry_in.as_secs_f64()
        ),
        Event::Updated { .. } => "registration updated".into(),
        Event::RegistrationLost { reason, .. } => format!("registration lost: {reason}"),
        Event::Deregistered { .. } => "de-registered".into(),
        Event::Observed { target, .. } => format!("observed {target}"),
        Event::Created { path, .. } => format!("created {path}"),
        Event::Deleted { path, .. } => format!("deleted {path}"),
        Event::Sent {
            code: Some(code), ..
        } => format!("sent values: {code:?}"),
        Event::Sent { code: None, .. } => "sent values, and got no answer".into(),
        Event::Written { path, value, .. } => match value {
            Some(value) => format!("written {path} = {}", text(value)),
            None => format!("written {path}"),
        },
        Event::Executed {
            path, arguments, ..
        } => match arguments.0.is_empty() {
            true => format!("executed {path}"),
            false => format!("executed {path} with {}", arguments),
        },
        Event::Restarting { back_in } => {
            format!("restarting, back in {:.1} s", back_in.as_secs_f64())
        }
        Event::Stopped => "stopped".into(),
    }
}

/// A value as a person writes it.
fn text(value: &Value) -> String {
    match json_value(value) {
        serde_json::Value::String(text) if !matches!(value, Value::Opaque(_)) => {
            format!("{text:?}")
        }
        other => other.to_string(),
    }
}

fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::String(text) | Value::CoreLink(text) => json!(text),
        Value::Integer(number) | Value::Time(number) => json!(number),
        Value::UnsignedInteger(number) => json!(number),
        Value::Float(number) => json!(number),
        Value::Boolean(value) => json!(value),
        Value::ObjectLink(link) => json!(link.to_string()),
        Value::Opaque(bytes) => {
            let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
                _ = write!(hex, "{byte:02x}");
                hex
            });
            json!(hex)
        }
    }
}

fn json_line(endpoint: &str, report: &Report) -> serde_json::Value {
    let (name, more) = match &report.seen {
        Seen::Secured(suite) => ("secured", json!({ "suite": suite })),
        Seen::NotSecured(reason) => ("not_secured", json!({ "reason": reason })),
        Seen::Client(event) => client_line(event),
    };
    let mut line = json!({ "time": report.at.to_string(), "endpoint": endpoint, "event": name });
    if let (Some(line), serde_json::Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
    line
}

fn client_line(event: &Event) -> (&'static str, serde_json::Value) {
    match event {
        Event::Registered {
            version, location, ..
        } => (
            "registered",
            json!({ "location": location, "version": version.to_string() }),
        ),
        Event::VersionRefused { version, .. } => {
            ("version_refused", json!({ "version": version.to_string() }))
        }
        Event::RegistrationFailed {
            reason, retry_in, ..
        } => (
            "registration_failed",
            json!({ "reason": reason.to_string(), "retry_in": retry_in.as_secs_f64() }),
        ),
        Event::Updated { .. } => ("updated", json!({})),
        Event::RegistrationLost { reason, .. } => {
            ("registration_lost", json!({ "reason": reason.to_string() }))
        }
        Event::Deregistered { .. } => ("deregistered", json!({})),
        Event::Observed { target, .. } => ("observed", json!({ "path": target.to_string() })),
        Event::Created { path, .. } => ("created", json!({ "path": path.to_string() })),
        Event::Deleted { path, .. } => ("deleted", json!({ "path": path.to_string() })),
        Event::Sent { code, .. } => ("sent", json!({ "code": code.map(|code| code.to_string()) })),
        Event::Written { path, value, .. } => (
            "written",
            json!({ "path": path.to_string(), "value": value.as_ref().map(json_value) }),
        ),
        Event::Executed {
            path, arguments, ..
        } => (
            "executed",
            json!({ "path": path.to_string(), "arguments": arguments.to_string() }),
        ),
        Event::Restarting { back_in } => {
            ("restarting", json!({ "back_in": back_in.as_secs_f64() }))
        }
        Event::Stopped => ("stopped", json!({})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_sees_is_a_sentence_and_a_json_line() {
        let report = Report {
            device: 0,
            at: crate::time::UnixTime::from_millis(1_795_360_765_120),
            seen: Seen::Client(Event::Written {
                account: 0,
                path: "/3311/0/5850".parse().unwrap(),
                value: Some(Value::Boolean(true)),
            }),
        };
        assert_eq!(sentence(&report.seen), "written /3311/0/5850 = true");
        assert_eq!(
            json_line("sim-0", &report),
            json!({
                "time": "2026-11-22T15:19:25.120Z", "endpoint": "sim-0", "event": "written",
                "path": "/3311/0/5850", "value": true,
            })
        );
    }
}
