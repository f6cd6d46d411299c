//! Templates of topics: what may stand in them.

use super::{Scope, Selector};
use crate::diagnostic::{Item, suggestion};
use crate::mapping::pattern::PathPattern;
use crate::mapping::template::{Field, Template, TemplateError};
use crate::name::breaks_text;
use crate::name_pattern::NamePattern;

/// What the gateway itself uses below `{base}/d/{device}/`.
pub const RESERVED: [&str; 11] = [
    "set",
    "get",
    "do",
    "lwm2m",
    "cancel",
    "reply",
    "availability",
    "target",
    "fw",
    "queue",
    "raw",
];

/// Reads a text with placeholders; a mistake is reported.
pub(super) fn template(item: &Item<'_>, text: &str, allowed: &[Field]) -> Option<Template> {
    let at = |part: &str| item.at_part(part);
    match Template::parse(text, allowed) {
        Ok(template) => return Some(template),
        Err(TemplateError::Brace) => item.error(
            "bad-template",
            "a brace stands without its other one",
            "placeholders are written `{endpoint}`",
        ),
        Err(TemplateError::Unknown(word)) => {
            let names: Vec<&str> = allowed.iter().map(|field| field.name()).collect();
            item.reader().error(
                "unknown-placeholder",
                &at(&format!("{{{word}}}")),
                format!("there is no placeholder `{{{word}}}` here"),
                suggestion(&word, &names),
            );
        }
        Err(TemplateError::NotBuilt(word)) => item.reader().warning(
            "not-built",
            &at(&format!("{{{word}}}")),
            format!(
                "`{{{word}}}` is not built in this version: `{}` has no effect",
                item.key()
            ),
            "use `{endpoint}` or `{endpoint:tail}` instead",
        ),
    }
    None
}

/// Reads the topic of signals.
pub(super) fn read(item: &Item<'_>, scope: Scope<'_>) -> Option<Template> {
    let text = item.text("{base}/d/{device}/v/{inst}/{name}")?;
    let template = template(item, text, &Field::TOPIC)?;
    let objection = objection(&template, scope.base);
    if let Some((message, hint)) = &objection {
        item.error("bad-topic", *message, *hint);
    }
    objection.is_none().then_some(template)
}

fn objection(template: &Template, base: &str) -> Option<(&'static str, &'static str)> {
    let sample = template.render(|field, text| match field {
        Field::Base => text.push_str(base),
        Field::Device => text.push_str("{device}"),
        _ => text.push('x'),
    });
    if sample.contains(['+', '#']) {
        return Some((
            "a topic to publish to has no wildcard",
            "remove `+` and `#`",
        ));
    }
    if sample.chars().any(breaks_text) {
        return Some(("a topic has no control characters", "remove them"));
    }
    if sample.split('/').any(str::is_empty) {
        return Some((
            "a topic level is empty",
            "remove the `/` at the beginning or end, or the second of two",
        ));
    }
    if sample.starts_with('$') {
        return Some((
            "topics that begin with `$` belong to the broker",
            "begin it with `{base}`",
        ));
    }
    let inside = sample.strip_prefix(base)?.strip_prefix('/')?;
    let levels: Vec<&str> = inside.split('/').collect();
    match levels[..] {
        ["bridge", ..] | ["d"] | ["d", _] => Some((
            "this topic is the gateway's own",
            "begin it with `{base}/d/{device}/`, or with a tree of your own",
        )),
        ["d", _, level, ..] if RESERVED.contains(&level) => Some((
            "this topic is the gateway's own",
            "below `{base}/d/{device}/` use `v`, `e`, `t` or a word of your own",
        )),
        _ => None,
    }
}

/// `{device.area}` needs an area.
pub(super) fn needs_area(
    item: &Item<'_>,
    template: &Template,
    area: Option<&str>,
    scope: Option<Scope<'_>>,
) {
    if !template.has(Field::DeviceArea) || area.is_some() {
        return;
    }
    // What the file extends is sound; the area is missing here.
    if let Some(scope) = scope.filter(|scope| !std::ptr::eq(scope.reader, item.reader())) {
        scope.reader.error(
            "missing-key",
            scope.extends,
            "a topic of what is extended has `{device.area}` in it, but [device] has no `area`",
            "add `area = \"…\"` under [device]",
        );
    } else {
        item.reader().error(
            "missing-key",
            &item.at_part("{device.area}"),
            "`{device.area}` stands here, but [device] has no `area`",
            "add `area = \"…\"` under [device]",
        );
    }
}

/// Whether all that a signal is about gets topics of its own.
///
/// `several` says whether the object may have more than one instance.
pub(super) fn distinguishes(
    item: &Item<'_>,
    template: &Template,
    pattern: &PathPattern,
    several: bool,
    selector: &Selector,
) {
    let has = |fields: &[Field]| fields.iter().any(|field| template.has(*field));
    let missing = [
        (
            pattern.object.is_none(),
            &[Field::Oid, Field::Inst][..],
            "object",
            "{oid}",
        ),
        (
            pattern.instance.is_none() && several,
            &[Field::Iid, Field::Inst][..],
            "instance",
            "{inst}",
        ),
        (
            pattern.resource.is_none(),
            &[Field::Rid, Field::Name][..],
            "resource",
            "{name}",
        ),
    ]
    .into_iter()
    .find(|(needed, fields, _, _)| *needed && !has(fields));
    if let Some((_, _, level, field)) = missing {
        item.error(
            "topic-clash",
            format!("every {level} that {pattern} stands for would have the same topic"),
            format!("put `{field}` into the topic"),
        );
    }
    let one_device = selector
        .endpoint
        .as_ref()
        .is_some_and(NamePattern::is_exact);
    if !one_device && !has(&[Field::Device, Field::Endpoint, Field::EndpointTail]) {
        item.warning(
            "shared-topic",
            "every device of this profile would publish to the same topic",
            "put `{device}` or `{endpoint}` into it",
        );
    }
}
