//! A compiled profile: names and topics of one kind of device.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::DeviceFacts;
use super::command::Command;
use super::registering::OnRegister;
use super::rule::{InstanceNames, SignalRule, Unit, Way};
use super::signal::{Destination, Format, History, Kind, OnOffline, Signal, StaleAfter};
use super::template::{Field, Template, endpoint_tail, push_number};
use crate::lwm2m::model::{DeviceTypes, Models, Operations, ResourceModel, ResourceTypes};
use crate::lwm2m::path::{Id, Path};
use crate::lwm2m::value::DataType;
use crate::name::{clean, clean_name, short_hash};

/// What happens to resources that no signal of the profile names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmapped {
    /// Named after the registry, as without a mapping.
    Default,
    /// Published under `raw/` by their numbers.
    Raw,
    /// Counted.
    Count,
    /// Left out.
    Drop,
}

/// How the values of a device get here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// An observation of each node.
    #[default]
    Single,
    /// One composite observation of all nodes, where the device can.
    Composite,
    /// A composite observation of the nodes of each object, where the device can.
    CompositeByObject,
    /// No observation: all nodes are read whenever the device is heard of, at each Update.
    PollOnWake,
    /// No observation: the device sends.
    Send,
}

impl Strategy {
    /// Whether it needs composite operations, and does without where a device has none.
    pub const fn is_composite(self) -> bool {
        matches!(self, Self::Composite | Self::CompositeByObject)
    }
}

/// How the devices of one kind are named, observed and published.
#[derive(Clone, Debug)]
pub struct Profile {
    pub(super) id: Option<String>,
    pub(super) title: Option<String>,
    pub(super) priority: i64,
    pub(super) hash: String,
    pub(super) base: Arc<str>,
    pub(super) unmapped: Unmapped,
    pub(super) device_name: Option<Template>,
    pub(super) area: Option<String>,
    pub(super) strategy: Strategy,
    pub(super) instances: InstanceNames,
    /// Those of the file, then those of what it extends; of each the most specific first.
    pub(super) signals: Vec<SignalRule>,
    pub(super) commands: BTreeMap<String, Command>,
    pub(super) on_register: OnRegister,
    /// How long a device in queue mode listens after a message of its own.
    pub(super) reachable_for: Option<Duration>,
}

impl Profile {
    /// The profile of a device that no mapping is for.
    pub(super) fn unmapped(base: &str) -> Self {
        Self {
            id: None,
            title: None,
            priority: 0,
            hash: short_hash(b"lwm2mqtt names of the registry"),
            base: base.into(),
            unmapped: Unmapped::Default,
            device_name: None,
            area: None,
            strategy: Strategy::default(),
            instances: InstanceNames::default(),
            signals: Vec::new(),
            commands: BTreeMap::new(),
            on_register: OnRegister::default(),
            reachable_for: None,
        }
    }

    /// The id in the mapping file; none without a mapping.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The title in the mapping file.
    pub fn title(&self) -> Option<&str> {
        self.title.as_deref()
    }

    /// Of several profiles for a device the one with the highest counts.
    pub fn priority(&self) -> i64 {
        self.priority
    }

    /// Six hex digits that change with the mapping file, and with those that it extends.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// How the values of a device get here.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Whether the device has to send: by its strategy, or because a signal comes by no other way.
    pub fn expects_sends(&self) -> bool {
        self.strategy == Strategy::Send || self.signals.iter().any(|rule| rule.way == Way::Send)
    }

    /// The topic name of a device: one level, at most [`MAX_NAME`](super::MAX_NAME) bytes.
    ///
    /// It may be the name of another device; the one who comes later is then called
    /// [`suffixed`](super::suffixed).
    pub fn device_name(&self, facts: &DeviceFacts<'_>) -> String {
        let Some(template) = &self.device_name else {
            return clean_name(facts.endpoint);
        };
        let name = template.render(|field, text| match field {
            Field::Base => text.push_str(&self.base),
            _ => self.push_device_field(field, facts.endpoint, text),
        });
        clean(&name, facts.endpoint)
    }

    /// The name of an object instance on topics.
    pub fn instance_name(&self, object: Id, instance: Id, models: &Models) -> String {
        self.instances
            .name(object, instance)
            .unwrap_or_else(|| models.instance_name(object, instance))
    }

