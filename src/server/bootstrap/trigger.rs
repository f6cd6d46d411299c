//! Server-initiated bootstrap: a registered device is told to ask its bootstrap server anew
//! (LwM2M Core 1.1 §6.1.5, resource /1/x/9).

use std::collections::VecDeque;

use super::super::device::Queued;
use super::profile::SERVER;
use crate::lwm2m::model::Version;
use crate::lwm2m::path::{Id, Path};
use crate::lwm2m::{Arguments, Record, Value};
use crate::server::{
    Answer, DeviceId, Operation, OperationError, OperationId, Registration, Server,
};
use crate::time::Now;

/// Bootstrap-Request Trigger.
const BOOTSTRAP_TRIGGER: Id = 9;

/// What a Read of object 1 was for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trigger {
    /// The operation that the asker waits for.
    asked: OperationId,
    /// The Short Server ID that is probably ours.
    short_server_id: Option<Id>,
    /// The instance when the device does not tell.
    fallback: Id,
}

impl Server {
    /// Tells a device to bootstrap. The operation that is given back completes as an Execute of
    /// /1/x/9: when it did well, the device has said that it will; the run itself shows as
    /// [`Event::Bootstrap`](crate::server::Event::Bootstrap).
    ///
    /// Of several instances of object 1 the one with our Short Server ID is meant, which the
    /// profile for the device has; a device that does not tell them is asked at the first.
    pub fn bootstrap(&mut self, now: Now, device: DeviceId) -> OperationId {
        let known = self.registration(device).map(|registration| {
            let objects = &registration.objects.objects;
            let servers = objects.iter().find(|object| object.id == SERVER);
            let instances = servers.map_or(&[][..], |object| &object.instances[..]);
            (no_trigger(registration), instances.to_vec())
        });
        let Some((no_trigger, instances)) = known else {
            return self.operate(now, device, execute(0));
        };
        let fallback = instances.first().copied().unwrap_or(0);
        if let Some(reason) = no_trigger {
            self.operations += 1;
            let id = OperationId(self.operations);
            let error = OperationError::NotOffered(reason.to_owned());
            self.complete(id, device, execute(fallback), Err(error));
            return id;
        }
        if instances.len() <= 1 {
            return self.operate(now, device, execute(fallback));
        }
        let short_server_id = self.endpoint_name(device).and_then(|endpoint| {
            let profile = self.settings.bootstrap_profiles.choose(endpoint, None)?;
            Some(profile.generated()?.short_server_id)
        });
        self.operations += 1;
        let trigger = Trigger {
            asked: OperationId(self.operations),
            short_server_id,
            fallback,
        };
        // The Read goes first, so that what became of it finds its purpose in the books.
        let read = OperationId(self.operations + 1);
        self.bootstrap.triggers.insert(read, trigger);
        self.operate(now, device, Operation::Read(Path::object(SERVER).into()));
        trigger.asked
    }

    /// Goes on after the Read of [`Server::bootstrap`]. Whether the operation was one.
    pub(in crate::server) fn on_trigger_read(
        &mut self,
        operation: OperationId,
        device: DeviceId,
        result: &Result<Answer, OperationError>,
    ) -> bool {
        let Some(trigger) = self.bootstrap.triggers.remove(&operation) else {
            return false;
        };
        let instance = match result {
            Ok(answer) => ours(&answer.records, trigger.short_server_id),
            Err(_) => None,
        };
        let operation = execute(instance.unwrap_or(trigger.fallback));
        let id = trigger.asked;
        let queue: Option<&mut VecDeque<Queued>> = self
            .registration_mut(device)
            .map(|registration| &mut registration.queue);
        match (queue, result) {
            // A device that is away is not asked again.
            (Some(_), Err(error @ (OperationError::Timeout | OperationError::QueueFull))) => {
                self.complete(id, device, operation, Err(error.clone()));
            }
            // Whoever completes an operation starts the next one.
            (Some(queue), _) => queue.push_front(Queued { id, operation }),
            (None, _) => self.complete(id, device, operation, Err(OperationError::Unregistered)),
        }
        true
    }
}

/// Why a device cannot be told to bootstrap; `None` when it can.
pub fn no_trigger(registration: &Registration) -> Option<&'static str> {
    (registration.version < Version::V1_1).then_some(
        "the device speaks LwM2M 1.0, which has no Bootstrap-Request Trigger (/1/x/9); let it \
         bootstrap by itself, for instance by a reset",
    )
}

fn execute(instance: Id) -> Operation {
    let path = Path::resource(SERVER, instance, BOOTSTRAP_TRIGGER);
    Operation::Execute(path, Arguments::default())
}

/// The instance of object 1 with this Short Server ID.
fn ours(records: &[Record], short_server_id: Option<Id>) -> Option<Id> {
    let wanted = i64::from(short_server_id?);
    records
        .iter()
        .find(|record| {
            record.path.resource_id() == Some(0) && record.value == Value::Integer(wanted)
        })
        .and_then(|record| record.path.instance_id())
}
