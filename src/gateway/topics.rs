//! The topics of the gateway's own messages, and what a request's topic says.

use std::sync::Arc;

use crate::mapping::{RESERVED, breaks_text};

/// The longest topic that an answer is sent to, in bytes: brokers for themselves stop somewhere
/// between 256 bytes and 64 kB, and end the connection.
const REPLY_MAX: usize = 512;
/// The most levels of one; mosquitto ends the connection at more than 200.
const REPLY_LEVELS: usize = 64;

/// Where answers may go that are asked for elsewhere than on the default topic: what the operator
/// decides about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replies {
    /// `[mqtt] reply_topics`: topic filters of which one must match. None: anywhere outside our tree.
    pub filters: Vec<String>,
    /// `[homeassistant] prefix`: no answer goes below it.
    pub discovery_prefix: String,
}

impl Default for Replies {
    fn default() -> Self {
        Self {
            filters: Vec::new(),
            discovery_prefix: "homeassistant".to_owned(),
        }
    }
}

/// The fixed part of every topic.
#[derive(Clone, Debug)]
pub struct Topics {
    base: Arc<str>,
    replies: Replies,
}

/// To whom a topic for a device's values belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It lies in the device's own tree, where no other device can come.
    Device,
    /// Whoever comes first.
    First,
    /// The gateway, or another device.
    Other,
}

/// What somebody asks for, as the topic says: `{base}/d/<device>/<verb>/…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestTopic<'a> {
    /// The device's name.
    pub device: &'a str,
    /// What to do.
    pub verb: Verb<'a>,
}

/// The verbs that a device's topics offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb<'a> {
    /// `set`, or `set/<inst>/<name>`: write.
    Set(Option<(&'a str, &'a str)>),
    /// `get/<inst>/<name>`: read.
    Get(&'a str, &'a str),
    /// `do/<command>`: execute, a command of the mapping or `<inst>/<name>`.
    Do(&'a str),
    /// `lwm2m/<op>`: a raw operation.
    Lwm2m(&'a str),
    /// `cancel`: give up a command.
    Cancel,
    /// None of these.
    Unknown,
}

impl<'a> Verb<'a> {
    /// Reads what follows the device in the topic of a request.
    pub fn parse(text: &'a str) -> Self {
        let (verb, arguments) = text
            .split_once('/')
            .map_or((text, None), |(verb, rest)| (verb, Some(rest)));
        let pair = arguments.and_then(|arguments| arguments.split_once('/'));
        match (verb, arguments, pair) {
            ("set", None, _) => Self::Set(None),
            ("set", _, Some(signal)) => Self::Set(Some(signal)),
            ("get", _, Some((instance, name))) => Self::Get(instance, name),
            ("do", Some(command), _) => Self::Do(command),
            ("lwm2m", Some(operation), _) => Self::Lwm2m(operation),
            ("cancel", None, _) => Self::Cancel,
            _ => Self::Unknown,
        }
    }

    /// What stands behind the device in the topic: the reverse of [`Verb::parse`].
    pub fn to_text(self) -> String {
        match self {
            Self::Set(None) => "set".to_owned(),
            Self::Set(Some((instance, name))) => format!("set/{instance}/{name}"),
            Self::Get(instance, name) => format!("get/{instance}/{name}"),
            Self::Do(command) => format!("do/{command}"),
            Self::Lwm2m(operation) => format!("lwm2m/{operation}"),
            Self::Cancel => "cancel".to_owned(),
            Self::Unknown => String::new(),
        }
    }

    /// The name of the operation in answers.
    pub const fn name(self) -> &'a str {
        match self {
            Self::Set(_) => "write",
            Self::Get(..) => "read",
            Self::Do(_) => "execute",
            Self::Lwm2m(operation) => operation,
            Self::Cancel => "cancel",
            Self::Unknown => "unknown",
        }
    }
}

impl Topics {
    /// Topics below `base`.
    pub fn new(base: &str, replies: Replies) -> Self {
        Self {
            base: base.into(),
            replies,
        }
    }

    /// `{base}/bridge/{name}`
    pub fn bridge(&self, name: &str) -> Arc<str> {
        format!("{}/bridge/{name}", self.base).into()
    }

