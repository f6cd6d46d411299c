//! Those on the command line who stay: for the last word of a command, for the values of a node, or
//! to watch what goes by.
//!
//! Each is an admin request whose answer has more than one line. They go when their answer is
//! complete, or when the shell says that nobody listens any more ([`Input::AdminLeft`]).
//!
//! [`Input::AdminLeft`]: crate::gateway::Input::AdminLeft

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use crate::gateway::admin::book::Arguments;
use crate::gateway::admin::{AdminError, unknown};
use crate::gateway::command::{Asker, Body};
use crate::gateway::json::to_json;
use crate::gateway::publish::{Message, Publish};
use crate::gateway::reply::{CommandError, Reply, Status};
use crate::gateway::topics::Verb;
use crate::gateway::understand::holds_keys;
use crate::gateway::{Event, Gateway, Output};
use crate::lwm2m::{Path, Record, Target};
use crate::mapping::{Destination, DeviceFacts};
use crate::server::{self, DeviceId, Operation};
use crate::time::{Now, UnixTime};

/// How much of a payload one who watches is shown, in bytes.
const SHOWN_MAX: usize = 2_048;
/// Values of one notification that one who watches is shown.
const VALUES_SHOWN: usize = 16;

/// All who listen, by the number of their request.
#[derive(Debug, Default)]
pub(super) struct Live {
    listeners: BTreeMap<u64, Listener>,
    /// How many of them watch.
    watching: usize,
    /// The time of the input that is being handled.
    now: UnixTime,
}

/// What somebody listens for.
#[derive(Clone, Copy, Debug)]
enum Listener {
    /// The last word of one command.
    Command,
    /// The values of a node. `begun` says that the observation was begun for this.
    Values {
        device: DeviceId,
        path: Path,
        begun: bool,
    },
    /// What goes by, of one device or of all.
    Everything(Option<DeviceId>),
}

impl Live {
    /// The time of what happens from now on.
    pub(super) fn tick(&mut self, now: Now) {
        self.now = now.unix;
    }

    fn remove(&mut self, id: u64) -> Option<Listener> {
        let listener = self.listeners.remove(&id)?;
        self.watching -= usize::from(matches!(listener, Listener::Everything(_)));
        Some(listener)
    }
}

impl Gateway {
    /// Carries out a request whose answer may take more than a line; `None` when it is another one.
    pub(super) fn on_lasting_admin(
        &mut self,
        now: Now,
        id: u64,
        verb: &str,
        object: &Map<String, Json>,
    ) -> Option<Result<(), AdminError>> {
        let lasting = matches!(verb, "command" | "observe" | "watch");
        if lasting && self.live.listeners.len() >= self.limits.listeners {
            return Some(Err(AdminError::new(
                "queue_full",
                "too many listen already; end a `lwm2mqtt watch` or `observe`",
            )));
        }
        Some(match verb {
            "command" => self.command(now, id, object),
            "observe" => self.observe(now, id, object),
            "watch" => self.watch(id, object),
            _ => return None,
        })
    }

    /// `{"device","request","body"}`: what follows `{base}/d/<device>/` in the topic of a request, and
    /// its payload. It becomes a command like those from MQTT, and each reply is a line.
    fn command(&mut self, now: Now, id: u64, object: &Map<String, Json>) -> Result<(), AdminError> {
        let known = ["device", "request", "body"];
        let arguments = Arguments::new(object, &known)?;
        let device = self.named(arguments.required("device")?)?;
        let verb = Verb::parse(arguments.required("request")?);
        let body = object.get("body").cloned().unwrap_or(json!({}));
        self.live.listeners.insert(id, Listener::Command);
        self.begin_for(now, id, device, verb, body);
        Ok(())
    }

    /// `{"device","path"}`: the value of a node now, and whenever it changes.
    fn observe(&mut self, now: Now, id: u64, object: &Map<String, Json>) -> Result<(), AdminError> {
        let arguments = Arguments::new(object, &["device", "path"])?;
        let device = self.named(arguments.required("device")?)?;
        let path = self
            .node(device, arguments.required("path")?)
            .map_err(|error| AdminError::new("unknown_signal", error.detail))?;
        let begun = !self.is_observed(device, &path);
        self.live.listeners.insert(
            id,
            Listener::Values {
                device,
                path,
                begun,
            },
        );
        let operation = if begun { "observe" } else { "read" };
        let body = json!({ "path": path.to_string() });
        self.begin_for(now, id, device, Verb::Lwm2m(operation), body);
        Ok(())
    }

