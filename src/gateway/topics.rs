//! The topics of the gateway's own messages, and what a request's topic says.

use std::sync::Arc;

/// The fixed part of every topic.
#[derive(Clone, Debug)]
pub struct Topics {
    base: Arc<str>,
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

impl Topics {
    /// Topics below `base`.
    pub fn new(base: &str) -> Self {
        Self { base: base.into() }
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

    /// Whether a topic lies in our own tree, or is none to publish on at all. Whoever may ask for
    /// something must not make the gateway publish with its own rights.
    pub fn is_forbidden_reply(&self, topic: &str) -> bool {
        let ours = topic
            .strip_prefix(&*self.base)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        ours || topic.is_empty() || topic.starts_with('$') || topic.contains(['+', '#', '\0'])
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
        let (verb, arguments) = verb
            .split_once('/')
            .map_or((verb, None), |(verb, rest)| (verb, Some(rest)));
        let pair = arguments.and_then(|arguments| arguments.split_once('/'));
        let verb = match (verb, arguments, pair) {
            ("set", None, _) => Verb::Set(None),
            ("set", _, Some(signal)) => Verb::Set(Some(signal)),
            ("get", _, Some((instance, name))) => Verb::Get(instance, name),
            ("do", Some(command), _) => Verb::Do(command),
            ("lwm2m", Some(operation), _) => Verb::Lwm2m(operation),
            ("cancel", None, _) => Verb::Cancel,
            _ => Verb::Unknown,
        };
        Some(RequestTopic { device, verb })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_in_its_topic_what_it_wants() {
        let topics = Topics::new("site7/lwm2mqtt");
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
        let topics = Topics::new("lwm2mqtt");
        for topic in [
            "lwm2mqtt/d/dev1/v/a/b",
            "lwm2mqtt",
            "$SYS/x",
            "a/+/b",
            "a/#",
            "",
        ] {
            assert!(topics.is_forbidden_reply(topic), "{topic}");
        }
        for topic in ["app/42/in", "lwm2mqtt2/x"] {
            assert!(!topics.is_forbidden_reply(topic), "{topic}");
        }
    }
}