    /// `{base}/d/{device}`, the birth message.
    pub fn birth(&self, device: &str) -> Arc<str> {
        format!("{}/d/{device}", self.base).into()
    }

    /// `{base}/d/{device}/{name}`
    pub fn device(&self, device: &str, name: &str) -> Arc<str> {
        format!("{}/d/{device}/{name}", self.base).into()
    }

    /// Why no answer may go to a topic that somebody chose, in words that follow "no answer can go
    /// there: ". Whoever may ask for something must not make the gateway publish with its own rights
    /// where they may not (MQTT contract §5).
    pub fn reply_objection(&self, topic: &str) -> Option<&'static str> {
        let Replies {
            filters,
            discovery_prefix,
        } = &self.replies;
        if topic.is_empty() || topic.contains(['+', '#']) || topic.contains(breaks_text) {
            Some("a topic to publish on has no wildcard and no control character")
        } else if topic.len() > REPLY_MAX || topic.split('/').count() > REPLY_LEVELS {
            Some("it is longer than 512 bytes or 64 levels")
        } else if topic.starts_with('$') {
            Some("topics that begin with $ are the broker's")
        } else if below(topic, &self.base).is_some() {
            Some("it is in the gateway's own tree")
        } else if below(topic, discovery_prefix).is_some() {
            Some("it is below the prefix of Home Assistant's discovery")
        } else if !filters.is_empty() && !filters.iter().any(|filter| matches(filter, topic)) {
            Some("[mqtt] reply_topics does not permit it")
        } else {
            None
        }
    }

    /// To whom a topic belongs that the mapping made for a value of `device`, out of what the
    /// device chose.
    pub fn owner(&self, topic: &str, device: &str) -> Owner {
        let Some(inside) = below(topic, &self.base) else {
            return Owner::First;
        };
        let levels: Vec<&str> = inside.split('/').collect();
        match levels[..] {
            ["d", name, "raw", _, ..] if name == device => Owner::Device,
            ["d", name, level, ..] if name == device && !RESERVED.contains(&level) => Owner::Device,
            ["" | "d" | "bridge", ..] => Owner::Other,
            _ => Owner::First,
        }
    }

    /// The filters of what others may ask for.
    pub fn request_filters(&self) -> Vec<String> {
        ["set/#", "get/#", "do/#", "lwm2m/+", "cancel"]
            .iter()
            .map(|verb| format!("{}/d/+/{verb}", self.base))
            .collect()
    }

    /// The filter of what is asked of the gateway itself.
    pub fn admin_filter(&self) -> String {
        format!("{}/bridge/request/#", self.base)
    }

    /// The verb of a request to the gateway itself; `None` when it is none.
    pub fn parse_admin<'a>(&self, topic: &'a str) -> Option<&'a str> {
        let rest = topic.strip_prefix(&*self.base)?;
        rest.strip_prefix("/bridge/request/")
    }

    /// Takes a request's topic apart; `None` when it is not one.
    pub fn parse_request<'a>(&self, topic: &'a str) -> Option<RequestTopic<'a>> {
        let rest = topic.strip_prefix(&*self.base)?.strip_prefix("/d/")?;
        let (device, verb) = rest.split_once('/')?;
        Some(RequestTopic {
            device,
            verb: Verb::parse(verb),
        })
    }
}

/// What follows `prefix` and `/`; nothing when `topic` is `prefix` itself.
fn below<'a>(topic: &'a str, prefix: &str) -> Option<&'a str> {
    match topic.strip_prefix(prefix)? {
        "" => Some(""),
        rest => rest.strip_prefix('/'),
    }
}

