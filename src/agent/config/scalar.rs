//! Values of the configuration that stand in a text.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::agent::mqtt::Address;
use crate::diagnostic::Item;
use crate::mapping::breaks_text;
use crate::server::credentials::Network;

/// A size in bytes, `"64MiB"`.
pub(super) fn size(item: &Item<'_>) -> Option<u64> {
    let text = item.text("64MiB")?;
    let size = parse_size(text);
    if size.is_none() {
        item.error(
            "bad-size",
            format!("`{text}` is no size"),
            "write a whole number and a unit: \"64MiB\", \"500kB\", \"1GiB\"",
        );
    }
    size
}

fn parse_size(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start() {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The name or address of a host, as it stands in a URI.
pub(super) fn host(item: &Item<'_>) -> Option<String> {
    let text = item.text("gw.example.net")?;
    let is_address = text.parse::<std::net::IpAddr>().is_ok();
    let is_name = !text.is_empty()
        && text.len() <= 128
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    if !is_address && !is_name {
        item.error(
            "bad-value",
            format!("`{text}` is no host"),
            "write a name or an address alone: \"gw.example.net\", \"192.168.1.4\", \"fd00::4\"",
        );
        return None;
    }
    Some(match text.contains(':') {
        true => format!("[{text}]"),
        false => text.to_owned(),
    })
}

/// A list of addresses to listen at.
pub(super) fn addresses(item: &Item<'_>) -> Option<Vec<SocketAddr>> {
    let texts = item.texts("127.0.0.1:5683")?;
    let addresses = texts.iter().map(|(item, text)| address(item, text));
    addresses.collect()
}

/// A list of networks.
pub(super) fn networks(item: &Item<'_>) -> Option<Vec<Network>> {
    let texts = item.texts("192.168.10.0/24")?;
    let network = |(item, text): &(Item<'_>, &str)| {
        let parsed = text.parse::<Network>();
        if let Err(why) = &parsed {
            item.error(
                "bad-network",
                format!("`{text}` is no network: {why}"),
                "write an address and the number of its bits that count: \"192.168.10.0/24\", \"fd00::/8\"",
            );
        }
        parsed.ok()
    };
    texts.iter().map(network).collect()
}

/// An address to listen at, `127.0.0.1:5683` or `[::]:5684`.
pub(super) fn address(item: &Item<'_>, text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let hint = if text.parse::<std::net::IpAddr>().is_ok() {
        "add the port: \"127.0.0.1:5683\", \"[::1]:5683\""
    } else if text.contains("://") {
        "write the address and port alone, without `coap://`: \"127.0.0.1:5683\""
    } else if text.trim_start_matches(':').parse::<u16>().is_ok() {
        "add the address: \"0.0.0.0:5683\" for IPv4, \"[::]:5683\" for both"
    } else {
        "write the number of an address and a port: \"127.0.0.1:5683\", \"[::]:5683\" for every one"
    };
    item.error(
        "bad-address",
        format!("`{text}` is no address to listen at"),
        hint,
    );
    None
}

/// The URL of a broker.
pub(super) fn broker_url(item: &Item<'_>) -> Option<String> {
    let text = item.text("mqtt://localhost:1883")?;
    match text.parse::<Address>() {
        Ok(_) => Some(text.to_owned()),
        Err(error) => {
            let hint = "write it like \"mqtt://localhost:1883\", \"mqtts://broker.example\" or \
                        \"wss://broker.example/mqtt\"";
            item.error("bad-url", error.to_string(), hint);
            None
        }
    }
}

/// A path of a file or folder.
pub(super) fn path(item: &Item<'_>, example: &str) -> Option<PathBuf> {
    let text = item.text(example)?;
    if text.is_empty() {
        item.error(
            "bad-value",
            format!("`{}` is empty", item.key()),
            "write a path, or remove the key",
        );
        return None;
    }
    Some(PathBuf::from(text))
}

/// The first levels of topics.
pub(super) fn base_topic(item: &Item<'_>) -> Option<String> {
    let text = item.text("site7/lwm2mqtt")?;
    let (message, hint) = if text.split('/').any(str::is_empty) {
        (
            "a topic level is empty",
            "remove the `/` at the beginning or end, or write a name",
        )
    } else if text.contains(['+', '#']) {
        (
            "a topic to publish to has no wildcard",
            "remove `+` and `#`",
        )
    } else if text.starts_with('$') {
        (
            "topics that begin with `$` belong to the broker",
            "begin it with another character",
        )
    } else if text.chars().any(breaks_text) {
        ("a topic has no control characters", "remove them")
    } else if text.len() > 256 {
        ("a base topic has at most 256 bytes", "shorten it")
    } else {
        return Some(text.to_owned());
    };
    item.error("bad-topic", message, hint);
    None
}

/// A topic filter (MQTT 5 §4.7.1).
pub(super) fn filter(item: &Item<'_>, text: &str) -> Option<String> {
    let levels: Vec<&str> = text.split('/').collect();
    let last = levels.len() - 1;
    let misplaced = |(index, level): (usize, &&str)| match *level {
        "+" => false,
        "#" => index != last,
        level => level.contains(['+', '#']),
    };
    let (message, hint) = if text.is_empty() || text.contains(breaks_text) {
        (
            "a topic filter is not empty and has no control characters",
            "write it like \"app/#\"",
        )
    } else if levels.iter().enumerate().any(misplaced) {
        (
            "`+` stands for a whole level, and `#` for all levels from there to the end",
            "write it like \"app/+/in\" or \"app/#\"",
        )
    } else if text.starts_with('$') {
        (
            "no answer goes to topics that begin with `$`",
            "begin it with another character",
        )
    } else {
        return Some(text.to_owned());
    };
    item.error("bad-topic", message, hint);
    None
}

/// A non-empty text of at most `most` bytes without control characters.
pub(super) fn label(item: &Item<'_>, example: &str, most: usize) -> Option<String> {
    let text = item.text(example)?;
    if text.is_empty() || text.len() > most || text.chars().any(char::is_control) {
        item.error(
            "bad-value",
            format!(
                "`{}` is empty, too long, or holds control characters",
                item.key()
            ),
            format!("write 1 to {most} bytes of text"),
        );
        return None;
    }
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        for (text, size) in [
            ("64MiB", Some(64 << 20)),
            ("1 GB", Some(1_000_000_000)),
            ("512B", Some(512)),
            ("64", None),
            ("MiB", None),
            ("1.5MiB", None),
            ("99999999999999GiB", None),
        ] {
            assert_eq!(parse_size(text), size, "{text}");
        }
    }
}