    /// Where the values of `path` go; the device is called `device`.
    ///
    /// A path that is neither a resource nor a resource instance is counted.
    pub fn signal(
        &self,
        device: &str,
        facts: &DeviceFacts<'_>,
        path: &Path,
        models: &Models,
    ) -> Destination {
        let &[object, instance, resource, ref index @ ..] = path.ids() else {
            return Destination::Count;
        };
        let index = index.first().copied();
        let named = Named {
            path: *path,
            instance: self.instance_name(object, instance, models),
            name: models.signal_name(object, resource, index),
        };
        let rule = self.rule(path);
        match (rule, self.unmapped) {
            (Some(rule), _) => Destination::Signal(self.ruled(rule, named, device, facts, models)),
            (None, Unmapped::Default) => {
                let (access, kind) = self.access(facts, path, models);
                let topic = format!(
                    "{}/d/{device}/v/{}/{}",
                    self.base, named.instance, named.name
                );
                Destination::Signal(Signal {
                    topic: topic.into(),
                    kind,
                    format: Format::Json,
                    retain: true,
                    qos: 1,
                    unit: resource_model(facts, path, models)
                        .and_then(|model| model.units)
                        .map(Arc::from),
                    data_type: data_type(facts, path, models),
                    access,
                    transform: None,
                    write: None,
                    history: None,
                    stale_after: StaleAfter::default(),
                    on_offline: OnOffline::default(),
                    expire: None,
                    path: named.path,
                    instance: named.instance,
                    name: named.name,
                })
            }
            (None, Unmapped::Raw) => Destination::Raw(Signal {
                topic: format!("{}/d/{device}/raw{path}", self.base).into(),
                kind: Kind::Telemetry,
                format: Format::Json,
                retain: false,
                qos: 0,
                unit: None,
                data_type: data_type(facts, path, models),
                access: self.access(facts, path, models).0,
                transform: None,
                write: None,
                history: None,
                stale_after: StaleAfter::default(),
                on_offline: OnOffline::default(),
                expire: None,
                path: named.path,
                instance: named.instance,
                name: named.name,
            }),
            (None, Unmapped::Count) => Destination::Count,
            (None, Unmapped::Drop) => Destination::Drop,
        }
    }

    fn ruled(
        &self,
        rule: &SignalRule,
        mut named: Named,
        device: &str,
        facts: &DeviceFacts<'_>,
        models: &Models,
    ) -> Signal {
        let path = named.path;
        // A signal of a whole resource is also that of its instances, which need names of their own.
        let appended = match rule.pattern.index {
            Some(Some(_)) => None,
            _ => path.resource_instance_id(),
        };
        if let Some(name) = &rule.name {
            named.name = match appended {
                Some(index) => format!("{name}-{index}"),
                None => name.clone(),
            };
        }
        let (mut access, mut by_access) = self.access(facts, &path, models);
        let is_one_way = rule.transform.as_ref().is_some_and(|it| it.is_one_way());
        if is_one_way && rule.write.expr.is_none() {
            (access.write, by_access) = (false, Kind::State);
        }
        let kind = rule.kind.unwrap_or(by_access);
        let topic = |own: Option<&Template>, level| match own {
            Some(template) => {
                let mut topic = template.render(|field, text| match field {
                    Field::Name => text.push_str(&named.name),
                    Field::Inst => text.push_str(&named.instance),
                    Field::Device => text.push_str(device),
                    _ => self.push_path_field(field, &path, facts.endpoint, text),
                });
                if let Some(index) = appended
                    && !template.has(Field::Riid)
                    && !template.has(Field::Name)
                {
                    topic.push('/');
                    push_number(&mut topic, index);
                }
                Arc::from(topic)
            }
            None => Arc::from(format!(
                "{}/d/{device}/{level}/{}/{}",
                self.base, named.instance, named.name
            )),
        };
        let history = rule.history.as_ref().map(|history| {
            Arc::new(History {
                topic: topic(history.topic.as_ref(), Kind::Telemetry.topic_level()),
                format: history.format,
            })
        });
        let topic = topic(rule.topic.as_ref(), kind.topic_level());
        let unit = match &rule.unit {
            Unit::Named(unit) => Some(Arc::clone(unit)),
            Unit::None => None,
            Unit::Model => resource_model(facts, &path, models)
                .and_then(|model| model.units)
                .map(Arc::from),
        };
        Signal {
            path,
            topic,
            kind,
            format: rule.format,
            retain: rule.retain.unwrap_or(true) && kind.is_retained(),
            qos: rule.qos,
            unit,
            data_type: data_type(facts, &path, models),
            access,
            transform: rule.transform.clone(),
            write: Some(rule.write.clone()),
            history,
            stale_after: rule.stale_after,
            on_offline: rule.on_offline,
            expire: rule.expire,
            instance: named.instance,
            name: named.name,
        }
    }

    /// The path that topics call `{instance}/{name}`, the reverse of [`Profile::signal`].
    ///
    /// Of an object that the device registered, or else of any that has the name.
    pub fn path_of(
        &self,
        facts: &DeviceFacts<'_>,
        instance: &str,
        name: &str,
        models: &Models,
    ) -> Option<Path> {
        let mut instances = self.instances.named(instance);
        instances.extend(
            models
                .instance_by_name(instance)
                .filter(|&(object, id)| self.instances.name(object, id).is_none()),
        );
        // A name may stand for instances of several objects; the registered ones come first.
        instances.sort_by_key(|(object, _)| facts.object(*object).is_none());
        instances
            .into_iter()
            .find_map(|(object, instance)| self.path_within(object, instance, name, models))
    }

