//! Operations on a device, and the requests that they become
//! (LwM2M Core 1.1 §6.3, §6.4; Transport 1.1 §6.4).

use std::borrow::Cow;

use super::answer::OperationError;
use super::formats::Composite;
use crate::coap::{Code, Observe, Request};
use crate::lwm2m::attributes::{AttributeChange, NotificationAttributes};
use crate::lwm2m::codec::{self, Change, Context, EncodeError, ResourceTypes};
use crate::lwm2m::{Arguments, ContentFormat, Id, Level, Path, Record, Target, Version};

/// Something that the server asks of a device.
///
/// A device that has no composite operations is asked for one node after the other instead; the
/// [`Answer`](super::Answer) says so.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Read an object, instance, resource or resource instance; or several (Read-Composite).
    Read(Target),
    /// Write below a path. `replace` is PUT, and drops what is not written; otherwise POST, the
    /// partial update of an instance, or of a resource with several values.
    Write {
        /// The target of the request; the records lie at or below it.
        path: Path,
        /// What to write.
        records: Vec<Record>,
        /// Replace instead of update.
        replace: bool,
    },
    /// Write resources and resource instances anywhere: all of them, or none (Write-Composite).
    /// Since LwM2M 1.2 it deletes resource instances too.
    WriteComposite(Vec<Change>),
    /// Attach notification attributes, and take them away.
    WriteAttributes(Path, AttributeChange),
    /// Execute a resource.
    Execute(Path, Arguments),
    /// List what is below a path, with its attributes; so many levels deep, since LwM2M 1.2. Of an
    /// older device, what lies deeper than wanted is left out of the answer.
    Discover(Path, Option<u8>),
    /// Begin to observe; with attributes of its own, since LwM2M 1.2.
    Observe(Target, NotificationAttributes),
    /// End an observation.
    CancelObserve(Target),
    /// Create an instance of an object.
    Create {
        /// The object.
        object: Id,
        /// The instance. Without one the device chooses; or we, of those that are free, where the
        /// format has no way to leave it open.
        instance: Option<Id>,
        /// Its resources, at `/object/instance/…`; without an instance, at `/object/0/…`.
        records: Vec<Record>,
    },
    /// Delete an instance; or a resource instance, since LwM2M 1.1.
    Delete(Path),
}

impl Operation {
    /// What the operation is about.
    pub fn target(&self) -> Target {
        match self {
            Self::Read(target) | Self::Observe(target, _) | Self::CancelObserve(target) => {
                target.clone()
            }
            Self::Write { path, .. }
            | Self::WriteAttributes(path, _)
            | Self::Execute(path, _)
            | Self::Discover(path, _)
            | Self::Delete(path) => Target::Node(*path),
            Self::WriteComposite(changes) => {
                Target::composite(changes.iter().map(|change| change.path))
            }
            Self::Create {
                object, instance, ..
            } => {
                let object = Path::object(*object);
                Target::Node(instance.and_then(|id| object.child(id)).unwrap_or(object))
            }
        }
    }

