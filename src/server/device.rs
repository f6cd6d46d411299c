//! What the server keeps of each device.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::coap::{ExchangeId, ObservationId, Peer};
use crate::dtls::PeerIdentity;
use crate::lwm2m::model::{DeviceTypes, Models, Version};
use crate::lwm2m::path::MAX_ID;
use crate::lwm2m::{Id, ObjectList, Path, RegisteredObject, Target, Value};
use crate::server::abilities::Abilities;
use crate::server::formats::Formats;
use crate::server::operation::Operation;
use crate::server::registration::Terms;
use crate::server::wake::Wake;
use crate::time::Now;

/// The object of server accounts, and the lifetime of the registration in it.
const SERVER: Id = 1;
const LIFETIME: Id = 1;

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
    /// The last Register or Update; or the write of a lifetime that would have been over already.
    pub refreshed: Now,
    pub(super) formats: Formats,
    pub(super) abilities: Abilities,
    pub(super) observations: Vec<(Target, ObservationId)>,
    pub(super) wake: Wake,
    pub(super) running: Option<ExchangeId>,
    /// A long body on its way, beside the operations.
    pub(super) upload: Option<ExchangeId>,
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
        let object = path.object_id().and_then(|id| self.object(id));
        object.is_some_and(|object| {
            path.instance_id()
                .is_none_or(|instance| object.instances.contains(&instance))
        })
    }

    /// Takes a lifetime that was written to the account of ours at the device, if there is one
    /// among these values. Whether it is another one.
    ///
    /// It counts from the last Register or Update; but a device is not put out by the write alone:
    /// what would be over already counts from now (LwM2M Core 1.1 §6.2.2 does not say).
    pub(super) fn take_lifetime<'a>(
        &mut self,
        now: Now,
        written: impl Iterator<Item = (Path, &'a Value)>,
    ) -> bool {
        let accounts = self.object(SERVER).map(|object| &*object.instances);
        // Of several accounts nobody says which one is ours; that device sends an Update.
        let account = match accounts {
            Some(&[account]) => account,
            _ => return false,
        };
        let path = Path::resource(SERVER, account, LIFETIME);
        let last = written.filter(|(at, _)| *at == path).last();
        let lifetime = match last {
            Some((_, Value::Integer(seconds))) => u32::try_from(*seconds).ok(),
            Some((_, Value::UnsignedInteger(seconds))) => u32::try_from(*seconds).ok(),
            _ => None,
        };
        let changed = self.terms.change(Terms {
            lifetime,
            ..Terms::default()
        });
        if changed && self.expires().is_some_and(|at| at.instant <= now.instant) {
            self.refreshed = now;
        }
        changed
    }

    /// What is observed now. Of a device without composite operations, a composite observation is
    /// one for each node.
    pub fn observed(&self) -> impl Iterator<Item = &Target> {
        self.observations.iter().map(|(target, _)| target)
    }

    /// Whether it may have Read-Composite and Observe-Composite: its version knows them, and it has
    /// not refused any.
    pub fn composes(&self) -> bool {
        self.abilities.composes()
    }

    /// An object, if it is registered.
    pub fn object(&self, id: Id) -> Option<&RegisteredObject> {
        let objects = &self.objects.objects;
        let index = objects.binary_search_by_key(&id, |object| object.id).ok()?;
        objects.get(index)
    }

    /// The lowest number that no instance of an object has.
    pub(super) fn free_instance(&self, object: Id) -> Option<Id> {
        let taken = self.object(object).map(|object| &object.instances);
        (0..MAX_ID).find(|id| taken.is_none_or(|taken| taken.binary_search(id).is_err()))
    }

    /// The version of an object, if it is registered.
    pub fn version_of(&self, object: Id) -> Option<Version> {
        self.object(object)?.version
    }

    /// The types of this device's resources, by the object versions that it registered.
    pub fn types<'a>(&'a self, models: &'a Models) -> DeviceTypes<'a> {
        DeviceTypes::new(models, self.version, &self.objects.objects)
    }
}