    fn path_within(&self, object: Id, instance: Id, name: &str, models: &Models) -> Option<Path> {
        let by_rule = self
            .signals
            .iter()
            .filter(|rule| rule.pattern.touches(object, instance))
            .find_map(|rule| {
                let wanted = rule.name.as_deref()?;
                let resource = Path::resource(object, instance, rule.pattern.resource?);
                let path = match (rule.pattern.index, name.strip_prefix(wanted)?) {
                    (None, "") => resource,
                    (Some(Some(index)), "") => resource.child(index)?,
                    (None | Some(None), rest) => {
                        resource.child(super::pattern::parse_id(rest.strip_prefix('-')?)?)?
                    }
                    _ => return None,
                };
                let winner = self.rule(&path)?;
                std::ptr::eq(winner, rule).then_some(path)
            });
        by_rule.or_else(|| {
            let (resource, index) = models.signal_by_name(object, name)?;
            let path = Path::from_ids(&[object, instance, resource])?;
            let path = match index {
                Some(index) => path.child(index)?,
                None => path,
            };
            let keeps_its_name = match self.rule(&path) {
                Some(rule) => rule.name.is_none(),
                None => self.unmapped == Unmapped::Default,
            };
            keeps_its_name.then_some(path)
        })
    }

    /// Whether a signal with a topic of its own may go to `topic`, as far as its mapping tells.
    pub(super) fn publishes_on(&self, topic: &str) -> bool {
        // The number of a resource instance may follow.
        let before_number = topic
            .rsplit_once('/')
            .filter(|(_, last)| super::pattern::parse_id(last).is_some())
            .map(|(before, _)| before);
        self.signals
            .iter()
            .flat_map(SignalRule::templates)
            .any(|template| {
                template.may_be(topic, &self.base)
                    || before_number.is_some_and(|topic| template.may_be(topic, &self.base))
            })
    }

    /// A `[[command]]`.
    pub fn command(&self, name: &str) -> Option<&Command> {
        self.commands.get(name)
    }

    /// Every `[[command]]`, in the order of their names.
    pub fn commands(&self) -> impl Iterator<Item = (&str, &Command)> {
        self.commands
            .iter()
            .map(|(name, command)| (name.as_str(), command))
    }

    /// How long a device in queue mode listens after a message of its own, if the mapping says so.
    pub fn reachable_for(&self) -> Option<Duration> {
        self.reachable_for
    }

    /// The rule that counts for a path.
    pub(super) fn rule(&self, path: &Path) -> Option<&SignalRule> {
        self.signals.iter().find(|rule| rule.pattern.matches(path))
    }

    /// What may be done with a resource, and what kind of signal it is by that.
    fn access(&self, facts: &DeviceFacts<'_>, path: &Path, models: &Models) -> (Operations, Kind) {
        match resource_model(facts, path, models) {
            Some(model) if model.operations.write => (model.operations, Kind::Setting),
            Some(model) => (model.operations, Kind::State),
            None => {
                let unknown = Operations {
                    read: true,
                    write: true,
                    execute: false,
                };
                (unknown, Kind::State)
            }
        }
    }

    /// What a placeholder stands for that is about the device alone; nothing for others.
    pub fn device_field(&self, field: Field, endpoint: &str) -> String {
        let mut text = String::new();
        self.push_device_field(field, endpoint, &mut text);
        text
    }

    fn push_device_field(&self, field: Field, endpoint: &str, text: &mut String) {
        match field {
            Field::Endpoint => text.push_str(&clean_name(endpoint)),
            Field::EndpointTail => text.push_str(&clean(endpoint_tail(endpoint), endpoint)),
            Field::DeviceArea => text.push_str(self.area.as_deref().unwrap_or_default()),
            _ => {}
        }
    }

    fn push_path_field(&self, field: Field, path: &Path, endpoint: &str, text: &mut String) {
        let id = match field {
            Field::Base => return text.push_str(&self.base),
            Field::Oid => path.object_id(),
            Field::Iid => path.instance_id(),
            Field::Rid => path.resource_id(),
            Field::Riid => path.resource_instance_id(),
            _ => return self.push_device_field(field, endpoint, text),
        };
        if let Some(id) = id {
            push_number(text, id);
        }
    }
}

struct Named {
    path: Path,
    instance: String,
    name: String,
}

fn data_type(facts: &DeviceFacts<'_>, path: &Path, models: &Models) -> Option<DataType> {
    let types = DeviceTypes::new(models, facts.lwm2m, facts.objects);
    types
        .resource_type(path.object_id()?, path.resource_id()?)?
        .data_type
}

/// The definition of a resource: in the registered version of its object, else in the newest that
/// has it.
fn resource_model<'a>(
    facts: &DeviceFacts<'_>,
    path: &Path,
    models: &'a Models,
) -> Option<ResourceModel<'a>> {
    let (object, resource) = (path.object_id()?, path.resource_id()?);
    let version = DeviceTypes::new(models, facts.lwm2m, facts.objects).version(object);
    models
        .object(object, version)?
        .resource(resource)
        .or_else(|| models.newest_resource(object, resource))
}