    /// The operation's name on MQTT.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Read(Target::Node(_)) => "read",
            Self::Read(Target::Composite(_)) => "read-composite",
            Self::Write { .. } => "write",
            Self::WriteComposite(_) => "write-composite",
            Self::WriteAttributes(..) => "write-attributes",
            Self::Execute(..) => "execute",
            Self::Discover(..) => "discover",
            Self::Observe(Target::Node(_), _) => "observe",
            Self::Observe(Target::Composite(_), _) => "observe-composite",
            Self::CancelObserve(Target::Node(_)) => "cancel-observe",
            Self::CancelObserve(Target::Composite(_)) => "cancel-observe-composite",
            Self::Create { .. } => "create",
            Self::Delete(_) => "delete",
        }
    }

    /// Whether it does no harm to do it twice.
    pub const fn is_repeatable(&self) -> bool {
        match self {
            Self::Execute(..) | Self::Create { .. } => false,
            Self::Read(_)
            | Self::Write { .. }
            | Self::WriteComposite(_)
            | Self::WriteAttributes(..)
            | Self::Discover(..)
            | Self::Observe(..)
            | Self::CancelObserve(_)
            | Self::Delete(_) => true,
        }
    }

    /// The method of its request.
    pub const fn method(&self) -> Code {
        match self {
            Self::Read(target) | Self::Observe(target, _) | Self::CancelObserve(target) => {
                if target.is_composite() {
                    Code::FETCH
                } else {
                    Code::GET
                }
            }
            Self::WriteComposite(_) => Code::IPATCH,
            Self::Discover(..) => Code::GET,
            Self::WriteAttributes(..) | Self::Write { replace: true, .. } => Code::PUT,
            Self::Write { .. } | Self::Execute(..) | Self::Create { .. } => Code::POST,
            Self::Delete(_) => Code::DELETE,
        }
    }

    /// What its payload has to carry; `None` where no Content-Format is chosen.
    pub(super) fn shape(&self, types: &dyn ResourceTypes) -> Option<Shape> {
        // That of a resource instance, or of a resource that is not known to have several.
        let of = |path: &Path| match *path.ids() {
            [object, _, resource] => match types.resource_type(object, resource) {
                Some(resource) if resource.multiple => Shape::Values,
                _ => Shape::Value,
            },
            [_, _, _, _] => Shape::Value,
            _ => Shape::Values,
        };
        Some(match self {
            Self::Read(Target::Node(path)) | Self::Observe(Target::Node(path), _) => of(path),
            Self::Read(_) | Self::Observe(..) => Shape::Anywhere,
            Self::WriteComposite(changes) => {
                match changes.iter().any(|change| change.value.is_none()) {
                    true => Shape::Deletions,
                    false => Shape::Anywhere,
                }
            }
            Self::Write {
                path,
                replace: true,
                records,
            } if matches!(&records[..], [record] if record.path == *path) => of(path),
            // The update of a resource would be an Execute as text.
            Self::Write { .. } | Self::Create { .. } => Shape::Values,
            Self::WriteAttributes(..)
            | Self::Execute(..)
            | Self::Discover(..)
            | Self::CancelObserve(_)
            | Self::Delete(_) => return None,
        })
    }

    /// Whether a device of this version can be asked.
    ///
    /// # Errors
    ///
    /// [`OperationError::NotOffered`], for what a later version brought and no other operation
    /// stands in for.
    pub(super) fn offered(&self, version: Version) -> Result<(), OperationError> {
        let since = match self {
            Self::Observe(_, attributes) if !attributes.is_empty() => Version::V1_2,
            Self::Delete(path) if path.level() == Level::ResourceInstance => Version::V1_1,
            _ => return Ok(()),
        };
        let what = match self {
            Self::Delete(_) => "to delete a resource instance",
            _ => "an observation with attributes of its own",
        };
        match version >= since {
            true => Ok(()),
            false => Err(OperationError::NotOffered(format!(
                "{what} needs LwM2M {since}, and the device speaks {version}"
            ))),
        }
    }

    /// The same with an instance, if it is a Create without one.
    pub(super) fn with_instance(&self, chosen: Option<Id>) -> Cow<'_, Self> {
        match (self, chosen) {
            (
                Self::Create {
                    object,
                    instance: None,
                    records,
                },
                Some(chosen),
            ) => Cow::Owned(Self::Create {
                object: *object,
                instance: Some(chosen),
                records: records
                    .iter()
                    .filter_map(|record| {
                        let mut ids = record.path.ids().to_vec();
                        *ids.get_mut(1)? = chosen;
                        let path = Path::from_ids(&ids)?;
                        Some(Record {
                            path,
                            ..record.clone()
                        })
                    })
                    .collect(),
            }),
            _ => Cow::Borrowed(self),
        }
    }

    /// Where the names in its payload, and in the payload of its answer, have to lie.
    pub(super) fn base(&self) -> Path {
        match self {
            Self::Create {
                object, instance, ..
            } => match instance {
                Some(_) => Path::object(*object),
                None => Path::instance(*object, 0),
            },
            _ => self.target().base(),
        }
    }

    /// The request for this operation, in `formats` where it needs some, to a device of `version`.
    pub(super) fn to_request(
        &self,
        formats: Option<Composite>,
        version: Version,
        context: &Context<'_>,
    ) -> Result<Request, EncodeError> {
        let addressed = match self {
            Self::Create { object, .. } => Path::object(*object),
            _ => self.target().base(),
        };
        let format = formats.map_or(ContentFormat::TEXT, |formats| formats.body);
        let number = formats.map(|formats| formats.body.0);
        let mut request = Request::new(self.method(), segments(context.alternate, &addressed));
        match self {
            Self::Read(target) | Self::Observe(target, _) | Self::CancelObserve(target) => {
                request.accept = formats.map(|formats| formats.accept.0);
                if let Target::Composite(paths) = target {
                    request.content_format = number;
                    request.payload = codec::encode_paths(format, paths, context)?;
                }
                match self {
                    Self::Observe(_, attributes) => {
                        request.observe = Some(Observe::Register);
                        request.query = attributes.to_queries();
                    }
                    Self::CancelObserve(_) => request.observe = Some(Observe::Deregister),
                    _ => {}
                }
            }
            Self::Write { records, .. }
            | Self::Create {
                records,
                instance: Some(_),
                ..
            } => {
                request.content_format = number;
                request.payload = codec::encode(format, records, context)?;
            }
            Self::Create { records, .. } => {
                request.content_format = number;
                request.payload = codec::encode_new(format, records, context)?;
            }
            Self::WriteComposite(changes) => {
                request.content_format = number;
                request.payload = codec::encode_changes(format, changes, context)?;
            }
            Self::WriteAttributes(_, change) => request.query = change.to_queries(),
            Self::Execute(_, arguments) => {
                request.content_format = (!arguments.is_empty()).then_some(ContentFormat::TEXT.0);
                request.payload = arguments.to_string().into_bytes();
            }
            Self::Discover(_, depth) => {
                request.accept = Some(ContentFormat::LINK_FORMAT.0);
                let depth = depth.filter(|_| version >= Version::V1_2);
                request.query = depth.iter().map(|depth| format!("depth={depth}")).collect();
            }
            Self::Delete(_) => {}
        }
        Ok(request)
    }
}

/// What a payload has to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One value, or several of one resource.
    Value,
    /// Values beneath one node.
    Values,
    /// Values or paths anywhere, of a composite operation.
    Anywhere,
    /// Values anywhere, and deletions.
    Deletions,
}

/// Uri-Path of a node, below the alternate path if the device has one. A composite operation goes
/// to the bare root: some clients refuse any other path, and a query (Anjay).
pub(super) fn segments(alternate: Option<&str>, path: &Path) -> Vec<String> {
    let root = alternate
        .unwrap_or_default()
        .split('/')
        .filter(|segment| !segment.is_empty());
    root.map(str::to_owned)
        .chain(path.ids().iter().map(ToString::to_string))
        .collect()
}
