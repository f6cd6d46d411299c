//! What a person sees of operations and of what goes by. All of it comes from strangers: nothing
//! reaches the terminal as a control character.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use serde_json::{Map, Value as Json};

use crate::agent::cli::{EXIT_FAILURE, EXIT_USAGE};
use crate::agent::device::show::{plain, table, text};

/// Whether to go on.
pub enum Shown {
    /// It was shown.
    Yes,
    /// There will be no more, or nobody reads it.
    Over(ExitCode),
}

/// A mistake on the command line that only its words together make.
pub fn usage(why: &str) -> ExitCode {
    eprintln!("lwm2mqtt: {why}");
    EXIT_USAGE.into()
}

/// So many lines were lost.
pub fn lost(lost: u64) {
    eprintln!("lwm2mqtt: {lost} lines are left out: they came faster than they were read");
}

/// A command waits for its device.
pub fn queued(reply: &Json) {
    eprintln!("{}", waits(reply));
}

fn waits(reply: &Json) -> String {
    let state = match reply["why"].as_str() {
        Some("offline") => "is not there",
        _ => "sleeps",
    };
    let mut sentence = format!("{} {state}; the command waits", text(&reply["device"]));
    for (key, words) in [
        ("next_wake", "for its next contact, expected"),
        ("expires", "until"),
    ] {
        if !reply[key].is_null() {
            sentence += &format!(" {words} {}", text(&reply[key]));
        }
    }
    sentence
}

/// What became of a command.
pub fn outcome(as_json: bool, reply: &Json) -> ExitCode {
    let status = reply["status"].as_str().unwrap_or_default();
    let code = match status {
        "done" | "queued" => ExitCode::SUCCESS,
        _ => EXIT_FAILURE.into(),
    };
    if as_json {
        print(&format!("{reply:#}\n"));
        return code;
    }
    match status {
        "done" => {
            print(&done(reply));
        }
        "queued" => {
            let device = text(&reply["device"]);
            let id = text(&reply["id"]);
            print(&format!(
                "{}; the answer {id} goes to …/d/{device}/reply\n",
                waits(reply)
            ));
        }
        "failed" => {
            let error = &reply["error"];
            let code = match (&error["code"], &error["text"]) {
                (Json::Null, _) => String::new(),
                (code, name) => format!("{} {}: ", text(code), text(name)),
            };
            eprintln!("lwm2mqtt: {code}{}", text(&error["detail"]));
        }
        "expired" => eprintln!("lwm2mqtt: its time was over before it could be sent"),
        "superseded" => eprintln!(
            "lwm2mqtt: superseded by {}, a later write of the same",
            text(&reply["by"])
        ),
        other => eprintln!("lwm2mqtt: the command was {}", plain(other)),
    }
    code
}

fn done(reply: &Json) -> String {
    if let Some(values) = reply["values"].as_object() {
        return rows(values);
    }
    if let Some(links) = reply["links"].as_object() {
        let row = |(path, attributes): (&String, &Json)| [plain(path), listed(attributes)];
        return table(&links.iter().map(row).collect::<Vec<_>>());
    }
    if !reply["value"].is_null() {
        return format!("{}\n", text(&reply["value"]));
    }
    let mut line = format!("{} done", text(&reply["op"]));
    for (key, before, after) in [
        ("path", " ", ""),
        ("location", " ", ""),
        ("code", ", ", ""),
        ("ms", ", ", " ms"),
    ] {
        if !reply[key].is_null() {
            line += &format!("{before}{}{after}", text(&reply[key]));
        }
    }
    line + "\n"
}

/// Values by path, in the order of the numbers in it.
fn rows(values: &Map<String, Json>) -> String {
    let numbers = |path: &str| -> Vec<u32> {
        path.split('/')
            .filter_map(|part| part.parse().ok())
            .collect()
    };
    let mut sorted: Vec<_> = values.iter().collect();
    sorted.sort_by_key(|(path, _)| numbers(path));
    let row = |(path, value): (&String, &Json)| [plain(path), text(value)];
    match sorted.is_empty() {
        true => "it holds nothing\n".to_owned(),
        false => table(&sorted.into_iter().map(row).collect::<Vec<_>>()),
    }
}

fn listed(attributes: &Json) -> String {
    let one = |(name, value): (&String, &Json)| match value {
        Json::Bool(true) => plain(name),
        value => format!("{}={}", plain(name), text(value)),
    };
    let attributes = attributes.as_object().into_iter().flatten();
    attributes.map(one).collect::<Vec<_>>().join(" ")
}

/// A line of `observe`: a reply at first, then values.
pub fn value(as_json: bool, line: &Json) -> Shown {
    if let Some(status) = line["status"].as_str() {
        return match status {
            "done" => value_line(as_json, line, || first_values(line)),
            "accepted" | "sent" => Shown::Yes,
            "queued" => {
                queued(line);
                Shown::Yes
            }
            _ => Shown::Over(outcome(as_json, line)),
        };
    }
    value_line(as_json, line, || {
        let unit = match &line["unit"] {
            Json::Null => String::new(),
            unit => format!(" {}", text(unit)),
        };
        format!(
            "{}  {}  {}{unit}\n",
            text(&line["time"]),
            text(&line["path"]),
            text(&line["value"])
        )
    })
}

fn first_values(reply: &Json) -> String {
    let time = text(&reply["time"]);
    let one = |path: &str, value: &Json| format!("{time}  {}  {}\n", plain(path), text(value));
    match reply["values"].as_object() {
        Some(values) => values
            .iter()
            .map(|(path, value)| one(path, value))
            .collect(),
        None if reply["value"].is_null() => String::new(),
        None => one(reply["path"].as_str().unwrap_or_default(), &reply["value"]),
    }
}

