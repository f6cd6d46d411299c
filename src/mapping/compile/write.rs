//! `write = { … }`: what is kept to when a signal is written; and how commands wait.

use std::time::Duration;

use super::expression;
use super::subject::Subject;
use super::value::not_numeric;
use crate::diagnostic::{Item, Table};
use crate::mapping::command::{Confirm, QueueKind, Waits, WriteRules};
use crate::mapping::expression::{Kind, Scope};
use crate::mapping::transform::Transform;

/// Reads the table. `transform` is what its values are published by.
pub(super) fn read(
    item: &Item<'_>,
    subject: &Subject<'_>,
    transform: Option<&Transform>,
) -> Option<WriteRules> {
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(3_600);
    let mut table = item.table("write", "{ min = 0, max = 10, queue = \"latest\" }")?;
    if let Some(resource) = subject.resource
        && !resource.operations.write
    {
        item.error(
            "not-writable",
            format!("{} cannot be written", resource.name),
            "remove `write`",
        );
    }
    let mut rules = WriteRules {
        waits: read_waits(&mut table),
        ..WriteRules::default()
    };
    let has_numbers = subject.is_numeric() || transform.is_some_and(Transform::calculates);
    let numeric = |table: &mut Table<'_>, key| {
        let item = table.take(key)?;
        if !has_numbers {
            not_numeric(&item, &subject.describe());
        }
        item.number()
    };
    let mut number = |key| numeric(&mut table, key);
    (rules.min, rules.max) = (number("min"), number("max"));
    check_order(item, rules.min, rules.max);
    rules.step = numeric(&mut table, "step");
    if rules.step.is_some_and(|step| step <= 0.0) {
        rules.step = None;
        item.error(
            "bad-value",
            "a step is above 0",
            "write it like `step = 0.5`",
        );
    }
    if let Some(item) = table.take("confirm") {
        let choices = [
            ("none", Confirm::None),
            ("read", Confirm::Read),
            ("notify", Confirm::Notify),
        ];
        rules.confirm = item.one_of(&choices).unwrap_or_default();
        if let Some(resource) = subject.resource
            && rules.confirm != Confirm::None
            && !resource.operations.read
        {
            item.error(
                "not-readable",
                format!(
                    "{} can only be written, so nothing tells its value",
                    resource.name
                ),
                "remove `confirm`",
            );
        }
    }
    if let Some(item) = table.take("timeout") {
        rules.timeout = item.duration(LEAST, MOST);
        if rules.confirm == Confirm::None {
            item.warning(
                "no-effect",
                "`timeout` is how long a value may take to follow, and nothing looks for it",
                "add `confirm = \"read\"` or `confirm = \"notify\"`",
            );
        }
    }
    if let Some(item) = table.take("expr") {
        let scope = Scope::of_value(Kind::Any);
        rules.expr = expression::value(&item, "value * 14.5038", &scope);
    }
    table.finish();
    Some(rules)
}

/// Says it when there is nothing between two bounds.
pub(super) fn check_order(item: &Item<'_>, min: Option<f64>, max: Option<f64>) {
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        item.error(
            "bad-value",
            format!("min {min} is above max {max}"),
            "exchange them",
        );
    }
}

/// `queue` and `ttl`.
pub(super) fn read_waits(table: &mut Table<'_>) -> Waits {
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(366 * 86_400);
    let queue = table.take("queue").and_then(|item| {
        item.one_of(&[
            ("latest", QueueKind::Latest),
            ("fifo", QueueKind::Fifo),
            ("none", QueueKind::None),
        ])
    });
    let ttl = table
        .take("ttl")
        .and_then(|item| item.duration(LEAST, MOST));
    Waits { queue, ttl }
}
