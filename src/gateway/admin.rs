//! Administration: the same verbs for the command line, through the shell's socket, and for MQTT on
//! `{base}/bridge/request/<verb>` as far as `[mqtt] admin` lets (MQTT contract §3).

pub mod book;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use self::book::{Arguments, Entry, Keys};
use crate::gateway::audit::Find;
use crate::gateway::command::Asker;
use crate::gateway::publish::{Message, Properties, Publish};
use crate::gateway::{Event, Gateway, Output, Purpose};
use crate::server::bootstrap::no_trigger;
use crate::server::credentials::{Authority, Files, Join};
use crate::time::Now;

/// The longest that a join window may be opened for.
const WINDOW_MAX: Duration = Duration::from_secs(86_400);

/// Which verbs are served on MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdminAccess {
    /// None.
    Off,
    /// Those that change nothing.
    #[default]
    Read,
    /// All; keys are neither taken nor shown in any case.
    All,
}

/// Why a request was not carried out. It repeats nothing that might be a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{detail}")]
pub struct AdminError {
    /// A short name, of the list of MQTT contract §5 where that has one.
    pub kind: &'static str,
    /// A sentence.
    pub detail: String,
}

impl AdminError {
    pub(super) fn new(kind: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
        }
    }

    pub(super) fn parse(detail: String) -> Self {
        Self::new("parse", detail)
    }

    fn access(detail: &str) -> Self {
        Self::new("access", detail)
    }
}

/// Whether a verb changes nothing; `None` when there is no such verb.
fn is_reading(verb: &str) -> Option<bool> {
    Some(match verb {
        "device/list" | "device/show" | "status" | "firmware/status" | "firmware/list" => true,
        "firmware/start" | "firmware/cancel" => false,
        "device/add" | "device/remove" | "device/rename" | "device/approve" => false,
        "device/bootstrap" | "permit_join" => false,
        "retained/audit" => true,
        "mapping/reload" | "retained/clean" => false,
        _ => return None,
    })
}

/// Who waits for the answer to a request that takes a while.
#[derive(Debug)]
pub(super) enum Waiter {
    /// The machine itself, by the number of its request.
    Here(u64),
    /// Somebody on MQTT.
    There(Asker),
}

impl Gateway {
    /// Takes the files of devices as they are now. The mistakes that only show between them are
    /// given back.
    pub fn replace_files(&mut self, now: Now, files: Files) -> Vec<crate::diagnostic::Diagnostic> {
        let found = self.server.with_book(now, |book| book.replace_files(files));
        self.settle_names(now);
        self.pump(now);
        found
    }

    /// The authorities of the configuration itself, whose devices may come in under any name of
    /// their certificate.
    pub fn trust(&mut self, now: Now, authorities: Vec<Authority>) {
        self.server
            .with_book(now, |book| book.trust_always(authorities));
        self.pump(now);
    }

    /// Answers a request of the machine itself: a JSON object with the `verb` and its arguments.
    /// Each line of the answer is `{"ok":true,"result":…}` or `{"ok":false,"error":{"kind","detail"}}`;
    /// one with `"more":true` is not the last.
    pub(super) fn on_admin(&mut self, now: Now, id: u64, request: &[u8]) {
        let outcome = serde_json::from_slice::<Map<String, Json>>(request)
            // The words of the parser could repeat a value.
            .map_err(|_| AdminError::parse("the request is not a JSON object".to_owned()))
            .and_then(|mut object| match object.remove("verb") {
                Some(Json::String(verb)) => match self.on_lasting_admin(now, id, &verb, &object) {
                    Some(begun) => begun.map(|()| None),
                    None => self.admin(now, &verb, &object, Keys::Accepted, Waiter::Here(id)),
                },
                _ => Err(AdminError::parse("the request has no \"verb\"".to_owned())),
            });
        // What is to be stored comes before the answer that says it is.
        self.pump(now);
        // `None` is answered later.
        if let Some(outcome) = outcome.transpose() {
            self.answer_here(id, outcome);
        }
    }

