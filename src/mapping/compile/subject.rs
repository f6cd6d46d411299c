//! What a signal's path is about, as far as the object definitions know it.

use super::{Scope, Selector};
use crate::diagnostic::Item;
use crate::lwm2m::attributes::NotificationAttributes;
use crate::lwm2m::model::{Models, ResourceModel};
use crate::lwm2m::path::Id;
use crate::lwm2m::value::DataType;
use crate::mapping::pattern::PathPattern;

/// What a signal is about, as far as the models know it.
#[derive(Default)]
pub(super) struct Subject<'a> {
    pub(super) resource: Option<ResourceModel<'a>>,
    /// Whether there may be several instances of the object.
    pub(super) several: bool,
    /// Whether it is about every resource of an instance.
    pub(super) every_resource: bool,
}

impl<'a> Subject<'a> {
    pub(super) fn find(
        item: &Item<'_>,
        pattern: &PathPattern,
        scope: Scope<'a>,
        selector: &Selector,
    ) -> Self {
        let mut subject = Self {
            resource: None,
            several: true,
            every_resource: pattern.resource.is_none(),
        };
        let Some(object) = pattern.object else {
            return subject;
        };
        let Some(newest) = scope.models.object(object, None) else {
            unknown_object(item, scope, object);
            return subject;
        };
        subject.several = newest.multiple;
        if !newest.multiple && pattern.instance.is_some_and(|instance| instance != 0) {
            item.error(
                "single-instance",
                format!("object {object} ({}) has one instance, 0", newest.name),
                format!("write `/{object}/0/…`"),
            );
        }
        let Some(resource) = pattern.resource else {
            return subject;
        };
        // The versions that the profile is for come first; a device may have others all the same.
        let matched = scope
            .models
            .versions(object)
            .filter(|model| {
                selector
                    .objects
                    .iter()
                    .filter(|condition| condition.object == object)
                    .all(|condition| condition.allows(model.version))
            })
            .filter_map(|model| model.resource(resource))
            .last();
        subject.resource = matched.or_else(|| scope.models.newest_resource(object, resource));
        match subject.resource {
            None => unknown_resource(item, scope.models, object, resource),
            Some(resource) => check_resource(item, &resource, pattern),
        }
        subject
    }

    pub(super) fn data_type(&self) -> Option<DataType> {
        self.resource.and_then(|resource| resource.data_type)
    }

    /// Whether values may be numbers.
    pub(super) fn is_numeric(&self) -> bool {
        self.data_type().is_none_or(|data_type| {
            matches!(
                data_type,
                DataType::Integer | DataType::UnsignedInteger | DataType::Float | DataType::Time
            )
        })
    }

    pub(super) fn is_boolean(&self) -> bool {
        self.data_type()
            .is_none_or(|data_type| data_type == DataType::Boolean)
    }

    /// Of default attributes those that suit the type.
    pub(super) fn applicable(&self, defaults: &NotificationAttributes) -> NotificationAttributes {
        let mut attributes = defaults.clone();
        if !self.is_numeric() || self.every_resource {
            (attributes.gt, attributes.lt, attributes.st) = (None, None, None);
        }
        if !self.is_boolean() || self.every_resource {
            attributes.edge = None;
        }
        attributes
    }

    pub(super) fn describe(&self) -> String {
        match self.resource {
            Some(ResourceModel {
                name, data_type, ..
            }) => format!(
                "{name} is {}",
                data_type.map_or("of no type", data_type_name)
            ),
            None => "it".to_owned(),
        }
    }
}

pub(super) fn data_type_name(data_type: DataType) -> &'static str {
    match data_type {
        DataType::String => "text",
        DataType::Integer => "an integer",
        DataType::UnsignedInteger => "an unsigned integer",
        DataType::Float => "a number",
        DataType::Boolean => "true or false",
        DataType::Opaque => "bytes",
        DataType::Time => "a time",
        DataType::ObjectLink => "an object link",
        DataType::CoreLink => "link-format text",
    }
}

/// The object is in no model: a warning, once, for its device may know better.
pub(super) fn unknown_object(item: &Item<'_>, scope: Scope<'_>, object: Id) {
    if !scope.unknown.borrow_mut().insert(object) {
        return;
    }
    item.warning(
        "unknown-object",
        format!(
            "no definition of object {object} is known; types, units and access cannot be checked"
        ),
        "put its object XML file into a folder of `[models] paths`",
    );
}

pub(super) fn unknown_resource(item: &Item<'_>, models: &Models, object: Id, resource: Id) {
    let Some(model) = models.object(object, None) else {
        return;
    };
    item.error(
        "unknown-resource",
        format!(
            "object {object} ({}) has no resource {resource}",
            model.name
        ),
        format!("it has {}", model.outline()),
    );
}

fn check_resource(item: &Item<'_>, resource: &ResourceModel<'_>, pattern: &PathPattern) {
    let operations = resource.operations;
    if operations.execute && !operations.read && !operations.write {
        item.error(
            "not-readable",
            format!("{pattern} ({}) is executed and has no value", resource.name),
            "make it a [[command]] with `execute`",
        );
    } else if !operations.read && !operations.write {
        item.error(
            "not-readable",
            format!(
                "{pattern} ({}) is reached by bootstrap servers only",
                resource.name
            ),
            "remove the signal",
        );
    }
    if pattern.index.is_some() && !resource.multiple {
        item.error(
            "not-multiple",
            format!(
                "resource {} ({}) has no instances",
                resource.id, resource.name
            ),
            "leave the last part of the path out",
        );
    }
}