    fn watch(&mut self, id: u64, object: &Map<String, Json>) -> Result<(), AdminError> {
        let device = Arguments::new(object, &["device"])?.text("device")?;
        let device = device.map(|name| self.named(name)).transpose()?;
        self.live.listeners.insert(id, Listener::Everything(device));
        self.live.watching += 1;
        let name = device.and_then(|id| self.device(id)).map(|it| &*it.name);
        self.tell_listener(id, &json!({ "what": "watching", "device": name }), true);
        Ok(())
    }

    /// Nobody listens to this request any more. What was begun for it ends; a command goes on, and
    /// its replies go to the topic of replies.
    pub(super) fn on_admin_left(&mut self, now: Now, id: u64) {
        if let Some(Listener::Values {
            device,
            path,
            begun: true,
        }) = self.live.remove(id)
            && !self.is_listened_to(device, &path)
            && self.is_observed(device, &path)
        {
            self.server
                .operate(now, device, Operation::CancelObserve(path.into()));
        }
    }

    /// Begins a command for a listener. What it comes to, even at once, is told as a reply.
    fn begin_for(&mut self, now: Now, id: u64, device: DeviceId, verb: Verb<'_>, mut body: Json) {
        let name = self.device(device).map(|it| it.name.clone());
        let name = name.unwrap_or_default();
        let resolved = self.resolve(device, &mut body);
        let payload = body.to_string().into_bytes();
        let (body, mistake) = Body::parse(&payload);
        let asker = self.asker_on_line(id, &name, &body);
        let refusal = [resolved.err(), mistake].into_iter().flatten().next();
        let outcome = match refusal {
            Some(error) => Err(error),
            None => self.begin(now, asker.clone(), &name, verb, (&payload, &body), None),
        };
        if let Err(error) = outcome {
            let reply = Reply {
                device: &name,
                op: verb.name(),
                error: Some(error),
                ..Reply::default()
            };
            self.answer(now, &asker, Status::Failed, reply);
        }
    }

    /// Replaces names of signals by their paths, in `path` and `paths`.
    fn resolve(&self, device: DeviceId, body: &mut Json) -> Result<(), CommandError> {
        let Some(body) = body.as_object_mut() else {
            return Ok(());
        };
        let texts = body.iter_mut().flat_map(|(key, value)| {
            let texts: &mut [Json] = match (key.as_str(), value) {
                ("paths", Json::Array(texts)) => texts,
                ("path", text) => std::slice::from_mut(text),
                _ => &mut [],
            };
            texts
        });
        for text in texts {
            if let Some(name) = text.as_str() {
                *text = self.node(device, name)?.to_string().into();
            }
        }
        Ok(())
    }

    /// The node that a person means: a path, or `<inst>/<name>` of a signal.
    fn node(&self, device: DeviceId, text: &str) -> Result<Path, CommandError> {
        match (text.parse(), text.split_once('/')) {
            (Err(_), Some((instance, name))) if !text.starts_with('/') => {
                Ok(self.signal(device, instance, name)?.path)
            }
            (Ok(path), _) => Ok(path),
            (Err(error), _) => Err(CommandError::parse(format!(
                "{}: {error}; a node is a path, /3/0/9, or the name of a signal, device-0/battery-level",
                text.escape_debug()
            ))),
        }
    }

    /// The device of this name: that of its topics, the operator's, or its endpoint name.
    fn named(&self, name: &str) -> Result<DeviceId, AdminError> {
        let by_topic = self.by_name.get(name).copied();
        let by_record = || {
            let record = self.server.book().find(name)?;
            self.server.device_of(&record.endpoint)
        };
        by_topic
            .or_else(by_record)
            .or_else(|| self.server.device_of(name))
            .filter(|id| self.device(*id).is_some_and(|device| !device.removed))
            .ok_or_else(|| unknown(name))
    }

    fn is_observed(&self, device: DeviceId, path: &Path) -> bool {
        let registration = self.server.registration(device);
        registration.is_some_and(|it| it.observed().any(|observed| observed.node() == Some(path)))
    }

    fn is_listened_to(&self, device: DeviceId, path: &Path) -> bool {
        let listens = |listener: &Listener| matches!(listener, Listener::Values { device: of, path: at, .. } if *of == device && at == path);
        self.live.listeners.values().any(listens)
    }

