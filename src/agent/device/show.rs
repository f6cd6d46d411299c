//! What a person sees of devices. Names come from strangers, so nothing of them reaches the terminal
//! as a control character.

use serde_json::Value as Json;

/// A name fit for a terminal.
pub fn plain(name: &str) -> String {
    name.escape_debug().to_string()
}

/// A value of an answer, fit for a terminal.
pub fn text(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => plain(text),
        Json::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// JSON for scripts.
pub fn json(value: &Json) {
    println!("{value:#}");
}

/// One sentence, or the answer itself for scripts.
pub fn said(as_json: bool, value: &Json, sentence: impl FnOnce() -> String) {
    if as_json {
        json(value);
    } else {
        println!("{}", sentence());
    }
}

/// What was added.
pub fn added(entry: &Json) -> String {
    let identity = match (&entry["psk_identity"], &entry["bootstrap_identity"]) {
        (Json::Null, Json::Null) => format!("certificate {}", text(&entry["cert_sha256"])),
        (Json::Null, identity) => {
            format!("PSK identity {} for the bootstrap server", text(identity))
        }
        (identity, _) => format!("PSK identity {}", text(identity)),
    };
    format!(
        "added {}: endpoint {}, {identity}",
        text(&entry["name"]),
        text(&entry["endpoint"])
    )
}

/// A table of devices.
pub fn list(list: &Json) {
    const COLUMNS: [(&str, &str); 6] = [
        ("NAME", "name"),
        ("ENDPOINT", "endpoint"),
        ("SECURITY", "security"),
        ("IDENTITY", "psk_identity"),
        ("STATE", "state"),
        ("FROM", "origin"),
    ];
    let entries = list.as_array().map(Vec::as_slice).unwrap_or_default();
    if entries.is_empty() {
        println!("no devices; `lwm2mqtt device add NAME --psk-generate` adds one");
        return;
    }
    let mut rows = vec![COLUMNS.map(|(title, _)| title.to_owned())];
    rows.extend(entries.iter().map(|entry| {
        COLUMNS.map(|(_, key)| {
            let value = match key {
                "psk_identity" if entry[key].is_null() => &entry["bootstrap_identity"],
                _ => &entry[key],
            };
            text(value).replace('_', if key == "state" { " " } else { "_" })
        })
    }));
    print!("{}", table(&rows));
}

/// Rows with columns of equal width, two spaces apart.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let line: String = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// One device, a line a field.
pub fn fields(device: &Json) {
    let mut rows = Vec::new();
    collect(device, "", &mut rows);
    print!("{}", table(&rows));
}

fn collect(value: &Json, prefix: &str, rows: &mut Vec<[String; 2]>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let name = format!("{prefix}{}", key.replace('_', " "));
        if value.is_object() {
            collect(value, &format!("{name} "), rows);
        } else if !value.is_null() {
            rows.push([name, text(value)]);
        }
    }
}

/// The state of the agent on one screen.
pub fn status(status: &Json) {
    print!("{}", status_text(status));
}

fn status_text(status: &Json) -> String {
    let number = |value: &Json| value.as_u64().unwrap_or(0);
    let seconds = |value: &Json| {
        humantime::format_duration(std::time::Duration::from_secs(number(value))).to_string()
    };
    let devices = &status["devices"];
    let join = &status["join"];
    let window = match number(&join["window"]) {
        0 if join["policy"] == "window" => ", the window is closed".to_owned(),
        0 => String::new(),
        _ => format!(", the window is open for {} more", seconds(&join["window"])),
    };
    let broker = if status["broker"]["connected"] == true {
        "connected"
    } else {
        "NOT connected"
    };
    let listeners = match status["listeners"].as_array() {
        Some(all) if !all.is_empty() => text(&status["listeners"]),
        _ => "none".to_owned(),
    };
    let mut rows = vec![
        [
            "lwm2mqtt".to_owned(),
            format!(
                "{}, gateway {}",
                text(&status["version"]),
                text(&status["gateway"])
            ),
        ],
        [
            "running".to_owned(),
            format!(
                "for {}, since {}",
                seconds(&status["uptime"]),
                text(&status["since"])
            ),
        ],
        ["listens".to_owned(), listeners],
        ["broker".to_owned(), broker.to_owned()],
        [
            "devices".to_owned(),
            format!(
                "{} online, {} asleep, {} late, {} offline; {} entered",
                number(&devices["online"]),
                number(&devices["asleep"]),
                number(&devices["late"]),
                number(&devices["offline"]),
                number(&devices["entered"])
            ),
        ],
        [
            "join".to_owned(),
            format!("{}{window}", text(&join["policy"])),
        ],
    ];
    let counters = status["counters"].as_object().into_iter().flatten();
    let counted: Vec<String> = counters
        .filter(|(_, value)| number(value) > 0)
        .map(|(name, value)| format!("{} {value}", name.replace('_', " ")))
        .collect();
    if !counted.is_empty() {
        rows.push(["counted".to_owned(), counted.join(", ")]);
    }
    let mut shown = table(&rows);
    for warning in status["warnings"].as_array().into_iter().flatten() {
        shown.push_str(&format!("WARNING: {}\n", text(warning)));
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["a".to_owned(), "b".to_owned()],
            ["lärm".to_owned(), String::new()],
        ];
        assert_eq!(table(&rows), "a     b\nlärm\n");
    }

    #[test]
    fn a_name_cannot_play_tricks_on_the_terminal() {
        assert_eq!(text(&json!("a\u{1b}[2Jb\n")), "a\\u{1b}[2Jb\\n");
    }

    #[test]
    fn the_status_says_what_an_operator_has_to_know() {
        let status = json!({
            "version": "1.0", "gateway": "gw", "since": "2026", "uptime": 61,
            "listeners": ["coap://127.0.0.1:1"], "broker": { "connected": false },
            "devices": { "online": 2, "asleep": 3, "late": 0, "offline": 1, "entered": 4 },
            "join": { "policy": "window", "window": 90 },
            "counters": { "refused": 3, "older": 0 },
            "warnings": ["beware"],
        });
        assert_eq!(
            status_text(&status),
            "lwm2mqtt  1.0, gateway gw\n\
             running   for 1m 1s, since 2026\n\
             listens   coap://127.0.0.1:1\n\
             broker    NOT connected\n\
             devices   2 online, 3 asleep, 0 late, 1 offline; 4 entered\n\
             join      window, the window is open for 1m 30s more\n\
             counted   refused 3\n\
             WARNING: beware\n"
        );
    }
}
