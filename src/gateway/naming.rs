//! What devices are called in topics: the operator's word first, then the mapping's, then the
//! endpoint name. Under another name everything of a device moves, and nothing is left behind
//! (MQTT contract §6, "Renamed").

use std::sync::Arc;

use crate::gateway::publish::Publish;
use crate::gateway::{Event, Gateway};
use crate::kept::Urgency;
use crate::mapping::{DeviceFacts, suffixed};
use crate::server::DeviceId;
use crate::time::Now;

/// What a device may be called that is to be called `wanted`: that, or with a suffix when another one
/// has it. The last resort is for a name that was made to look like another device's suffixed one.
fn candidates(wanted: &str, endpoint: &str, id: DeviceId) -> [String; 4] {
    let numbered = format!("{}-{wanted}", id.0);
    [
        wanted.to_owned(),
        suffixed(wanted, endpoint),
        suffixed(&numbered, endpoint),
        numbered,
    ]
}

impl Gateway {
    /// The topic name of a device: what is wanted, with a suffix when another has it.
    pub(super) fn claim_name(&mut self, wanted: &str, endpoint: &str, id: DeviceId) -> Arc<str> {
        let names = candidates(wanted, endpoint, id);
        let free = names
            .iter()
            .find(|name| !self.by_name.contains_key(name.as_str()));
        let name: Arc<str> = free.or(names.last()).map_or(wanted, String::as_str).into();
        self.by_name.insert(name.clone(), id);
        name
    }

    /// Brings a device to the name that the operator, or else its profile, has for it now. One that
    /// has a suffix because the name was taken keeps it.
    pub(super) fn settle_name(&mut self, now: Now, id: DeviceId) {
        let (Some(endpoint), Some(device)) = (
            self.server.endpoint_name(id).cloned(),
            self.device(id).filter(|device| !device.removed),
        ) else {
            return;
        };
        let wanted = match self.server.book().name_of(&endpoint) {
            Some(name) => name.to_string(),
            None => match DeviceFacts::of(&self.server, id) {
                Some(facts) => device.profile.device_name(&facts),
                None => return,
            },
        };
        let is_its = |name: &String| **name == *device.name;
        if !candidates(&wanted, &endpoint, id).iter().any(is_its) {
            self.rename(now, id, &wanted, &endpoint);
        }
    }

    /// The same, of the device with this endpoint name.
    pub(super) fn settle_name_of(&mut self, now: Now, endpoint: &str) {
        if let Some(id) = self.server.device_of(endpoint) {
            self.settle_name(now, id);
        }
    }

    /// The operator may call any device otherwise now.
    pub(super) fn settle_names(&mut self, now: Now) {
        for id in (0..self.devices.len() as u32).map(DeviceId) {
            self.settle_name(now, id);
        }
    }

    /// What stood under the old name is deleted, availability first as for a device that is removed,
    /// and stands under the new one. Values go along with their times.
    fn rename(&mut self, now: Now, id: DeviceId, wanted: &str, endpoint: &str) {
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        let (old, profile) = (device.name.clone(), device.profile.clone());
        let (was_born, queue_shown) = (device.birth.take().is_some(), device.queue_shown);
        let targets: Vec<_> = device
            .targets
            .keys()
            .map(|label| format!("target/{label}"))
            .collect();
        self.publish(Publish::deletion(self.topics.device(&old, "availability")));
        if was_born {
            self.publish(Publish::deletion(self.topics.birth(&old)));
        }
        for target in targets {
            self.publish(Publish::deletion(self.topics.device(&old, &target)));
        }
        if queue_shown {
            self.publish(Publish::deletion(self.topics.device(&old, "queue")));
        }
        let update = self.update_message(id);
        if let Some(update) = &update {
            self.publish(Publish::deletion(update.topic.clone()));
        }
        self.by_name.remove(&old);
        let name = self.claim_name(wanted, endpoint, id);
        if let Some(device) = self.device_mut(id) {
            device.name = name.clone();
        }
        self.publish_availability(now, id);
        self.rename_signals(id, &profile);
        if was_born {
            self.publish_birth(id);
        }
        let pending = self.pending_of(id);
        let update = update.and_then(|_| self.update_message(id));
        for publish in pending.into_iter().chain(update) {
            self.publish(publish);
        }
        self.keep_descriptor(id, Urgency::Now);
        self.report(
            now,
            Event::DeviceRenamed {
                device: name.to_string(),
                was: old.to_string(),
            },
        );
    }
}
