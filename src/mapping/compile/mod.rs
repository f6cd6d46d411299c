//! Mapping files made into a plan, or into a list of everything that is wrong with them.

mod attributes;
mod clash;
mod command;
mod expression;
mod layout;
mod signal;
mod subject;
mod topic;
mod value;
mod write;

pub use topic::RESERVED;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Plan;
use super::pattern::parse_id;
use super::profile::{Profile, Strategy, Unmapped};
use super::rule::{InstanceNames, SignalRule};
use super::select::Selector;
use super::template::{Field, Template};
use crate::diagnostic::{At, Diagnostic, Item, Reader, Source, Table};
use crate::lwm2m::model::Models;
use crate::lwm2m::path::Id;
use crate::name::{objection, short_hash};
use crate::name_pattern::{NamePattern, match_table};
use signal::Defaults;

/// What became of mapping files.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The plan, when there was no error.
    pub plan: Option<Plan>,
    /// Everything found, file by file.
    pub diagnostics: Vec<Diagnostic>,
}

/// What all of one file's tables are read with.
#[derive(Clone, Copy)]
struct Scope<'a> {
    reader: &'a Reader,
    models: &'a Models,
    base: &'a str,
    /// Objects already said to be unknown.
    unknown: &'a RefCell<BTreeSet<Id>>,
}

pub(super) fn compile(sources: &[Source], models: &Models, base: &str) -> Compiled {
    let mut diagnostics = Vec::new();
    let mut profiles: Vec<(Selector, Arc<Profile>)> = Vec::new();
    let mut holders: BTreeMap<String, &Source> = BTreeMap::new();
    for source in sources {
        let reader = Reader::new(source.file.as_str(), source.text.as_str(), &[]);
        let document = reader.document();
        let unknown = RefCell::default();
        let scope = Scope {
            reader: &reader,
            models,
            base,
            unknown: &unknown,
        };
        let read = read_file(reader.root(&document), scope, &source.text);
        if let Some((selector, profile, id, id_at)) = read {
            match holders.get(&id) {
                Some(holder) if folder(&holder.file) == folder(&source.file) => reader.error(
                    "duplicate-profile",
                    &id_at,
                    format!("profile `{id}` stands in {} already", holder.file),
                    "give one of them another id, or put the replacement into an earlier folder",
                ),
                Some(_) => {}
                None => {
                    holders.insert(id, source);
                    profiles.push((selector, Arc::new(profile)));
                }
            }
        }
        drop(document);
        diagnostics.extend(reader.finish());
    }
    profiles.sort_by_cached_key(|(selector, profile)| {
        let id = profile.id.clone();
        (Reverse(profile.priority), selector.specificity(), id)
    });
    let sound = !diagnostics.iter().any(Diagnostic::is_error);
    let plan = sound.then(|| Plan {
        profiles: profiles.into(),
        default: Arc::new(Profile::unmapped(base)),
    });
    Compiled { plan, diagnostics }
}

