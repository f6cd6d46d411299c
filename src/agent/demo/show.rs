//! How the demo shows what a consumer sees: one line a publish.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde_json::json;

/// What a payload keeps of its line, however long its topic.
const PAYLOAD_AT_LEAST: usize = 20;
/// `15:19:25.120` and two spaces.
const TIME_WIDTH: usize = 14;

/// Publishes by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// `d/DEVICE/v/…`
    pub(super) values: u64,
    /// `d/DEVICE` and `d/DEVICE/availability`
    pub(super) devices: u64,
    /// `d/DEVICE/reply`
    pub(super) replies: u64,
    /// Everything else under `d/` that the gateway publishes.
    pub(super) others: u64,
    /// `bridge/…`
    pub(super) bridge: u64,
    /// Requests: ours, not the gateway's.
    pub(super) requests: u64,
}

impl Tally {
    /// Counts a publish by its topic below the base.
    pub(super) fn count(&mut self, topic: &str) {
        let mut levels = topic.split('/');
        let counter = match (levels.next(), levels.next(), levels.next()) {
            (Some("d"), Some(_), None | Some("availability")) => &mut self.devices,
            (Some("d"), Some(_), Some("v")) => &mut self.values,
            (Some("d"), Some(_), Some("reply")) => &mut self.replies,
            (Some("d"), Some(_), Some("set" | "get" | "do" | "lwm2m" | "cancel")) => {
                &mut self.requests
            }
            (Some("d"), _, _) => &mut self.others,
            _ => &mut self.bridge,
        };
        *counter += 1;
    }

    /// What the gateway published about devices.
    pub(super) fn about_devices(&self) -> u64 {
        self.values + self.devices + self.replies + self.others
    }
}

/// Writes lines to standard output, as wide and as colourful as it can take.
pub(super) struct Screen {
    json: bool,
    terminal: bool,
    colour: bool,
}

impl Screen {
    /// Colours only on a terminal, and not where `NO_COLOR` is set (no-color.org).
    pub(super) fn new(json: bool) -> Self {
        let terminal = io::stdout().is_terminal() && !json;
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            json,
            terminal,
            colour: terminal && !no_color,
        }
    }

    fn width(&self) -> Option<usize> {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        (self.terminal && size.ws_col > 0).then(|| usize::from(size.ws_col))
    }

    /// Words for a person; nothing as JSON.
    pub(super) fn say(&self, words: &str) -> io::Result<()> {
        match self.json {
            true => Ok(()),
            false => writeln!(io::stdout(), "{words}"),
        }
    }

    /// One publish. `at` is RFC 3339.
    pub(super) fn publish(
        &self,
        at: &str,
        topic: &str,
        payload: &[u8],
        retain: bool,
    ) -> io::Result<()> {
        let text = String::from_utf8_lossy(payload);
        let mut out = io::stdout().lock();
        if self.json {
            let line = json!({ "time": at, "topic": topic, "payload": text, "retain": retain });
            return writeln!(out, "{line}");
        }
        let time = at.get(11..23).unwrap_or(at);
        // the answer to a command is what one waits for: all of it
        let width = self.width().filter(|_| !topic.ends_with("/reply"));
        let room = width.map(|width| {
            let taken = TIME_WIDTH + topic.chars().count() + 2;
            width.saturating_sub(taken).max(PAYLOAD_AT_LEAST)
        });
        let payload = match text.is_empty() {
            true => "(removed)".to_owned(),
            false => shorten(&text, room),
        };
        let (dim, strong, end) = match self.colour {
            true => ("\x1b[2m", colour_of(topic), "\x1b[0m"),
            false => ("", "", ""),
        };
        writeln!(out, "{dim}{time}{end}  {strong}{topic}{end}  {payload}")
    }

    /// The last line.
    pub(super) fn summary(
        &self,
        after: Duration,
        devices: u32,
        tally: &Tally,
        round_trip: Option<Duration>,
    ) -> io::Result<()> {
        let Tally {
            values,
            devices: states,
            replies,
            others,
            bridge,
            ..
        } = tally;
        let total = tally.about_devices() + bridge;
        let seconds = after.as_secs_f64();
        let millis = round_trip.map(|time| (time.as_secs_f64() * 10_000.0).round() / 10.0);
        let mut out = io::stdout().lock();
        if self.json {
            let summary = json!({
                "summary": { "seconds": seconds, "devices": devices, "publishes": total, "values": values,
                    "device_states": states, "replies": replies, "others": others, "bridge": bridge,
                    "command_ms": millis },
            });
            return writeln!(out, "{summary}");
        }
        let command = match millis {
            Some(millis) => format!("the command was answered in {millis} ms"),
            None => "no command was sent".into(),
        };
        let device = if devices == 1 { "device" } else { "devices" };
        let others = match others {
            0 => String::new(),
            others => format!(", {others} others"),
        };
        writeln!(
            out,
            "\n{seconds:.1} s, {devices} {device}: {total} publishes ({values} values, {states} device states, \
             {replies} replies, {bridge} of the bridge{others}); {command}."
        )
    }
}

/// Requests and replies stand out among the values.
fn colour_of(topic: &str) -> &'static str {
    match topic.split('/').rev().find_map(|level| match level {
        "set" | "get" | "do" => Some("\x1b[1;33m"),
        "reply" => Some("\x1b[1;32m"),
        "bridge" => Some("\x1b[35m"),
        _ => None,
    }) {
        Some(colour) => colour,
        None => "\x1b[36m",
    }
}

/// At most `room` characters, control characters escaped.
fn shorten(text: &str, room: Option<usize>) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if room.is_some_and(|room| count + 1 >= room) && text.chars().nth(count + 1).is_some() {
            shown.push('…');
            break;
        }
        match character.is_control() {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishes_are_counted_by_kind() {
        let mut tally = Tally::default();
        for topic in [
            "d/demo-0",
            "d/demo-0/availability",
            "d/demo-0/v/temperature-0/sensor-value",
            "d/demo-0/set/light-control-0/on-off",
            "d/demo-0/reply",
            "d/demo-0/e/switch-0/pressed",
            "bridge/state",
        ] {
            tally.count(topic);
        }
        let expected = Tally {
            values: 1,
            devices: 2,
            replies: 1,
            others: 1,
            bridge: 1,
            requests: 1,
        };
        assert_eq!(tally, expected);
        assert_eq!(tally.about_devices(), 5);
    }

    #[test]
    fn a_payload_is_shortened_to_the_room_there_is() {
        assert_eq!(shorten("abcdef", Some(6)), "abcdef");
        assert_eq!(shorten("abcdefg", Some(6)), "abcde…");
        assert_eq!(shorten("abcdefg", None), "abcdefg");
        assert_eq!(shorten("a\nb", Some(9)), "a\\nb");
    }
}
