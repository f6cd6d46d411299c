//! What is written into our account at a device, an instance of object 1.

use crate::gateway::Gateway;
use crate::gateway::device::Device;
use crate::lwm2m::{Id, Path, Record, Value, Version};
use crate::server::{DeviceId, Operation, OperationError, Registration};
use crate::time::Now;

/// The object of server accounts.
const SERVER: Id = 1;
/// Lifetime
const LIFETIME: Id = 1;
/// Mute Send
const MUTE_SEND: Id = 23;

impl Gateway {
    /// Lets a device of LwM2M 1.1 or later send values of its own accord: until Mute Send is
    /// written to be false it may not (LwM2M Core 1.1 §6.4.6, §E.2). Once a registration; one that
    /// has no such resource refuses, and is left alone until the next.
    pub(super) fn unmute(registration: &Registration) -> Option<Operation> {
        let account = account(registration).filter(|_| registration.version >= Version::V1_1)?;
        Some(write(account, MUTE_SEND, Value::Boolean(false)))
    }

    /// Brings down a lifetime that is longer than the operator allows. Until the device takes it,
    /// its own holds.
    pub(super) fn shorten_lifetime(&self, registration: &Registration) -> Option<Operation> {
        let most = self.settings.lifetime_max?;
        let lifetime = registration.terms.lifetime();
        let account =
            account(registration).filter(|_| lifetime.is_none_or(|lifetime| lifetime > most))?;
        let seconds = i64::try_from(most.as_secs()).ok()?;
        Some(write(account, LIFETIME, Value::Integer(seconds)))
    }

    /// A device does not take what is written into its account. That it has no Send is a problem
    /// where the mapping counts on it.
    pub(super) fn on_account_refused(
        &mut self,
        now: Now,
        id: DeviceId,
        path: Path,
        error: &OperationError,
    ) {
        let counts_on_it = |device: &Device| device.profile.expects_sends();
        let (kind, detail) = match path.resource_id() {
            Some(MUTE_SEND) if !self.device(id).is_some_and(counts_on_it) => return,
            Some(MUTE_SEND) => ("send", format!("the device keeps its Send muted: {error}")),
            _ => (
                "lifetime",
                format!(
                    "the device keeps its lifetime, which is longer than lifetime_max: {error}"
                ),
            ),
        };
        self.report_problem(now, id, kind, &path.into(), detail);
    }

    /// What has to be written after an Update that changed something.
    pub(super) fn hold_to_lifetime(&mut self, id: DeviceId) {
        let registration = self.server.registration(id);
        let step = registration.and_then(|registration| self.shorten_lifetime(registration));
        if let (Some(step), Some(device)) = (step, self.device_mut(id))
            && !device.setup.contains(&step)
        {
            device.setup.push_back(step);
        }
    }
}

/// Our account. Of several, nobody says which one is ours, and that of another server is not
/// touched.
fn account(registration: &Registration) -> Option<Id> {
    match &*registration.object(SERVER)?.instances {
        &[account] => Some(account),
        _ => None,
    }
}

fn write(account: Id, resource: Id, value: Value) -> Operation {
    let path = Path::resource(SERVER, account, resource);
    Operation::Write {
        path,
        records: vec![Record {
            path,
            value,
            time: None,
        }],
        replace: true,
    }
}
