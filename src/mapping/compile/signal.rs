//! `[[signal]]` and `[defaults]`.

use std::sync::Arc;
use std::time::Duration;

use super::attributes::{self, OBSERVE_KEYS};
use super::subject::Subject;
use super::value::{self, VALUE_KEYS};
use super::{Scope, Selector, check_name, topic, write};
use crate::diagnostic::{Item, Table};
use crate::lwm2m::attributes::NotificationAttributes;
use crate::mapping::pattern::{PathPattern, PatternError};
use crate::mapping::rule::{HistoryRule, SignalRule, Unit, Way};
use crate::mapping::signal::{Format, Kind, OnOffline, StaleAfter};
use crate::mapping::template::Template;

/// What a signal has unless it says otherwise.
#[derive(Clone)]
pub(super) struct Defaults<'a> {
    qos: u8,
    retain: Option<bool>,
    format: Format,
    topic: Option<(Item<'a>, Template)>,
    observe: NotificationAttributes,
    history: bool,
    stale_after: StaleAfter,
    on_offline: OnOffline,
    expire: Option<u32>,
}

impl Default for Defaults<'_> {
    fn default() -> Self {
        Self {
            qos: 1,
            retain: None,
            format: Format::Json,
            topic: None,
            observe: NotificationAttributes::default(),
            history: false,
            stale_after: StaleAfter::default(),
            on_offline: OnOffline::default(),
            expire: None,
        }
    }
}

/// Keys of a signal that this version knows and does not build.
const NOT_BUILT: [&str; 3] = ["deadband", "ha", "set_topic"];

const FORMATS: [(&str, Option<Format>); 4] = [
    ("json", Some(Format::Json)),
    ("value", Some(Format::Value)),
    ("senml-json", None),
    ("cbor", None),
];

impl<'a> Defaults<'a> {
    pub(super) fn read(mut table: Table<'a>, scope: Scope<'a>) -> Self {
        let mut defaults = Self::default();
        read_qos(&mut table, &mut defaults.qos);
        read_format(&mut table, &mut defaults.format);
        defaults.retain = table.take("retain").and_then(|item| item.boolean());
        defaults.topic = table
            .take("topic")
            .and_then(|item| Some((item, topic::read(&item, scope)?)));
        let observe = table.take_all("observe");
        for item in observe.iter().rev() {
            defaults.observe = attributes::read(item, &defaults.observe);
        }
        if let Some(item) = observe.first() {
            attributes::check(item, &defaults.observe, &Subject::default());
            if defaults.observe.validate().is_err() {
                // Said once is enough: no signal inherits it.
                defaults.observe = NotificationAttributes::default();
            }
        }
        if let Some(item) = table.take("history") {
            defaults.history = item.boolean().unwrap_or_default();
        }
        read_stale_after(&mut table, &mut defaults.stale_after);
        read_on_offline(&mut table, &mut defaults.on_offline);
        read_expire(&mut table, &mut defaults.expire);
        table.belongs_elsewhere(&["telemetry"], "write it inside a `[[signal]]`");
        table.belongs_elsewhere(&["write"], "write it inside a `[[signal]]`");
        table.not_built(&NOT_BUILT);
        table.finish();
        defaults
    }
}

fn read_qos(table: &mut Table<'_>, qos: &mut u8) {
    if let Some(item) = table.take("qos")
        && let Some(number) = item.integer(0..=1)
    {
        *qos = u8::from(number == 1);
    }
}

fn read_format(table: &mut Table<'_>, format: &mut Format) {
    if let Some(item) = table.take("format") {
        match item.one_of(&FORMATS) {
            Some(Some(built)) => *format = built,
            Some(None) => item.not_built(),
            None => {}
        }
    }
}

/// `"2.5 pmax"`, a duration, or `"never"`.
fn read_stale_after(table: &mut Table<'_>, stale_after: &mut StaleAfter) {
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(366 * 86_400);
    let Some(item) = table.take("stale_after") else {
        return;
    };
    let Some(text) = item.text("2.5 pmax") else {
        return;
    };
    let periods = text
        .strip_suffix("pmax")
        .map(|number| number.trim().parse());
    let read = match (text, periods) {
        ("never", _) => Some(StaleAfter::Never),
        (_, Some(Ok(number))) if (1.0..=1000.0).contains(&number) => {
            Some(StaleAfter::Periods(number))
        }
        (_, Some(_)) => {
            item.error(
                "bad-value",
                format!("`{text}` is not so many times pmax"),
                "write a number from 1 to 1000: \"2.5 pmax\"",
            );
            None
        }
        (_, None) => item
            .duration(LEAST, MOST)
            .and_then(|time| Some(StaleAfter::Time(u32::try_from(time.as_secs()).ok()?))),
    };
    *stale_after = read.unwrap_or(*stale_after);
}