/// Whether a topic matches a filter (MQTT 5 §4.7.1). A filter never matches a topic that begins with
/// `$`; none such gets here.
fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for part in filter.split('/') {
        match (part, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (part, Some(level)) if part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_in_its_topic_what_it_wants() {
        let topics = Topics::new("site7/lwm2mqtt", Replies::default());
        let verb = |topic| {
            topics
                .parse_request(topic)
                .map(|request| (request.device, request.verb))
        };
        assert_eq!(
            verb("site7/lwm2mqtt/d/dev1/set/light-control-0/on-off"),
            Some(("dev1", Verb::Set(Some(("light-control-0", "on-off")))))
        );
        assert_eq!(
            verb("site7/lwm2mqtt/d/dev1/set"),
            Some(("dev1", Verb::Set(None)))
        );
        assert_eq!(
            verb("site7/lwm2mqtt/d/dev1/get/a/b"),
            Some(("dev1", Verb::Get("a", "b")))
        );
        assert_eq!(
            verb("site7/lwm2mqtt/d/dev1/do/reboot"),
            Some(("dev1", Verb::Do("reboot")))
        );
        assert_eq!(
            verb("site7/lwm2mqtt/d/dev1/do/device-0/reboot"),
            Some(("dev1", Verb::Do("device-0/reboot")))
        );
        assert_eq!(
            verb("site7/lwm2mqtt/d/dev1/lwm2m/read"),
            Some(("dev1", Verb::Lwm2m("read")))
        );
        assert_eq!(
            verb("site7/lwm2mqtt/d/dev1/cancel"),
            Some(("dev1", Verb::Cancel))
        );
        assert_eq!(
            verb("site7/lwm2mqtt/d/dev1/set/one-level"),
            Some(("dev1", Verb::Unknown))
        );
        assert_eq!(verb("site7/other/d/dev1/set"), None);
    }

    #[test]
    fn nobody_makes_the_gateway_publish_in_its_own_tree() {
        let topics = Topics::new("site7/lwm2mqtt", Replies::default());
        let many_levels = "a/".repeat(64);
        let long = "a".repeat(513);
        for topic in [
            "site7/lwm2mqtt/d/dev1/v/a/b",
            "site7/lwm2mqtt",
            "site7/lwm2mqtt/",
            "homeassistant/sensor/x/config",
            "homeassistant",
            "$SYS/x",
            "a/+/b",
            "a/#",
            "a\0",
            "a\u{1}",
            "a\u{FFFE}",
            "",
            &many_levels,
            &long,
        ] {
            assert!(topics.reply_objection(topic).is_some(), "{topic}");
        }
        for topic in [
            "app/42/in",
            "site7/lwm2mqtt2/x",
            "site7",
            "homeassistant2/x",
            "/",
            "Site7/lwm2mqtt/x",
        ] {
            assert_eq!(topics.reply_objection(topic), None, "{topic}");
        }
    }

    #[test]
    fn reply_topics_narrow_and_never_widen() {
        let replies = Replies {
            filters: vec!["app/+/in".into(), "tools/#".into(), "lwm2mqtt/#".into()],
            ..Replies::default()
        };
        let topics = Topics::new("lwm2mqtt", replies);
        for topic in ["app/1/in", "tools", "tools/a/b"] {
            assert_eq!(topics.reply_objection(topic), None, "{topic}");
        }
        for topic in [
            "app/in",
            "app/1/in/x",
            "app/1",
            "tool",
            "lwm2mqtt/d/dev1/set",
            "other",
        ] {
            assert!(topics.reply_objection(topic).is_some(), "{topic}");
        }
    }

    #[test]
    fn a_topic_for_values_belongs_to_the_device_the_gateway_or_who_comes_first() {
        let topics = Topics::new("b", Replies::default());
        for (topic, owner) in [
            ("b/d/dev1/v/a/b", Owner::Device),
            ("b/d/dev1/raw/3/0/0", Owner::Device),
            ("b/d/dev1/set/a/b", Owner::Other),
            ("b/d/dev1/raw", Owner::Other),
            ("b/d/dev1", Owner::Other),
            ("b/d/dev2/v/a/b", Owner::Other),
            ("b/d", Owner::Other),
            ("b/bridge/state", Owner::Other),
            ("b", Owner::Other),
            ("b/", Owner::Other),
            ("b/p/dev1/3/0/0", Owner::First),
            ("plant7/x", Owner::First),
            ("bb/d/dev2", Owner::First),
        ] {
            assert_eq!(topics.owner(topic, "dev1"), owner, "{topic}");
        }
    }
}