    /// Says a reply to the one on the command line who asked; whether somebody did.
    pub(super) fn reply_on_line(&mut self, asker: &Asker, reply: &Reply<'_>) -> bool {
        let Some(id) = asker.line else {
            return false;
        };
        let Some(listener) = self.live.listeners.get(&id).copied() else {
            return false;
        };
        let ends = match listener {
            Listener::Values { device, path, .. } => {
                let stands = reply.status == Status::Done && self.is_observed(device, &path);
                reply.is_final && !stands
            }
            _ => reply.is_final,
        };
        if let Ok(line) = serde_json::to_value(reply) {
            self.tell_listener(id, &line, !ends);
        }
        true
    }

    /// One line of an answer; `more` says that others follow.
    fn tell_listener(&mut self, id: u64, line: &Json, more: bool) {
        if !more {
            self.live.remove(id);
        }
        let reply = if more {
            json!({ "ok": true, "more": true, "result": line })
        } else {
            json!({ "ok": true, "result": line })
        };
        self.outputs.push_back(Output::Admin {
            id,
            reply: reply.to_string(),
            more,
        });
    }

    /// Shows what the server said to those who listen for it.
    pub(super) fn look_on(&mut self, event: &server::Event) {
        if self.live.listeners.is_empty() {
            return;
        }
        match event {
            server::Event::Notified {
                device,
                target,
                records,
                ..
            } => self.show_values(*device, target, records),
            server::Event::Updated {
                device,
                changed: false,
            } => self.show_of(*device, || json!({ "what": "update" })),
            server::Event::Completed {
                device,
                asked,
                result,
                ..
            } => {
                let (code, detail) = match result {
                    Ok(answer) => (answer.code.map(|code| code.to_string()), None),
                    Err(error) => (None, Some(error.to_string())),
                };
                self.show_of(*device, || {
                    json!({
                        "what": "operation",
                        "op": asked.name(),
                        "path": asked.target().to_string(),
                        "code": code,
                        "error": detail,
                    })
                });
            }
            server::Event::Registered { device, .. } => self.end_values(
                *device,
                None,
                "the device registered anew, so its observations are over",
            ),
            server::Event::Deregistered(device)
            | server::Event::Expired { device, .. }
            | server::Event::Revoked { device, .. } => {
                self.end_values(*device, None, "the device is not registered any more")
            }
            server::Event::ObservationEnded {
                device,
                target,
                code,
            } => {
                let detail = format!("the device ended the observation of {target} with {code:?}");
                self.end_values(*device, Some(target), &detail);
            }
            _ => {}
        }
    }

    /// Values of a notification, to those who observe and those who watch.
    fn show_values(&mut self, device: DeviceId, observed: &Target, records: &[Record]) {
        let wanting: Vec<_> = self
            .live
            .listeners
            .iter()
            .filter_map(|(id, listener)| match listener {
                Listener::Values {
                    device: of, path, ..
                } if *of == device => Some((*id, *path)),
                _ => None,
            })
            .collect();
        for (id, path) in wanting {
            let inside = records.iter().filter(|record| path.contains(&record.path));
            for record in inside.filter(|record| !holds_keys(&record.path)) {
                let line = self.value_line(device, record);
                self.tell_listener(id, &line, true);
            }
        }
        if self.live.watching > 0 {
            let open = records.iter().filter(|record| !holds_keys(&record.path));
            let values: Map<String, Json> = open
                .take(VALUES_SHOWN)
                .map(|record| (record.path.to_string(), to_json(&record.value)))
                .collect();
            self.show_of(device, || {
                json!({
                    "what": "notification",
                    "path": observed.to_string(),
                    "values": values,
                    "left_out": records.len() - values.len(),
                })
            });
        }
    }

    fn value_line(&self, id: DeviceId, record: &Record) -> Json {
        let device = self.device(id);
        let mut line = json!({
            "device": device.map(|it| &*it.name),
            "path": record.path.to_string(),
            "value": self.mapped(id, record),
            "time": record.time.unwrap_or(self.live.now).to_string(),
        });
        let destination = device
            .zip(DeviceFacts::of(&self.server, id))
            .map(|(device, facts)| {
                let profile = &device.profile;
                profile.signal(&device.name, &facts, &record.path, &self.models)
            });
        if let Some(Destination::Signal(signal)) = destination {
            line["signal"] = format!("{}/{}", signal.instance, signal.name).into();
            if let Some(unit) = &signal.unit {
                line["unit"] = (**unit).into();
            }
        }
        line
    }