fn folder(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn read_file(
    mut root: Table<'_>,
    scope: Scope<'_>,
    text: &str,
) -> Option<(Selector, Profile, String, At)> {
    root.schema("mappings");
    let mut profile = Profile::unmapped(scope.base);
    profile.hash = short_hash(text.as_bytes());
    let id = root
        .require("profile", "add `[profile]` with `id = \"…\"`")
        .and_then(|item| item.table("profile", "{ id = \"my-device\" }"))
        .and_then(|table| read_profile(table, &mut profile));
    let selector = read_selector(root.take("match"), scope);
    if let Some(item) = root.take("device")
        && let Some(table) = item.table("device", "{ name = \"{endpoint:tail}\" }")
    {
        read_device(table, &selector, &mut profile);
    }
    let defaults = match root.take("defaults") {
        Some(item) => item
            .table("defaults", "{ qos = 1 }")
            .map(|table| Defaults::read(table, scope))
            .unwrap_or_default(),
        None => Defaults::default(),
    };
    let mut places = clash::Places::default();
    if let Some(item) = root.take("instances")
        && let Some(table) = item.table("instances", "{ \"3303/0\" = \"air\" }")
    {
        read_instances(table, &mut profile.instances, &mut places);
    }
    let mut rules: Vec<(SignalRule, At)> = Vec::new();
    for table in root.tables("signal") {
        let at = table.at().clone();
        if let Some(rule) =
            signal::read(table, scope, &selector, &defaults, profile.area.as_deref())
        {
            rules.push((rule, at));
        }
    }
    rules.sort_by_key(|(rule, _)| rule.pattern.specificity());
    (profile.signals, places.rules) = rules.into_iter().unzip();
    for table in root.tables("command") {
        command::read(table, scope, &mut profile.commands);
    }
    root.not_built(&[
        "group",
        "derived",
        "on_register",
        "upstream",
        "outputs",
        "test",
        "params",
    ]);
    root.belongs_elsewhere(
        &["id", "priority", "unmapped", "title"],
        "write it under [profile]",
    );
    root.belongs_elsewhere(&["endpoint", "objects"], "write it under [match]");
    root.finish();
    clash::find(&profile, scope, &places);
    let (id, at) = id?;
    Some((selector, profile, id, at))
}

fn read_profile(mut table: Table<'_>, profile: &mut Profile) -> Option<(String, At)> {
    let id = table
        .require("id", "name the profile, for instance `id = \"acme-cr200\"`")
        .and_then(|item| {
            let id = item.text("acme-cr200")?;
            check_name(&item, id).then(|| (id.to_owned(), item.at()))
        });
    if let Some(item) = table.take("title") {
        profile.title = item.text("ACME CR200").map(str::to_owned);
    }
    if let Some(item) = table.take("priority") {
        profile.priority = item.integer(-1_000_000..=1_000_000).unwrap_or_default();
    }
    if let Some(item) = table.take("unmapped") {
        let choice = item.one_of(&[
            ("default", Unmapped::Default),
            ("raw", Unmapped::Raw),
            ("count", Unmapped::Count),
            ("drop", Unmapped::Drop),
        ]);
        profile.unmapped = choice.unwrap_or(Unmapped::Default);
    }
    table.not_built(&["extends", "models"]);
    table.finish();
    profile.id = id.as_ref().map(|(id, _)| id.clone());
    id
}

fn read_selector(item: Option<Item<'_>>, scope: Scope<'_>) -> Selector {
    let mut selector = Selector {
        endpoint: None,
        objects: Vec::new(),
        never: true,
    };
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

fn read_device(mut table: Table<'_>, selector: &Selector, profile: &mut Profile) {
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
            topic::needs_area(&item, template, profile.area.as_deref());
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

fn read_instances(table: Table<'_>, names: &mut InstanceNames, places: &mut clash::Places) {
    for item in table.entries() {
        let Some((object, instance)) = parse_instance(item.key()) else {
            scope_error_instance(&item);
            continue;
        };
        let Some(text) = item.text("air") else {
            continue;
        };
        let Some(template) = topic::template(&item, text, &[Field::Oid, Field::Iid]) else {
            continue;
        };
        let number = instance.map(|id| id.to_string()).unwrap_or("\0".to_owned());
        let name = template.render(|field, text| match field {
            Field::Oid => text.push_str(&object.to_string()),
            _ => text.push_str(&number),
        });
        if !check_name(&item, &name.replace('\0', "0")) {
            continue;
        }
        places.instances.insert((object, instance), item.at());
        match instance {
            Some(instance) => {
                names.exact.insert((object, instance), name);
            }
            None => match name.split('\0').collect::<Vec<_>>()[..] {
                [before, behind] => {
                    names
                        .any
                        .insert(object, (before.to_owned(), behind.to_owned()));
                }
                _ => item.error(
                    "shared-name",
                    "the name of several instances needs `{iid}`, once",
                    format!("write it like `\"{}\" = \"name-{{iid}}\"`", item.key()),
                ),
            },
        }
    }
}

fn parse_instance(key: &str) -> Option<(Id, Option<Id>)> {
    let (object, instance) = key.split_once('/')?;
    let instance = match instance {
        "*" => None,
        number => Some(parse_id(number)?),
    };
    Some((parse_id(object)?, instance))
}

fn scope_error_instance(item: &Item<'_>) {
    let key = item.key();
    let hint = match parse_instance(key.trim_start_matches('/')) {
        Some(_) => format!(
            "write `\"{}\"`, without the first `/`",
            key.trim_start_matches('/')
        ),
        None => "write object and instance: \"3303/0\", or \"3303/*\" for all".to_owned(),
    };
    item.error(
        "bad-instance",
        format!("`{key}` is no object instance"),
        hint,
    );
}

/// Whether `name` can be one topic level; says why not.
fn check_name(item: &Item<'_>, name: &str) -> bool {
    match objection(name) {
        None => true,
        Some(reason) => {
            item.error(
                "bad-name",
                format!("the name {reason}"),
                "a name is one topic level: letters, digits, `-`, `_`, `.` and `:`",
            );
            false
        }
    }
}
