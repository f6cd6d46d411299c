//! The units that sensors state themselves.
//!
//! In the IPSO objects a sensor says in a resource of its own, 5701, what its other resources are
//! measured in; their definitions leave it open.

use std::sync::Arc;

use crate::gateway::device::{Device, Tracked};
use crate::lwm2m::{Id, Path, Record, Value};
use crate::mapping::Destination;

/// Sensor Units.
const UNITS: Id = 5701;

/// Min and Max Measured Value, Min and Max Range Value, Sensor Value.
const MEASURED: [Id; 5] = [5601, 5602, 5603, 5604, 5700];

/// Takes the unit out first, so that the values beside it have theirs already.
pub(super) fn first(records: &mut [Record]) {
    if let Some(index) = records.iter().position(|record| is_unit(&record.path)) {
        records.swap(0, index);
    }
}

/// The unit that the sensor of a measured resource has stated, if that is known.
pub(super) fn of(device: &Device, path: &Path) -> Option<Arc<str>> {
    let measured = path.resource_id().is_some_and(|id| MEASURED.contains(&id));
    let unit = path.truncate(2).child(UNITS).filter(|_| measured)?;
    let tracked = device.signals.get(device.find(&unit).ok()?)?;
    match tracked.last.as_ref()?.value.as_ref()?.as_value() {
        Some(Value::String(unit)) if !unit.is_empty() => Some(unit.as_str().into()),
        _ => None,
    }
}

/// Gives the measured resources of a sensor the unit that it has just stated.
pub(super) fn spread(device: &mut Device, stated: &Path) {
    if !is_unit(stated) {
        return;
    }
    let sensor = stated.truncate(2);
    let Some(unit) = sensor.child(MEASURED[0]).and_then(|path| of(device, &path)) else {
        return;
    };
    let signals = device.signals.iter_mut();
    for tracked in signals.filter(|tracked| sensor.contains(&tracked.path)) {
        if tracked
            .path
            .resource_id()
            .is_some_and(|id| MEASURED.contains(&id))
        {
            tracked.state_unit(&unit);
        }
    }
}

/// Whether a resource is the one that states a unit.
pub(super) fn is_unit(path: &Path) -> bool {
    path.resource_id() == Some(UNITS)
}

impl Tracked {
    /// Takes the sensor's word for the unit, unless the mapping says one or changes the value.
    pub(super) fn state_unit(&mut self, unit: &Arc<str>) {
        if let Destination::Signal(signal) = &mut self.destination
            && signal.transform.is_none()
            && (signal.unit.is_none() || self.stated_unit)
        {
            signal.unit = Some(unit.clone());
            self.stated_unit = true;
        }
    }
}
