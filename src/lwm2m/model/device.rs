//! The types of one device's resources.

use super::{Models, Version};
use crate::lwm2m::path::Id;
use crate::lwm2m::registered::RegisteredObject;
use crate::lwm2m::value::DataType;

/// What a payload format must know of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceType {
    /// The type of its values; `None` when it has none, or none is known.
    pub data_type: Option<DataType>,
    /// Whether it has resource instances.
    pub multiple: bool,
}

/// Knows the types of resources.
pub trait ResourceTypes {
    /// The type of a resource, if it is known at all.
    fn resource_type(&self, object: Id, resource: Id) -> Option<ResourceType>;
}

/// The newest definitions, for want of a device.
impl ResourceTypes for Models {
    fn resource_type(&self, object: Id, resource: Id) -> Option<ResourceType> {
        Models::resource_type(self, object, None, resource)
    }
}

/// The resource types of a device: object by object of the version that it registered.
///
/// Borrows only, so it may be made anew for each payload.
#[derive(Clone, Copy, Debug)]
pub struct DeviceTypes<'a> {
    models: &'a Models,
    lwm2m: Version,
    objects: &'a [RegisteredObject],
}

impl<'a> DeviceTypes<'a> {
    /// Of a device that registered `objects`, ascending by id, and speaks LwM2M `lwm2m`.
    pub const fn new(models: &'a Models, lwm2m: Version, objects: &'a [RegisteredObject]) -> Self {
        Self {
            models,
            lwm2m,
            objects,
        }
    }

    /// The version of `object` on the device; the newest known if it did not register it.
    pub fn version(&self, object: Id) -> Option<Version> {
        let at = self.objects.binary_search_by_key(&object, |o| o.id).ok()?;
        let version = self.objects.get(at)?.version;
        Some(version.unwrap_or_else(|| Version::implied(object, self.lwm2m)))
    }
}

impl ResourceTypes for DeviceTypes<'_> {
    fn resource_type(&self, object: Id, resource: Id) -> Option<ResourceType> {
        self.models
            .resource_type(object, self.version(object), resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_that_of_the_registered_version() {
        let models = Models::builtin();
        let registered = |version| {
            [RegisteredObject {
                id: 3336,
                version,
                instances: vec![0],
            }]
        };
        // Location 1.x has latitude as text (5514), 2.0 as a number (6051).
        for version in [None, Some(Version::V1_1), Some(Version::new(2, 0))] {
            let objects = registered(version);
            let types = DeviceTypes::new(&models, Version::V1_1, &objects);
            let of = |resource| types.resource_type(3336, resource).unwrap().data_type;
            assert_eq!(of(5514), Some(DataType::String), "{version:?}");
            assert_eq!(of(6051), Some(DataType::Float), "{version:?}");
        }
        assert!(models.object(3336, None).unwrap().resource(5514).is_none());
    }

    #[test]
    fn a_core_object_without_version_is_the_one_of_the_lwm2m_version() {
        let models = Models::builtin();
        let objects = [RegisteredObject {
            id: 4,
            version: None,
            instances: vec![0],
        }];
        let version = |lwm2m| DeviceTypes::new(&models, lwm2m, &objects).version(4);
        assert_eq!(version(Version::V1_0), Some(Version::V1_0));
        assert_eq!(version(Version::V1_1), Some(Version::V1_2));
        assert_eq!(version(Version::V1_2), Some(Version::new(1, 3)));
    }
}