    fn answer_here(&mut self, id: u64, outcome: Result<Json, AdminError>) {
        let reply = match outcome {
            Ok(result) => json!({ "ok": true, "result": result }),
            Err(error) => json!({ "ok": false, "error": error }),
        };
        self.outputs.push_back(Output::Admin {
            id,
            reply: reply.to_string(),
            more: false,
        });
    }

    /// Answers one who waited.
    pub(super) fn answer_waiter(
        &mut self,
        now: Now,
        verb: &str,
        waiter: Waiter,
        outcome: Result<Json, AdminError>,
    ) {
        match waiter {
            Waiter::Here(id) => self.answer_here(id, outcome),
            Waiter::There(asker) => self.answer_admin(now, verb, &asker, outcome),
        }
    }

    /// Carries out one verb: the answer, or `None` when the waiter gets it later.
    fn admin(
        &mut self,
        now: Now,
        verb: &str,
        object: &Map<String, Json>,
        keys: Keys,
        waiter: Waiter,
    ) -> Result<Option<Json>, AdminError> {
        match verb {
            "mapping/reload" => {
                Arguments::new(object, &[])?;
                self.reload_mappings(waiter).map(|()| None)
            }
            "retained/audit" | "retained/clean" => {
                Arguments::new(object, &[])?;
                let find = match verb {
                    "retained/clean" => Find::Delete,
                    _ => Find::Tell,
                };
                self.audit(find, waiter).map(|()| None)
            }
            _ => self.admin_now(now, verb, object, keys).map(Some),
        }
    }

    /// The same of a verb that is answered at once.
    fn admin_now(
        &mut self,
        now: Now,
        verb: &str,
        object: &Map<String, Json>,
        keys: Keys,
    ) -> Result<Json, AdminError> {
        match is_reading(verb) {
            None => {
                return Err(AdminError::new(
                    "unknown_command",
                    format!("there is no verb \"{}\"", verb.escape_debug()),
                ));
            }
            Some(false) if !self.settings.has_store => {
                return Err(AdminError::new(
                    "internal",
                    "this agent runs without a store, so nothing can be changed; see [store] path",
                ));
            }
            Some(_) => {}
        }
        match verb {
            "device/list" => {
                Arguments::new(object, &[])?;
                Ok(to_json(&self.entries()))
            }
            "device/show" => self.show(object),
            "device/add" => {
                let added = self
                    .server
                    .with_book(now, |book| book::add(book, now, object, keys))?;
                self.settle_name_of(now, &added.endpoint);
                Ok(to_json(&self.seen(added)))
            }
            "device/rename" => self.rename_device(now, object),
            "device/remove" => self
                .server
                .with_book(now, |book| book::remove(book, object)),
            "device/approve" => {
                let approved = self
                    .server
                    .with_book(now, |book| book::approve(book, now, object))?;
                self.settle_name_of(now, &approved.endpoint);
                Ok(to_json(&self.seen(approved)))
            }
            "permit_join" => self.permit_join(now, object),
            "firmware/start" => self.start_update(now, object),
            "firmware/cancel" => self.cancel_update(now, object),
            "firmware/status" => self.update_status(object),
            "firmware/list" => self.image_list(object),
            "device/bootstrap" => {
                let name = Arguments::new(object, &["name"])?.required("name")?;
                self.start_bootstrap(now, name)
            }
            _ => {
                Arguments::new(object, &[])?;
                Ok(self.status(now))
            }
        }
    }

    /// Every device that has a record, and those that are or were here without one.
    fn entries(&self) -> Vec<Entry> {
        let book = self.server.book();
        let mut entries: Vec<Entry> = book::entries(book)
            .into_iter()
            .map(|entry| self.seen(entry))
            .collect();
        for (index, device) in self.devices.iter().enumerate() {
            let id = crate::server::DeviceId(index as u32);
            if let Some(endpoint) = self.server.endpoint_name(id)
                && !device.removed
                && book.record_of(endpoint).is_none()
                && book.grant_of(endpoint).is_none()
            {
                entries.push(self.seen(Entry::unlisted(endpoint)));
            }
        }
        entries
    }

