//! `[device]`.

use std::time::Duration;

use super::{check_name, topic};
use crate::diagnostic::{Item, Table};
use crate::mapping::profile::{Profile, Strategy};
use crate::mapping::select::Selector;
use crate::mapping::template::{Field, Template};
use crate::name::objection;
use crate::name_pattern::NamePattern;

pub(super) fn read(mut table: Table<'_>, selector: &Selector, profile: &mut Profile) {
    if let Some(item) = table.take("area")
        && let Some(area) = item.text("cellar")
        && check_name(&item, area)
    {
        profile.area = Some(area.to_owned());
    }
    if let Some(item) = table.take("name")
        && let Some(text) = item.text("node-{endpoint:tail}")
    {
        let template = topic::template(&item, text, &Field::DEVICE_NAME);
        if let Some(template) = &template {
            topic::needs_area(&item, template, profile.area.as_deref(), None);
            check_device_name(&item, template, selector);
        }
        profile.device_name = template;
    }
    if let Some(item) = table.take("wake")
        && let Some(mut wake) = item.table("wake", "{ strategy = \"observe\" }")
    {
        if let Some(item) = wake.take("strategy")
            && let Some(strategy) = item.one_of(&STRATEGIES)
        {
            profile.strategy = strategy;
        }
        if let Some(item) = wake.take("reachable_for") {
            const LEAST: Duration = Duration::from_secs(1);
            const MOST: Duration = Duration::from_secs(86_400);
            profile.reachable_for = item.duration(LEAST, MOST);
        }
        wake.finish();
    }
    table.finish();
}

/// `observe` and `send` are what users think of; the other names say what is done.
const STRATEGIES: [(&str, Strategy); 7] = [
    ("observe", Strategy::Single),
    ("composite", Strategy::Composite),
    ("composite-by-object", Strategy::CompositeByObject),
    ("poll-on-wake", Strategy::PollOnWake),
    ("send", Strategy::Send),
    ("single", Strategy::Single),
    ("send-only", Strategy::Send),
];

fn check_device_name(item: &Item<'_>, template: &Template, selector: &Selector) {
    let literal = template.render(|_, text| text.push('x'));
    if let Some(reason) = objection(&literal) {
        item.error(
            "bad-name",
            format!("the name {reason}"),
            "a name is one topic level: letters, digits, `-`, `_`, `.` and `:`",
        );
    }
    let one_device = selector
        .endpoint
        .as_ref()
        .is_some_and(NamePattern::is_exact);
    if !one_device && !template.has(Field::Endpoint) && !template.has(Field::EndpointTail) {
        item.warning(
            "shared-name",
            "every device of this profile gets the same name; all but one will carry a suffix",
            "put `{endpoint}` or `{endpoint:tail}` into it",
        );
    }
}
