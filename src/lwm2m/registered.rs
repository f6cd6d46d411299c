//! What a device registered.

use crate::lwm2m::model::Version;
use crate::lwm2m::path::Id;

/// One object of a registration, with what the device has of it.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct RegisteredObject {
    /// The Object ID.
    #[n(0)]
    pub id: Id,
    /// The object's version, if the registration names one.
    #[n(1)]
    pub version: Option<Version>,
    /// The instances the device has, ascending; it may have none yet.
    #[n(2)]
    pub instances: Vec<Id>,
}