    /// Adds to an entry what is known of the device itself.
    fn seen(&self, mut entry: Entry) -> Entry {
        let device = self
            .server
            .device_of(&entry.endpoint)
            .and_then(|id| self.device(id))
            .filter(|device| !device.removed);
        entry.state = Some(device.map_or("never_seen", |device| device.availability.state.name()));
        if let Some(device) = device {
            entry.last_seen = Some(device.availability.last_seen.to_string());
            entry.topic_name = Some(device.name.to_string());
        }
        entry
    }

    fn show(&self, object: &Map<String, Json>) -> Result<Json, AdminError> {
        let name = Arguments::new(object, &["name"])?.required("name")?;
        let entries = self.entries();
        let entry = entries
            .iter()
            .find(|entry| entry.name == name)
            .or_else(|| entries.iter().find(|entry| entry.endpoint == name))
            .ok_or_else(|| unknown(name))?;
        let mut shown = to_json(entry);
        let registration = self
            .server
            .device_of(&entry.endpoint)
            .and_then(|id| self.server.registration(id));
        if let (Some(registration), Json::Object(shown)) = (registration, &mut shown) {
            let objects = registration.objects.objects.iter();
            let objects: BTreeMap<String, usize> = objects
                .map(|object| (object.id.to_string(), object.instances.len()))
                .collect();
            shown.insert(
                "registration".to_owned(),
                json!({
                    "lwm2m": registration.version.to_string(),
                    "address": self.address(registration.peer),
                    "lifetime": registration.terms.lifetime().map(|it| it.as_secs()),
                    "expires": registration.expires().map(|at| at.unix.to_string()),
                    "queue_mode": registration.queue_mode(),
                    "instances_by_object": objects,
                }),
            );
        }
        Ok(shown)
    }

    /// `{"name", "to"}`: what a device is called, at the gateway and in topics.
    fn rename_device(&mut self, now: Now, object: &Map<String, Json>) -> Result<Json, AdminError> {
        let renamed = self
            .server
            .with_book(now, |book| book::rename(book, object))
            .map_err(|error| self.without_record(object).unwrap_or(error))?;
        self.settle_name_of(now, &renamed.endpoint);
        Ok(to_json(&self.seen(renamed)))
    }

    /// What to tell of a device that is here and has no record that could bear a name.
    fn without_record(&self, object: &Map<String, Json>) -> Option<AdminError> {
        let name = object.get("name")?.as_str()?;
        let entry = self
            .entries()
            .into_iter()
            .find(|entry| *entry.endpoint == *name || entry.topic_name.as_deref() == Some(name))?;
        let endpoint = entry.endpoint;
        let record = self.server.book().record_of(&endpoint);
        record.is_none().then(|| {
            let shown = endpoint.escape_debug();
            AdminError::new(
                "conflict",
                format!(
                    "\"{shown}\" was never entered, so nothing bears its name: `lwm2mqtt device approve {shown} --name NAME` lets it in without security under a name, `lwm2mqtt device add NAME --endpoint {shown}` with a credential"
                ),
            )
        })
    }

    /// `{"seconds"}`: opens the join window for so long, or closes it.
    fn permit_join(&mut self, now: Now, object: &Map<String, Json>) -> Result<Json, AdminError> {
        let seconds = Arguments::new(object, &["seconds"])?.number("seconds")?;
        // With "open" it is still what keys end with that are given without security.
        if self.server.book().join() == Join::Known {
            return Err(AdminError::new(
                "conflict",
                "join is \"known\", so a window would open nothing; write `join = \"window\"` under [devices], or approve the device by its name",
            ));
        }
        let duration = Duration::from_secs(seconds);
        if duration > WINDOW_MAX {
            return Err(AdminError::new(
                "range",
                format!(
                    "a join window is open for {} s at most",
                    WINDOW_MAX.as_secs()
                ),
            ));
        }
        if duration.is_zero() {
            let was_open = self.server.with_book(now, |book| book.close_window(now));
            if was_open {
                self.report(now, Event::JoinWindowClosed);
            }
        } else {
            self.server
                .with_book(now, |book| book.open_window(now, duration));
            self.report(now, Event::JoinWindowOpened { seconds });
        }
        Ok(json!({ "seconds": seconds }))
    }

