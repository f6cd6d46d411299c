//! What the server keeps of each device.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::coap::{ExchangeId, ObservationId, Peer};
use crate::dtls::PeerIdentity;
use crate::lwm2m::model::{DeviceTypes, Models, Version};
use crate::lwm2m::{Id, ObjectList, Path};
use crate::server::formats::Formats;
use crate::server::operation::Operation;
use crate::server::registration::Terms;
use crate::time::Now;

/// A device, by its endpoint name. The number stays with the name as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u32);

/// An operation that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// An endpoint, registered or not.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) endpoint: Arc<str>,
    pub(super) registration: Option<Registration>,
}

/// A registration (LwM2M Core 1.1 §6.2).
#[derive(Debug)]
pub struct Registration {
    /// The second segment of the location `/rd/{location}`.
    pub location: Box<str>,
    /// Where the device is.
    pub peer: Peer,
    /// Who it has proven to be; `None` without security.
    pub identity: Option<Arc<PeerIdentity>>,
    /// The enabler version that it registered with.
    pub version: Version,
    /// Lifetime, binding and queue mode.
    pub terms: Terms,
    /// Its objects.
    pub objects: ObjectList,
    /// The last Register or Update.
    pub refreshed: Now,
    pub(super) formats: Formats,
    pub(super) observations: Vec<(Path, ObservationId)>,
    pub(super) running: Option<ExchangeId>,
    pub(super) queue: VecDeque<Queued>,
}

/// An operation that waits for the one before it: a device is asked one thing at a time
/// (LwM2M Transport 1.1 §6.4, NSTART = 1).
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) id: OperationId,
    pub(super) operation: Operation,
}

impl Registration {
    /// When the lifetime ends; `None` when it is endless.
    pub fn expires(&self) -> Option<Now> {
        Some(self.refreshed + self.terms.lifetime()?)
    }

    /// When the server gives the device up: the end of the lifetime and a grace for the last
    /// Update that is still being retransmitted.
    pub(super) fn deadline(&self, grace: Duration) -> Option<Now> {
        Some(self.expires()? + grace)
    }

    /// Whether the device sleeps between contacts.
    pub fn queue_mode(&self) -> bool {
        self.terms.queue_mode.unwrap_or(false)
    }

    /// The binding, `U` when the device named none.
    pub fn binding(&self) -> &str {
        self.terms.binding.as_deref().unwrap_or("U")
    }

    /// Whether a node of this path can be there: its object, or its instance, is registered.
    pub fn has(&self, path: &Path) -> bool {
        let objects = &self.objects.objects;
        let object = path
            .object_id()
            .and_then(|id| objects.binary_search_by_key(&id, |object| object.id).ok());
        let instances = object
            .and_then(|index| objects.get(index))
            .map(|object| &object.instances);
        instances.is_some_and(|instances| {
            path.instance_id()
                .is_none_or(|instance| instances.contains(&instance))
        })
    }

    /// What is observed now.
    pub fn observed(&self) -> impl Iterator<Item = &Path> {
        self.observations.iter().map(|(path, _)| path)
    }

    /// The version of an object, if it is registered.
    pub fn version_of(&self, object: Id) -> Option<Version> {
        let objects = &self.objects.objects;
        let index = objects
            .binary_search_by_key(&object, |registered| registered.id)
            .ok()?;
        objects.get(index)?.version
    }

    /// The types of this device's resources, by the object versions that it registered.
    pub fn types<'a>(&'a self, models: &'a Models) -> DeviceTypes<'a> {
        DeviceTypes::new(models, self.version, &self.objects.objects)
    }
}