/// A Message Expiry Interval: whole seconds in 32 bits (MQTT 5 §3.3.2.3.3).
fn read_expire(table: &mut Table<'_>, expire: &mut Option<u32>) {
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(u32::MAX as u64);
    if let Some(item) = table.take("expire")
        && let Some(time) = item.duration(LEAST, MOST)
    {
        *expire = u32::try_from(time.as_secs()).ok();
    }
}

fn read_on_offline(table: &mut Table<'_>, on_offline: &mut OnOffline) {
    if let Some(item) = table.take("on_offline")
        && let Some(choice) = item.one_of(&[
            ("keep", OnOffline::Keep),
            ("stale", OnOffline::Stale),
            ("clear", OnOffline::Clear),
        ])
    {
        *on_offline = choice;
    }
}

/// Reads one `[[signal]]`; nothing when it has no sound path.
pub(super) fn read<'a>(
    mut table: Table<'a>,
    scope: Scope<'a>,
    selector: &Selector,
    defaults: &Defaults<'_>,
    area: Option<&str>,
) -> Option<SignalRule> {
    let path = table.require("path", "say which resource: `path = \"/3303/*/5700\"`");
    let pattern = path.and_then(|item| read_pattern(&item));
    let subject = match (&path, &pattern) {
        (Some(item), Some(pattern)) => Subject::find(item, pattern, scope, selector),
        _ => Subject::default(),
    };
    let name = read_name(&mut table, pattern.as_ref());
    let kind = read_kind(&mut table, &subject);
    let way = read_way(&mut table);
    let mut attributes = subject.applicable(&defaults.observe);
    let observe = table.take_all("observe");
    for item in observe.iter().rev() {
        attributes = attributes::read(item, &attributes);
    }
    if let Some(item) = observe.first() {
        attributes::check(item, &attributes, &subject);
    }
    let (transform, unit) = match table.take("value") {
        Some(item) => value::read(&item, &subject),
        None => (None, Unit::Model),
    };
    // A base is for no device itself; whoever extends it has the area.
    let signal_needs_area = |item: &Item<'_>, template: &Template| {
        if !selector.never {
            topic::needs_area(item, template, area, Some(scope));
        }
    };
    let own_topic = table
        .take("topic")
        .map(|item| topic::read(&item, scope).map(|template| (item, template)));
    let topic = own_topic.unwrap_or_else(|| defaults.topic.clone());
    if let (Some((item, template)), Some(pattern)) = (&topic, &pattern) {
        signal_needs_area(item, template);
        topic::distinguishes(item, template, pattern, subject.several, selector);
    }
    let mut qos = defaults.qos;
    read_qos(&mut table, &mut qos);
    let mut format = defaults.format;
    read_format(&mut table, &mut format);
    let retain = read_retain(&mut table, kind).or(defaults.retain);
    let history = read_history(&mut table, scope, kind, defaults.history);
    if let (Some((item, template)), Some(pattern)) = (&history.topic, &pattern) {
        signal_needs_area(item, template);
        topic::distinguishes(item, template, pattern, subject.several, selector);
    }
    let mut stale_after = defaults.stale_after;
    read_stale_after(&mut table, &mut stale_after);
    let mut on_offline = defaults.on_offline;
    read_on_offline(&mut table, &mut on_offline);
    let mut expire = defaults.expire;
    read_expire(&mut table, &mut expire);
    let write = table
        .take("write")
        .and_then(|item| write::read(&item, &subject, transform.as_ref()))
        .unwrap_or_default();
    table.not_built(&NOT_BUILT);
    table.belongs_elsewhere(&OBSERVE_KEYS, "write it inside `observe = { … }`");
    table.belongs_elsewhere(&VALUE_KEYS, "write it inside `value = { … }`");
    table.finish();
    Some(SignalRule {
        pattern: pattern?,
        name,
        kind,
        way,
        attributes,
        transform: transform.map(Arc::new),
        unit,
        topic: topic.map(|(_, template)| template),
        format,
        retain,
        qos,
        history: history.wanted.then(|| HistoryRule {
            topic: history.topic.map(|(_, template)| template),
            format: history.format,
        }),
        stale_after,
        on_offline,
        expire,
        write: Arc::new(write),
    })
}