    /// Makes a device bootstrap again, by name or endpoint. What becomes of it is told by events.
    fn start_bootstrap(&mut self, now: Now, name: &str) -> Result<Json, AdminError> {
        let record = self.server.book().find(name);
        let endpoint = record
            .as_ref()
            .map_or(name, |record| record.endpoint.as_ref());
        let Some(device) = self.server.device_of(endpoint) else {
            return Err(match record {
                Some(_) => AdminError::new(
                    "offline",
                    "the device has not registered here; it bootstraps by itself when it is switched on",
                ),
                None => unknown(name),
            });
        };
        let Some(registration) = self.server.registration(device) else {
            return Err(AdminError::new(
                "offline",
                "the device is not registered now; it bootstraps by itself when it cannot register",
            ));
        };
        if let Some(reason) = no_trigger(registration) {
            return Err(AdminError::new("unknown_command", reason));
        }
        let endpoint = endpoint.to_owned();
        let operation = self.server.bootstrap(now, device);
        self.purposes.insert(operation, Purpose::Bootstrap);
        Ok(json!({ "endpoint": endpoint, "asked": true }))
    }

    /// What a person wants to see at one glance.
    fn status(&self, now: Now) -> Json {
        let book = self.server.book();
        let mut devices = self.by_state();
        devices.insert("entered", book.len());
        let mut warnings = Vec::new();
        if book.join() == Join::Open {
            warnings.push("join is \"open\": anyone whom the transport lets in may register, under any name that has no credential".to_owned());
        }
        let listeners = &self.settings.server.listeners;
        for listener in listeners {
            if !listener.secure {
                let uri = &listener.uri;
                warnings.push(format!("{uri} is without security: anyone who reaches it can pretend to be a device that has no credential"));
            }
        }
        if !self.settings.has_store {
            warnings.push(
                "there is no store: no device can be added, and what joins is forgotten at the end"
                    .to_owned(),
            );
        }
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "gateway": self.settings.id,
            "since": self.started.unix.to_string(),
            "uptime": now.instant.since(self.started.instant).as_secs(),
            "listeners": listeners.iter().map(|listener| &listener.uri).collect::<Vec<_>>(),
            "sessions": self.server.sessions(),
            "broker": { "connected": self.broker.may_publish() },
            "spool": self.spool_health(),
            "devices": devices,
            "join": {
                "policy": match book.join() {
                    Join::Known => "known",
                    Join::Window => "window",
                    Join::Open => "open",
                },
                "window": book.window(now).map_or(0, |left| left.as_secs_f64().ceil() as u64),
            },
            "warnings": warnings,
            "counters": self.named_counters(),
        })
    }

    /// Whatever was counted, by name; what a layer counts begins with the layer's.
    fn named_counters(&self) -> BTreeMap<String, u64> {
        let layers = [
            ("", to_json(&self.counters)),
            ("coap_", to_json(&self.server.counters())),
            ("dtls_", to_json(&self.server.dtls_counters())),
            ("outbox_", to_json(self.outbox.counters())),
        ];
        let named = |(prefix, counters): &(&str, Json)| -> Vec<(String, u64)> {
            let all = counters.as_object().into_iter().flatten();
            all.filter_map(|(name, value)| Some((format!("{prefix}{name}"), value.as_u64()?)))
                .collect()
        };
        layers.iter().flat_map(named).collect()
    }

    /// A request on `{base}/bridge/request/<verb>`.
    pub(super) fn on_admin_message(&mut self, now: Now, verb: &str, message: &Message) {
        let parsed = if message.payload.len() > self.limits.request {
            Err(AdminError::parse(format!(
                "the request is larger than {} bytes",
                self.limits.request
            )))
        } else if message.payload.is_empty() {
            Ok(Map::new())
        } else {
            serde_json::from_slice(&message.payload)
                .map_err(|_| AdminError::parse("the request is not a JSON object".to_owned()))
        };
        let (mut object, mistake) = match parsed {
            Ok(object) => (object, None),
            Err(error) => (Map::new(), Some(error)),
        };
        let mut text = |key| match object.remove(key) {
            Some(Json::String(text)) => Some(text),
            _ => None,
        };
        let (id, reply_to) = (text("id"), text("reply_to"));
        let (asker, bad_reply) = self.admin_asker(verb, id, reply_to, message);
        let refusal = [
            message
                .retain
                .then(|| AdminError::new("retained", "a retained request is not carried out")),
            mistake,
            bad_reply,
            self.stopping
                .then(|| AdminError::new("shutting_down", "the gateway is stopping")),
            self.admin_refusal(verb),
        ]
        .into_iter()
        .flatten()
        .next();
        let outcome = match refusal {
            Some(error) => Err(error),
            None => {
                let waiter = Waiter::There(asker.clone());
                self.admin(now, verb, &object, Keys::Refused, waiter)
            }
        };
        if let Some(outcome) = outcome.transpose() {
            self.answer_admin(now, verb, &asker, outcome);
        }
    }

    /// Whether `[mqtt] admin` keeps a verb away from MQTT.
    fn admin_refusal(&self, verb: &str) -> Option<AdminError> {
        let allowed = match (self.settings.admin, is_reading(verb)) {
            // That there is no such verb is said later.
            (_, None) | (AdminAccess::All, _) => true,
            (AdminAccess::Read, Some(reading)) => reading,
            (AdminAccess::Off, _) => false,
        };
        (!allowed).then(|| {
            AdminError::access(
                "[mqtt] admin does not allow this; use the command line on the gateway",
            )
        })
    }

    /// Who asks, and whether the answer may go where they want it.
    fn admin_asker(
        &mut self,
        verb: &str,
        id: Option<String>,
        reply_to: Option<String>,
        message: &Message,
    ) -> (Asker, Option<AdminError>) {
        let usual = self.topics.bridge(&format!("response/{verb}"));
        let (asker, objection) = self.asker_of(id, reply_to.as_deref(), message, usual);
        (asker, objection.map(AdminError::parse))
    }

    fn answer_admin(
        &mut self,
        now: Now,
        verb: &str,
        asker: &Asker,
        outcome: Result<Json, AdminError>,
    ) {
        #[derive(Serialize)]
        struct Payload<'a> {
            id: &'a str,
            op: &'a str,
            status: &'a str,
            #[serde(rename = "final")]
            is_final: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            result: Option<Json>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<AdminError>,
            time: String,
        }
        let (result, error) = match outcome {
            Ok(result) => (Some(result), None),
            Err(error) => (None, Some(error)),
        };
        let payload = Payload {
            id: &asker.id,
            op: verb,
            status: if error.is_none() { "done" } else { "failed" },
            is_final: true,
            result,
            error,
            time: now.unix.to_string(),
        };
        let properties = Properties {
            content_type: Some("application/json"),
            correlation: asker.correlation.clone(),
            ..Properties::default()
        };
        if let Ok(payload) = serde_json::to_vec(&payload) {
            self.publish(Publish {
                properties: Some(std::sync::Arc::new(properties)),
                ..Publish::event(asker.topic.clone(), payload)
            });
        }
    }
}

pub(super) fn unknown(name: &str) -> AdminError {
    AdminError::new(
        "unknown_device",
        format!(
            "no device is called \"{}\"; `lwm2mqtt device list` shows them all",
            name.escape_debug()
        ),
    )
}

fn to_json(value: &impl Serialize) -> Json {
    serde_json::to_value(value).unwrap_or_default()
}
