//! The mapping language: what a device's resources are called, how they are observed and published.
//!
//! [`Plan::compile`] turns mapping files into a [`Plan`], or says everything that is wrong with
//! them. A plan finds the [`Profile`] of a device, and a profile answers what the gateway asks:
//! the device's name, the observations wanted, the [`Signal`] of a path and the path of a signal.
//! Without any file, [`Plan::unmapped`] names everything after the registry.

mod command;
mod compile;
pub mod expression;
mod layout;
mod observe;
mod pattern;
mod profile;
mod published;
mod registering;
mod rule;
mod select;
mod signal;
mod template;
mod transform;
mod unit;

use std::sync::Arc;

pub use crate::diagnostic::Source;
pub use crate::name::{MAX_NAME, breaks_text, clean, clean_name, suffixed};
pub use command::{
    Command, Confirm, Content, Parameter, Part, Placeholder, QueueKind, RangeError, Step, Waits,
    WriteRules,
};
pub use compile::{Compiled, RESERVED};
pub use expression::Expression;
pub use observe::Desired;
pub use pattern::{PathPattern, PatternError};
pub use profile::{Profile, Strategy, Unmapped};
pub use published::Published;
pub use signal::{Destination, Format, History, Kind, OnOffline, Signal, StaleAfter};
pub use template::{Field, Template, TemplateError, endpoint_tail};
pub use transform::{Applied, Flaw, Transform, TransformError};

use crate::lwm2m::model::{Models, Version};
use crate::lwm2m::path::Id;
use crate::lwm2m::registered::RegisteredObject;
use select::Selector;

/// What is known of a device when its profile is chosen.
#[derive(Clone, Copy, Debug)]
pub struct DeviceFacts<'a> {
    /// The endpoint name.
    pub endpoint: &'a str,
    /// The LwM2M version that it speaks.
    pub lwm2m: Version,
    /// What it registered, ascending by id.
    pub objects: &'a [RegisteredObject],
}

impl<'a> DeviceFacts<'a> {
    /// The object, if the device registered it.
    pub fn object(&self, id: Id) -> Option<&'a RegisteredObject> {
        let at = self.objects.binary_search_by_key(&id, |object| object.id);
        at.ok().and_then(|at| self.objects.get(at))
    }
}

/// All profiles, immutable; cheap to clone.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The winning one first.
    profiles: Arc<[(Selector, Arc<Profile>)]>,
    /// For a device that no profile is for.
    default: Arc<Profile>,
}

impl Plan {
    /// No profiles: every name comes from the registry.
    pub fn unmapped(base_topic: &str) -> Self {
        Self {
            profiles: Arc::new([]),
            default: Arc::new(Profile::unmapped(base_topic)),
        }
    }

    /// Compiles mapping files.
    ///
    /// Of two profiles with one id the one of the earlier folder in `sources` counts: so an
    /// operator's file replaces the shipped one. Within a folder that is a mistake. The plan is
    /// absent when there is any error.
    pub fn compile(sources: &[Source], models: &Models, base_topic: &str) -> Compiled {
        compile::compile(sources, models, base_topic)
    }

    /// The profile of a device: of those that are for it the one with the highest priority, then
    /// the most specific; the default without a mapping when there is none.
    pub fn profile(&self, facts: &DeviceFacts<'_>) -> Arc<Profile> {
        let chosen = self
            .profiles
            .iter()
            .find(|(selector, _)| selector.selects(facts));
        Arc::clone(chosen.map_or(&self.default, |(_, profile)| profile))
    }

    /// Six hex digits that change with any mapping file.
    pub fn hash(&self) -> String {
        let hashes: String = self.profiles().map(Profile::hash).collect();
        crate::name::short_hash(hashes.as_bytes())
    }

    /// Whether a topic outside `{base}/d/` is one that a mapping publishes values on, of whatever
    /// device.
    pub fn publishes_on(&self, topic: &str) -> bool {
        self.profiles().any(|profile| profile.publishes_on(topic))
    }

    /// Every profile, in the order in which they are tried.
    pub fn profiles(&self) -> impl Iterator<Item = &Profile> {
        self.profiles.iter().map(|(_, profile)| &**profile)
    }
}

#[cfg(test)]
mod tests;