fn value_line(as_json: bool, line: &Json, shown: impl FnOnce() -> String) -> Shown {
    print(&if as_json {
        format!("{line}\n")
    } else {
        shown()
    })
}

/// Where `watch` shows its lines.
pub struct Screen {
    as_json: bool,
    colour: bool,
    /// The column where MQTT begins.
    middle: usize,
    width: usize,
}

impl Screen {
    /// Standard output, as wide as it is.
    pub fn new(as_json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        let width = match size {
            Some(size) if terminal && size.ws_col >= 60 => usize::from(size.ws_col),
            _ => 160,
        };
        Self {
            as_json,
            colour: terminal,
            middle: width * 2 / 5,
            width,
        }
    }

    /// Shows a line.
    pub fn line(&mut self, line: &Json) -> Shown {
        if self.as_json {
            return print(&format!("{line}\n"));
        }
        let clock = line["time"]
            .as_str()
            .and_then(|time| time.get(11..23))
            .unwrap_or_default();
        let cut = |text: String, width: usize| -> String { text.chars().take(width).collect() };
        let paint = |code: &str, text: &str| match self.colour {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        };
        let shown = match line["side"].as_str() {
            Some("lwm2m") => {
                let (colour, words) = lwm2m(line);
                let words = cut(format!("{clock}  {words}"), self.width);
                paint(colour, &words)
            }
            Some("mqtt") => {
                let arrow = if line["what"] == "publish" {
                    "→"
                } else {
                    "←"
                };
                let retained = if line["retain"] == true {
                    " (retained)"
                } else {
                    ""
                };
                let words = format!(
                    "{arrow} {}{retained} {}",
                    text(&line["topic"]),
                    quoted(line["payload"].as_str().unwrap_or_default())
                );
                let words = cut(words, self.width.saturating_sub(self.middle));
                let colour = if line["what"] == "publish" {
                    "36"
                } else {
                    "35"
                };
                format!(
                    "{clock:middle$}{}",
                    paint(colour, &words),
                    middle = self.middle
                )
            }
            _ => match &line["device"] {
                Json::Null => "watching all devices; Ctrl-C ends it".to_owned(),
                device => format!("watching {}; Ctrl-C ends it", text(device)),
            },
        };
        print(&format!("{}\n", shown.trim_end()))
    }
}

/// A payload fit for a terminal, with its quotes as they are.
fn quoted(payload: &str) -> String {
    let mut shown = String::with_capacity(payload.len());
    for c in payload.chars() {
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// The colour and the words of a line about a device.
fn lwm2m(line: &Json) -> (&'static str, String) {
    let device = text(&line["device"]);
    match line["what"].as_str() {
        Some("notification") => {
            let value =
                |(path, value): (&String, &Json)| format!("{}={}", plain(path), text(value));
            let values = line["values"].as_object().into_iter().flatten();
            let values: Vec<_> = values.map(value).collect();
            ("32", format!("{device} ← {}", values.join(" ")))
        }
        Some("operation") => {
            let (op, path) = (text(&line["op"]), text(&line["path"]));
            match &line["error"] {
                Json::Null => (
                    "0",
                    format!("{device} → {op} {path}: {}", text(&line["code"])),
                ),
                error => ("31", format!("{device} → {op} {path}: {}", text(error))),
            }
        }
        Some("update") => ("2", format!("{device} ← update")),
        _ => ("33", text(&line["text"])),
    }
}

/// Writes to standard output; whoever reads it may have enough.
fn print(text: &str) -> Shown {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Shown::Yes,
        Err(_) => Shown::Over(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_value_is_shown_bare_and_several_in_the_order_of_their_numbers() {
        assert_eq!(done(&json!({ "value": 21.5 })), "21.5\n");
        let values = json!({ "values": { "/3/0/10": "b", "/3/0/9": 87, "/3/0/0": "a\u{1b}[2J" } });
        assert_eq!(
            done(&values),
            "/3/0/0   a\\u{1b}[2J\n/3/0/9   87\n/3/0/10  b\n"
        );
        let links = json!({ "links": { "/3/0": {}, "/3": { "ver": "1.1", "dim": true } } });
        assert_eq!(done(&links), "/3    dim ver=1.1\n/3/0\n");
    }

    #[test]
    fn what_sleeps_is_said_with_when_it_is_expected() {
        let reply =
            json!({ "device": "m1", "status": "queued", "next_wake": "2026-11-22T16:15:00Z" });
        let away = json!({ "device": "m1", "why": "offline", "expires": "2026-11-23T15:20:00Z" });
        assert_eq!(
            waits(&away),
            "m1 is not there; the command waits until 2026-11-23T15:20:00Z"
        );
        assert_eq!(
            waits(&reply),
            "m1 sleeps; the command waits for its next contact, expected 2026-11-22T16:15:00Z"
        );
    }

    #[test]
    fn a_line_that_goes_by_stands_on_its_side() {
        let words = lwm2m(
            &json!({ "device": "m1", "what": "operation", "op": "read", "path": "/3/0", "code": "2.05" }),
        );
        assert_eq!(words.1, "m1 → read /3/0: 2.05");
        let words = lwm2m(
            &json!({ "device": "m1", "what": "notification", "values": { "/3303/0/5700": 21.5 } }),
        );
        assert_eq!(words.1, "m1 ← /3303/0/5700=21.5");
    }

    #[test]
    fn a_payload_keeps_its_quotes_and_loses_what_a_terminal_would_obey() {
        assert_eq!(
            quoted("{\"a\":\"\u{1b}[2J\n\"}"),
            "{\"a\":\"\\u{1b}[2J\\n\"}"
        );
    }
}
