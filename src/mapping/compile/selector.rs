//! `[match]`.

use super::Scope;
use crate::diagnostic::Item;
use crate::mapping::select::Selector;
use crate::name_pattern::{NamePattern, match_table};

pub(super) fn read(item: Option<Item<'_>>, scope: Scope<'_>, is_extended: bool) -> Selector {
    let mut selector = Selector {
        endpoint: None,
        objects: Vec::new(),
        never: true,
    };
    // A base is for those who extend it.
    if item.is_none() && is_extended {
        return selector;
    }
    let Some(mut table) = match_table(item, scope.reader) else {
        return selector;
    };
    selector.never = table.is_empty();
    if let Some(item) = table.take("endpoint") {
        selector.endpoint = NamePattern::read(&item, "urn:dev:ops:32473-*");
    }
    if let Some(item) = table.take("objects") {
        for (item, text) in item.texts("3342 >=1.0").unwrap_or_default() {
            match text.parse() {
                Ok(condition) => selector.objects.push(condition),
                Err(()) => item.error(
                    "bad-value",
                    format!("`{text}` is no condition on an object"),
                    "write an object id, and bounds on its version: \"3303\", \"33210 >=2.0 <3.0\"",
                ),
            }
        }
    }
    for key in ["identity", "registration", "resources"] {
        if let Some(item) = table.take(key) {
            selector.never = true;
            scope.reader.warning(
                "not-built",
                &item.at_key(),
                format!("matching by `{key}` is not built in this version: the profile is used for no device"),
                "match by `endpoint` or `objects`",
            );
        }
    }
    table.finish();
    selector
}