    /// Ends the answers to those who observe a device, or one node of it.
    fn end_values(&mut self, device: DeviceId, target: Option<&Target>, detail: &str) {
        let ends = |listener: &Listener| match listener {
            Listener::Values {
                device: of, path, ..
            } => *of == device && target.is_none_or(|target| target.node() == Some(path)),
            _ => false,
        };
        let over: Vec<_> = self
            .live
            .listeners
            .iter()
            .filter(|(_, listener)| ends(listener))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.live.remove(id);
            let error = AdminError::new("offline", detail);
            self.outputs.push_back(Output::Admin {
                id,
                reply: json!({ "ok": false, "error": error }).to_string(),
                more: false,
            });
        }
    }

    /// Shows a line of the LwM2M side to those who watch this device.
    fn show_of(&mut self, device: DeviceId, line: impl Fn() -> Json) {
        let name = self.device(device).map(|it| it.name.clone());
        let lwm2m = || {
            let mut line = line();
            line["side"] = "lwm2m".into();
            line["device"] = name.as_deref().into();
            line
        };
        self.show_if(|_, wanted| wanted == device, lwm2m);
    }

    /// Shows an event, about whomever it is.
    pub(super) fn show_event(&mut self, event: &Event) {
        if self.live.watching == 0 {
            return;
        }
        let Ok(said) = serde_json::to_value(event) else {
            return;
        };
        let about = |gateway: &Self, wanted: DeviceId| {
            let name = gateway.device(wanted).map(|it| &*it.name);
            let endpoint = gateway.server.endpoint_name(wanted).map(|it| &**it);
            name.is_some()
                && (said["device"].as_str() == name || said["endpoint"].as_str() == endpoint)
        };
        self.show_if(about, || {
            json!({ "side": "lwm2m", "what": "event", "text": event.to_string(), "event": said })
        });
    }

    /// Shows a message that goes to the broker.
    pub(super) fn show_publish(&mut self, publish: &Publish) {
        if self.live.watching == 0 {
            return;
        }
        let about = |gateway: &Self, wanted: DeviceId| {
            let endpoint = gateway.server.endpoint_name(wanted).map(|it| &**it);
            let user = publish.properties.iter().flat_map(|it| &it.user);
            gateway.is_topic_of(&publish.topic, wanted)
                || user
                    .into_iter()
                    .any(|(key, value)| key == "ep" && Some(&**value) == endpoint)
        };
        self.show_if(about, || {
            json!({
                "side": "mqtt",
                "what": "publish",
                "topic": &*publish.topic,
                "payload": shown(&publish.payload),
                "bytes": publish.payload.len(),
                "retain": publish.retain,
            })
        });
    }

    /// Shows a message that came from the broker.
    pub(super) fn show_message(&mut self, message: &Message) {
        if self.live.watching == 0 {
            return;
        }
        // Whatever was put into a request to the gateway itself might be a key.
        let is_admin = self.topics.parse_admin(&message.topic).is_some();
        let payload = shown(if is_admin { &[] } else { &message.payload });
        let about = |gateway: &Self, wanted: DeviceId| gateway.is_topic_of(&message.topic, wanted);
        self.show_if(about, || {
            json!({
                "side": "mqtt",
                "what": "request",
                "topic": &message.topic,
                "payload": payload,
                "bytes": message.payload.len(),
                "retain": message.retain,
            })
        });
    }

    fn is_topic_of(&self, topic: &str, device: DeviceId) -> bool {
        self.device(device).is_some_and(|device| {
            let birth = self.topics.birth(&device.name);
            let rest = topic.strip_prefix(&*birth);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// Shows a line to those who watch everything, and to those who watch a device that it is about.
    fn show_if(&mut self, about: impl Fn(&Self, DeviceId) -> bool, line: impl FnOnce() -> Json) {
        if self.live.watching == 0 {
            return;
        }
        let wanting: Vec<_> = self
            .live
            .listeners
            .iter()
            .filter(|(_, listener)| match listener {
                Listener::Everything(wanted) => wanted.is_none_or(|wanted| about(self, wanted)),
                _ => false,
            })
            .map(|(id, _)| *id)
            .collect();
        if wanting.is_empty() {
            return;
        }
        let mut line = line();
        line["time"] = self.live.now.to_string().into();
        for id in wanting {
            self.tell_listener(id, &line, true);
        }
    }
}

/// A payload as far as it is text and not too long.
fn shown(payload: &[u8]) -> String {
    let cut = payload.get(..SHOWN_MAX).unwrap_or(payload);
    String::from_utf8_lossy(cut).into_owned()
}