fn read_pattern(item: &Item<'_>) -> Option<PathPattern> {
    let error = match item.text("/3303/*/5700")?.parse() {
        Ok(pattern) => return Some(pattern),
        Err(error) => error,
    };
    let (code, hint) = match error {
        PatternError::Version => (
            "version-in-path",
            "remove it, and bound the version under [match]: `objects = [\"3303 >=1.1\"]`",
        ),
        PatternError::Depth => (
            "bad-path",
            "write object, instance and resource: \"/3303/0/5700\", or \"/3303/*/5700\" for every instance",
        ),
        PatternError::Relative | PatternError::Number => {
            ("bad-path", "write it like \"/3303/*/5700\"")
        }
    };
    item.error(code, error.to_string(), hint);
    None
}

fn read_name(table: &mut Table<'_>, pattern: Option<&PathPattern>) -> Option<String> {
    let item = table.take("name")?;
    let name = item.text("temperature")?;
    if pattern.is_some_and(|pattern| pattern.object.is_none() || pattern.resource.is_none()) {
        item.error(
            "shared-name",
            "the path stands for several resources, which would have one name",
            "remove `name`: they are named after the registry",
        );
        return None;
    }
    check_name(&item, name).then(|| name.to_owned())
}

fn read_kind(table: &mut Table<'_>, subject: &Subject<'_>) -> Option<Kind> {
    let item = table.take("kind")?;
    let kind = item.one_of(&[
        ("state", Kind::State),
        ("setting", Kind::Setting),
        ("event", Kind::Event),
        ("telemetry", Kind::Telemetry),
    ])?;
    if let Some(resource) = subject.resource {
        let operations = resource.operations;
        if kind == Kind::Setting && !operations.write {
            item.error(
                "not-writable",
                format!("{} cannot be written, so it is no setting", resource.name),
                "write `kind = \"state\"`, or leave `kind` out",
            );
        } else if kind != Kind::Setting && !operations.read && operations.write {
            item.error(
                "not-readable",
                format!("{} can only be written", resource.name),
                "write `kind = \"setting\"`, or leave `kind` out",
            );
        }
    }
    Some(kind)
}

/// `source`: how values get here.
fn read_way(table: &mut Table<'_>) -> Way {
    let Some(item) = table.take("source") else {
        return Way::default();
    };
    let way = item.one_of(&[
        ("any", Some(Way::Observe)),
        ("observe", Some(Way::Observe)),
        ("send", Some(Way::Send)),
        ("register", Some(Way::Register)),
        ("poll", None),
    ]);
    if way == Some(None) {
        item.not_built();
    }
    way.flatten().unwrap_or_default()
}

fn read_retain(table: &mut Table<'_>, kind: Option<Kind>) -> Option<bool> {
    let item = table.take("retain")?;
    let retain = item.boolean()?;
    if let Some(kind) = kind.filter(|kind| retain && !kind.is_retained()) {
        item.error(
            "retained-event",
            format!("a signal of kind `{}` is never retained", kind.name()),
            "remove `retain`, or make it `kind = \"state\"`",
        );
    }
    Some(retain)
}

/// What is said of the stream of all samples.
struct History<'a> {
    wanted: bool,
    topic: Option<(Item<'a>, Template)>,
    format: Format,
}

/// Reads `history = true` and `telemetry = { … }`, which is the same with a topic or format of its
/// own.
fn read_history<'a>(
    table: &mut Table<'a>,
    scope: Scope<'a>,
    kind: Option<Kind>,
    by_default: bool,
) -> History<'a> {
    let mut history = History {
        wanted: by_default && kind != Some(Kind::Telemetry),
        topic: None,
        format: Format::Json,
    };
    let mut said = None;
    if let Some(item) = table.take("history") {
        history.wanted = item.boolean().unwrap_or_default();
        said = history.wanted.then_some(item);
    }
    if let Some(item) = table.take("telemetry")
        && let Some(mut telemetry) = item.table("telemetry", "{ topic = \"ts/{device}/{name}\" }")
    {
        history.wanted = true;
        history.topic = telemetry
            .take("topic")
            .and_then(|item| Some((item, topic::read(&item, scope)?)));
        read_format(&mut telemetry, &mut history.format);
        read_retain(&mut telemetry, Some(Kind::Telemetry));
        telemetry.finish();
        said = history.topic.is_none().then_some(item);
    }
    if let (Some(item), Some(Kind::Telemetry)) = (said, kind) {
        item.error(
            "needless-history",
            "every sample of a signal of kind `telemetry` is published on its topic already",
            format!("remove `{}`", item.key()),
        );
        history.wanted = false;
    }
    history
}
