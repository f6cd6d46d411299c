//! What a device registered.

use crate::lwm2m::model::Version;
use crate::lwm2m::path::Id;

/// One object of a registration, with what the device has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredObject {
    /// The Object ID.
    pub id: Id,
    /// The object's version, if the registration names one.
    pub version: Option<Version>,
    /// The instances the device has, ascending; it may have none yet.
    pub instances: Vec<Id>,
}
