//! Mapping files made into a plan, or into a list of everything that is wrong with them.

mod attributes;
mod clash;
mod command;
mod content;
mod device;
mod expression;
mod files;
mod instances;
mod layers;
mod layout;
mod registering;
mod selector;
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

use super::Plan;
use super::pattern::PathPattern;
use super::profile::{Profile, Unmapped};
use super::rule::SignalRule;
use super::select::Selector;
use crate::diagnostic::{At, Diagnostic, Item, Reader, Source, Table};
use crate::lwm2m::model::Models;
use crate::lwm2m::path::Id;
use crate::name::objection;
use files::{BUILT_IN, Files};
use layers::{AllDefaults, Layers};

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
    /// Where the file says what it extends.
    extends: &'a At,
    /// Objects already said to be unknown.
    unknown: &'a RefCell<BTreeSet<Id>>,
}

pub(super) fn compile(sources: &[Source], models: &Models, base: &str) -> Compiled {
    let given = sources
        .iter()
        .map(|source| Reader::new(source.file.as_str(), source.text.as_str(), &[]));
    let built_in = BUILT_IN.map(|(id, text)| Reader::new(format!("{id} (built in)"), text, &[]));
    let readers: Vec<Reader> = given.chain(built_in).collect();
    let mut profiles = read_files(sources, &readers, models, base);
    let mut diagnostics: Vec<_> = readers.into_iter().flat_map(Reader::finish).collect();
    // What is wrong with a file that others extend is found with each of them.
    let mut said = BTreeSet::new();
    diagnostics.retain(|mistake| said.insert((mistake.to_string(), mistake.hint.clone())));
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

/// The profiles of the files `sources`, which are the first of `readers`.
fn read_files(
    sources: &[Source],
    readers: &[Reader],
    models: &Models,
    base: &str,
) -> Vec<(Selector, Arc<Profile>)> {
    let documents: Vec<_> = readers.iter().map(Reader::document).collect();
    let files = Files::new(readers, &documents);
    let mut profiles = Vec::new();
    let mut holders: BTreeMap<String, &Source> = BTreeMap::new();
    for (file, source) in sources.iter().enumerate() {
        let Some((selector, profile, id, id_at)) = read_file(&files, file, models, base) else {
            continue;
        };
        match holders.get(&id) {
            Some(holder) if folder(&holder.file) == folder(&source.file) => {
                files.reader(file).error(
                    "duplicate-profile",
                    &id_at,
                    format!("profile `{id}` stands in {} already", holder.file),
                    "give one of them another id, or put the replacement into an earlier folder",
                );
            }
            Some(_) => {}
            None => {
                holders.insert(id, source);
                profiles.push((selector, Arc::new(profile)));
            }
        }
    }
    profiles
}

fn folder(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn read_file(
    files: &Files<'_>,
    file: usize,
    models: &Models,
    base: &str,
) -> Option<(Selector, Profile, String, At)> {
    let scope = Scope {
        reader: files.reader(file),
        models,
        base,
        extends: &files.extends_at(file),
        unknown: &RefCell::default(),
    };
    let chain = files.chain(file);
    let mut root = files.root(file);
    root.schema("mappings");
    let mut profile = Profile::unmapped(base);
    profile.hash = files.hash(&chain);
    let id = root
        .require("profile", "add `[profile]` with `id = \"…\"`")
        .and_then(|item| item.table("profile", "{ id = \"my-device\" }"))
        .and_then(|table| read_profile(table, files, file, &mut profile));
    let selector = selector::read(root.take("match"), scope, files.is_extended(file));
    if let Some(item) = root.take("device")
        && let Some(table) = item.table("device", "{ name = \"{endpoint:tail}\" }")
    {
        device::read(table, &selector, &mut profile);
    }
    let bases = chain.iter().skip(1).map(|file| files.root(*file));
    let mut layers = Layers::new(std::iter::once(root).chain(bases).collect());
    let mut places = clash::Places::default();
    for (_, item) in layers.take("instances").into_iter().rev() {
        if let Some(table) = item.table("instances", "{ \"3303/0\" = \"air\" }") {
            instances::read(table, &mut profile.instances, &mut places);
        }
    }
    read_signals(&mut layers, scope, &selector, &mut profile, &mut places);
    for part in layers.parts("command", name_of, command::hidden) {
        command::read(part.table, scope, &mut profile.commands);
    }
    let mut root = layers.into_root();
    if let Some(item) = root.take("on_register")
        && let Some(table) = item.table("on_register", "{ read = [\"/3/0/0\"] }")
    {
        profile.on_register = registering::read(table, scope);
    }
    root.not_built(&["group", "derived", "upstream", "outputs", "test", "params"]);
    root.belongs_elsewhere(
        &["id", "priority", "unmapped", "title", "extends"],
        "write it under [profile]",
    );
    root.belongs_elsewhere(&["endpoint", "objects"], "write it under [match]");
    root.finish();
    clash::find(&profile, scope, &places);
    let (id, at) = id?;
    Some((selector, profile, id, at))
}

/// The signals of a file, then those of what it extends, of each the most specific first.
fn read_signals<'a>(
    layers: &mut Layers<'a>,
    scope: Scope<'a>,
    selector: &Selector,
    profile: &mut Profile,
    places: &mut clash::Places<'a>,
) {
    let mut defaults = AllDefaults::new(layers);
    // Its mistakes are to be found without any signal.
    defaults.of(&[0], scope);
    let path = |table: &Table<'_>| {
        let pattern: PathPattern = table.peek_text("path")?.parse().ok()?;
        Some(pattern.to_string())
    };
    let mut rules: Vec<(usize, SignalRule, clash::Place<'_>)> = Vec::new();
    for part in layers.parts("signal", path, |_| &[]) {
        let place = clash::Place::new(part.table.reader(), part.table.at().clone());
        let defaults = defaults.of(&part.layers, scope);
        let layer = part.layers.first().copied().unwrap_or_default();
        let area = profile.area.as_deref();
        if let Some(rule) = signal::read(part.table, scope, selector, defaults, area) {
            rules.push((layer, rule, place));
        }
    }
    rules.sort_by_key(|(layer, rule, _)| (*layer, rule.pattern.specificity()));
    for (_, rule, place) in rules {
        profile.signals.push(rule);
        places.rules.push(place);
    }
}

/// The name that a `[[table]]` says it has.
fn name_of(table: &Table<'_>) -> Option<String> {
    table.peek_text("name").map(str::to_owned)
}

fn read_profile(
    mut table: Table<'_>,
    files: &Files<'_>,
    file: usize,
    profile: &mut Profile,
) -> Option<(String, At)> {
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
    if let Some(item) = table.take("extends") {
        files.check_bases(file, &item);
    }
    table.not_built(&["models"]);
    table.finish();
    profile.id = id.as_ref().map(|(id, _)| id.clone());
    id
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
