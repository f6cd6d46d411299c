//! The verbs about updates, from the command line and from MQTT.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::image::Image;
use super::job::{Job, Method, Stage, Step};
use super::object::Target;
use super::{Entry, JOBS};
use crate::coap::Position;
use crate::gateway::Gateway;
use crate::gateway::admin::book::Arguments;
use crate::gateway::admin::{AdminError, unknown};
use crate::lwm2m::Path;
use crate::time::Now;

impl Gateway {
    /// Begins an update: `{"name", "file", "method", "uri", "object"}`. `file` is the name or the
    /// SHA-256 of an image, `method` is `auto`, `push` or `pull`, `object` is `/5/0` or `/9/x`.
    pub(in crate::gateway) fn start_update(
        &mut self,
        now: Now,
        object: &Map<String, Json>,
    ) -> Result<Json, AdminError> {
        let arguments = Arguments::new(object, &["name", "file", "method", "uri", "object"])?;
        let endpoint = self.endpoint_called(arguments.required("name")?)?;
        let uri = arguments.text("uri")?;
        let method = match (arguments.text("method")?.unwrap_or("auto"), uri) {
            ("auto" | "pull", Some(_)) | ("pull", None) => Some(Method::Pull),
            ("push", None) => Some(Method::Push),
            ("auto", None) => None,
            ("push", Some(_)) => {
                return Err(AdminError::parse(
                    "what is at a uri is fetched by the device: method is \"pull\"".to_owned(),
                ));
            }
            _ => {
                return Err(AdminError::parse(
                    "method is \"auto\", \"push\" or \"pull\"".to_owned(),
                ));
            }
        };
        if uri.is_some_and(|uri| uri.len() > 255) {
            return Err(AdminError::new("range", "a uri has 255 bytes at most"));
        }
        let target = match arguments.text("object")?.map(str::parse::<Path>) {
            None => Target::Firmware,
            Some(Ok(path)) => match *path.ids() {
                [5] | [5, 0] => Target::Firmware,
                [9, instance] => Target::Software(instance),
                _ => {
                    return Err(AdminError::parse(
                        "object is \"/5/0\", or an instance of object 9".to_owned(),
                    ));
                }
            },
            Some(Err(error)) => return Err(AdminError::parse(format!("object: {error}"))),
        };
        let image = match (arguments.text("file")?, uri) {
            (Some(file), _) => self.image_called(file)?,
            (None, Some(uri)) => Image {
                name: uri.to_owned(),
                sha256: super::Digest([0; 32]),
                size: 0,
            },
            (None, None) => {
                return Err(AdminError::parse(
                    "\"file\" or \"uri\" is missing".to_owned(),
                ));
            }
        };
        let known = self.firmware.jobs.get(&endpoint);
        if known.is_some_and(|entry| !entry.job.stage.is_final()) {
            return Err(AdminError::new(
                "conflict",
                "an update of this device is under way; `lwm2mqtt firmware cancel` gives it up",
            ));
        }
        if known.is_none() && self.firmware.jobs.len() >= JOBS {
            return Err(AdminError::new(
                "queue_full",
                "too many updates are remembered",
            ));
        }
        let number = self.firmware.next_number;
        self.firmware.next_number += 1;
        let job = Job {
            number,
            image,
            target,
            method,
            uri: uri.map(str::to_owned),
            token: None,
            protocols: 0,
            stage: Stage::Begun,
            told: None,
            offset: 0,
            block_size: Position::START.block_size,
            attempts: 0,
            version: None,
            result: None,
            reason: None,
            install_confirmed: false,
            since: now.unix.as_millis(),
            step: Step::Read,
            polls: 0,
            seen: None,
            registered_since: false,
            installs: 0,
            deferred: false,
        };
        self.firmware.jobs.insert(endpoint.clone(), Entry::new(job));
        self.settle_update(now, &endpoint, false);
        Ok(self.update_json(&endpoint).unwrap_or_default())
    }

    /// Gives an update up: `{"name"}`. What the device has of it stays there.
    pub(in crate::gateway) fn cancel_update(
        &mut self,
        now: Now,
        object: &Map<String, Json>,
    ) -> Result<Json, AdminError> {
        let name = Arguments::new(object, &["name"])?.required("name")?;
        let endpoint = self.endpoint_called(name)?;
        let entry = self.firmware.jobs.get_mut(&endpoint);
        let Some(entry) = entry.filter(|entry| !entry.job.stage.is_final()) else {
            return Err(AdminError::new(
                "unknown_command",
                "no update of this device is under way",
            ));
        };
        if entry.job.stage == Stage::Installing {
            return Err(AdminError::new(
                "conflict",
                "the device is installing, which cannot be undone from here",
            ));
        }
        entry.job.cancel();
        entry.running = None;
        if let Some(id) = self.server.device_of(&endpoint) {
            self.server.abandon_upload(now, id);
        }
        self.settle_update(now, &endpoint, false);
        Ok(self.update_json(&endpoint).unwrap_or_default())
    }

    /// How the updates stand: of one device, `{"name"}`, or of all.
    pub(in crate::gateway) fn update_status(
        &self,
        object: &Map<String, Json>,
    ) -> Result<Json, AdminError> {
        let Some(name) = Arguments::new(object, &["name"])?.text("name")? else {
            let all = self.firmware.jobs.keys();
            return Ok(all
                .filter_map(|endpoint| self.update_json(endpoint))
                .collect());
        };
        let endpoint = self.endpoint_called(name)?;
        let told = self.update_json(&endpoint);
        told.ok_or_else(|| AdminError::new("unknown_command", "this device has had no update"))
    }

    /// The images in the store.
    pub(in crate::gateway) fn image_list(
        &self,
        object: &Map<String, Json>,
    ) -> Result<Json, AdminError> {
        Arguments::new(object, &[])?;
        let images = self.firmware.images.values();
        Ok(images.map(|image| json!(image)).collect())
    }

    fn image_called(&self, file: &str) -> Result<Image, AdminError> {
        let digest = file.parse().ok();
        let by_digest = digest.and_then(|digest| self.firmware.images.get(&digest));
        let mut by_name = self
            .firmware
            .images
            .values()
            .filter(|image| image.name == file);
        match (by_digest, by_name.next(), by_name.next()) {
            (Some(image), ..) | (None, Some(image), None) => Ok(image.clone()),
            (None, Some(_), Some(_)) => Err(AdminError::new(
                "conflict",
                "there are several images of this name; say which one by its SHA-256",
            )),
            (None, None, _) => Err(AdminError::new(
                "parse",
                format!(
                    "no image is called \"{}\"; `lwm2mqtt firmware add FILE` brings one here",
                    file.escape_debug()
                ),
            )),
        }
    }

    /// The endpoint of a device by its name in topics, the operator's name, or itself.
    fn endpoint_called(&self, name: &str) -> Result<Arc<str>, AdminError> {
        let book = self.server.book();
        let by_topic = self
            .by_name
            .get(name)
            .filter(|id| self.device(**id).is_some_and(|device| !device.removed))
            .and_then(|id| self.server.endpoint_name(*id));
        if let Some(endpoint) = by_topic {
            return Ok(endpoint.clone());
        }
        if let Some(record) = book.find(name) {
            return Ok(record.endpoint.clone());
        }
        let seen = self.server.device_of(name);
        seen.and_then(|id| self.server.endpoint_name(id).cloned())
            .ok_or_else(|| unknown(name))
    }
}
