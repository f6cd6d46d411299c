//! `observe = { … }`: notification attributes.

use super::subject::Subject;
use super::value::VALUE_KEYS;
use crate::diagnostic::Item;
use crate::lwm2m::attributes::{AttributeError, Edge, NotificationAttributes};
use crate::mapping::observe::has_value_conditions;

/// Everything that may stand in the table.
pub(super) const OBSERVE_KEYS: [&str; 10] = [
    "pmin", "pmax", "gt", "lt", "st", "epmin", "epmax", "edge", "con", "hqmax",
];

/// Reads `observe = { … }` over `defaults`.
pub(super) fn read(item: &Item<'_>, defaults: &NotificationAttributes) -> NotificationAttributes {
    let mut attributes = defaults.clone();
    let Some(mut table) = item.table("observe", "{ pmin = 10, pmax = 600 }") else {
        return attributes;
    };
    let mut whole = |key: &'static str, target: &mut Option<u32>| {
        if let Some(item) = table.take(key) {
            let number = item.integer(0..=i64::from(u32::MAX));
            *target = number.and_then(|number| u32::try_from(number).ok());
        }
    };
    whole("pmin", &mut attributes.pmin);
    whole("pmax", &mut attributes.pmax);
    whole("epmin", &mut attributes.epmin);
    whole("epmax", &mut attributes.epmax);
    whole("hqmax", &mut attributes.hqmax);
    let mut number = |key: &'static str, target: &mut Option<f64>| {
        if let Some(item) = table.take(key) {
            *target = item.number();
        }
    };
    number("gt", &mut attributes.gt);
    number("lt", &mut attributes.lt);
    number("st", &mut attributes.st);
    if let Some(item) = table.take("con") {
        attributes.con = item.boolean();
    }
    if let Some(item) = table.take("edge")
        && let Some(edge) = item.one_of(&EDGES)
    {
        attributes.edge = edge;
    }
    table.belongs_elsewhere(&VALUE_KEYS, "write it inside `value = { … }`");
    table.finish();
    attributes
}

/// Without the attribute a device reports both edges.
const EDGES: [(&str, Option<Edge>); 3] = [
    ("both", None),
    ("rising", Some(Edge::Rising)),
    ("falling", Some(Edge::Falling)),
];

/// Reports attributes that contradict each other or the type of the resource.
pub(super) fn check(item: &Item<'_>, attributes: &NotificationAttributes, subject: &Subject<'_>) {
    if let Err(error) = attributes.validate() {
        let hint = match error {
            AttributeError::Period { .. } | AttributeError::EvaluationPeriod { .. } => {
                "pmin and epmin are the least time, pmax and epmax the most"
            }
            AttributeError::NegativeStep(_) => "write the change that is worth a notification",
            _ => "lt is the lower threshold, gt the upper one, and two steps fit between them",
        };
        item.error("bad-observe", error.to_string(), hint);
    }
    if has_value_conditions(attributes) && subject.every_resource {
        item.error(
            "bad-observe",
            "gt, lt, st and edge are for one resource, and the path stands for every one",
            "remove them, or name the resource in the path",
        );
    }
    if !has_value_conditions(attributes) || subject.data_type().is_none() {
        return;
    }
    let limits = attributes.gt.is_some() || attributes.lt.is_some() || attributes.st.is_some();
    if limits && !subject.is_numeric() {
        item.error(
            "not-numeric",
            format!("gt, lt and st need numbers, and {}", subject.describe()),
            "remove them; `pmin` and `pmax` work with every type",
        );
    }
    if attributes.edge.is_some() && !subject.is_boolean() {
        item.error(
            "not-boolean",
            format!("edge needs true or false, and {}", subject.describe()),
            "remove it, or use gt and lt",
        );
    }
}
