//! One resource of one device, and how it is published.

use std::sync::Arc;

use super::command::{RangeError, WriteRules, check_bounds};
use super::transform::{Applied, Transform};
use crate::lwm2m::model::Operations;
use crate::lwm2m::path::Path;
use crate::lwm2m::value::{DataType, Value};

/// What a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A value that stands until the next one; retained.
    State,
    /// A state that may be written.
    Setting,
    /// Something that happened; never retained.
    Event,
    /// A stream of samples; never retained.
    Telemetry,
}

impl Kind {
    /// As mapping files and birth messages spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Setting => "setting",
            Self::Event => "event",
            Self::Telemetry => "telemetry",
        }
    }

    /// Whether the last value stands retained.
    pub const fn is_retained(self) -> bool {
        matches!(self, Self::State | Self::Setting)
    }

    /// The topic level between the device and the instance.
    pub(super) const fn topic_level(self) -> &'static str {
        match self {
            Self::State | Self::Setting => "v",
            Self::Event => "e",
            Self::Telemetry => "t",
        }
    }
}

/// How a value is written into a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An object with value, unit, time and quality.
    Json,
    /// The bare value as text.
    Value,
}

/// Where a resource's values go.
#[derive(Clone, Debug)]
pub enum Destination {
    /// Published as this signal.
    Signal(Signal),
    /// Published on a `raw/` topic: named by no signal, and the profile asks for such.
    Raw(Signal),
    /// Counted as unmapped.
    Count,
    /// Counted as dropped.
    Drop,
}

impl Destination {
    /// How it is published, if it is.
    pub const fn signal(&self) -> Option<&Signal> {
        match self {
            Self::Signal(signal) | Self::Raw(signal) => Some(signal),
            Self::Count | Self::Drop => None,
        }
    }
}

/// One resource of one device, and how it is published.
#[derive(Clone, Debug)]
pub struct Signal {
    /// The resource or resource instance.
    pub path: Path,
    /// The name of its object instance, one topic level.
    pub instance: String,
    /// Its name within the instance, one topic level.
    pub name: String,
    /// Where its values are published.
    pub topic: Arc<str>,
    /// What it is for.
    pub kind: Kind,
    /// How its value is written.
    pub format: Format,
    /// Whether the broker keeps the last value.
    pub retain: bool,
    /// 0 or 1.
    pub qos: u8,
    /// The unit of the published value.
    pub unit: Option<Arc<str>>,
    /// The type of the resource on the device, if it is known.
    pub data_type: Option<DataType>,
    /// What the object's definition allows; read and write where none is known.
    pub access: Operations,
    /// What lies between the device's value and the published one.
    pub transform: Option<Arc<Transform>>,
    /// What is to be kept to when it is written.
    pub write: Option<Arc<WriteRules>>,
    /// Where every sample goes besides, whenever it was taken.
    pub history: Option<Arc<History>>,
    /// When its value is old.
    pub stale_after: StaleAfter,
    /// What becomes of its value when the device leaves.
    pub on_offline: OnOffline,
    /// After so many seconds without another message the broker deletes the retained one (MQTT 5
    /// §3.3.2.3.3).
    pub expire: Option<u32>,
}

/// How long the value of a signal is good without another one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StaleAfter {
    /// So many times the `pmax` that it is observed with; for good without one.
    Periods(f32),
    /// So many seconds.
    Time(u32),
    /// For good.
    Never,
}

impl Default for StaleAfter {
    fn default() -> Self {
        Self::Periods(1.5)
    }
}

/// What becomes of a retained value when its device leaves (MQTT contract §6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOffline {
    /// It stays: the availability tells.
    #[default]
    Keep,
    /// It is marked as stale.
    Stale,
    /// It is deleted.
    Clear,
}

impl Signal {
    /// What is published of a value of the device.
    pub fn apply(&self, value: Value) -> Applied {
        match &self.transform {
            Some(transform) => transform.apply(value),
            None => Applied::good(value),
        }
    }

    /// Between which values it may be written, in the published unit: its `write` and its `value`
    /// may both say so.
    pub fn bounds(&self) -> (Option<f64>, Option<f64>) {
        let write = self.write.as_deref();
        let value = self.transform.as_deref();
        let tighter =
            |one: Option<f64>, other: Option<f64>, pick: fn(f64, f64) -> f64| match (one, other) {
                (Some(one), Some(other)) => Some(pick(one, other)),
                (one, other) => one.or(other),
            };
        (
            tighter(
                write.and_then(|it| it.min),
                value.and_then(|it| it.min),
                f64::max,
            ),
            tighter(
                write.and_then(|it| it.max),
                value.and_then(|it| it.max),
                f64::min,
            ),
        )
    }

    /// Whether a value, as it is published, may be written.
    ///
    /// # Errors
    ///
    /// The bound or step that it breaks.
    pub fn check(&self, wanted: &Value) -> Result<(), RangeError> {
        if let Some(number) = wanted.as_f64() {
            let (min, max) = self.bounds();
            check_bounds(number, min, max)?;
        }
        self.write
            .as_ref()
            .map_or(Ok(()), |rules| rules.check(wanted))
    }

    /// Every topic that it publishes on.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        let history = self.history.as_ref().map(|history| &history.topic);
        std::iter::once(&self.topic).chain(history)
    }
}

/// The stream of all samples of a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Where they are published; never retained.
    pub topic: Arc<str>,
    /// How a sample is written.
    pub format: Format,
}
