//! Another plan while devices are here: what differs is asked of them and published, and nothing
//! else.

use serde_json::json;

use crate::diagnostic::Diagnostic;
use crate::gateway::admin::{AdminError, Waiter};
use crate::gateway::device::Tracked;
use crate::gateway::{Event, Gateway, Output};
use crate::kept;
use crate::mapping::{Destination, DeviceFacts, Plan, Profile};
use crate::server::DeviceId;
use crate::time::Now;

/// Requests for a reading that wait at a time.
const WAITERS: usize = 16;

/// Mistakes that an event has, and the characters of each.
const MISTAKES: usize = 8;
const MISTAKE_MAX: usize = 300;

/// Why mapping files were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingCause {
    /// One of them changed.
    Change,
    /// The operator sent a signal.
    Signal,
    /// The core wanted it ([`Output::ReadMappings`]).
    Request,
}

/// Mapping files, read and compiled.
#[derive(Clone, Debug)]
pub struct MappingsRead {
    /// Why.
    pub cause: MappingCause,
    /// How many there are.
    pub files: usize,
    /// What they say, if there is no mistake in any of them.
    pub plan: Option<Plan>,
    /// Every mistake and warning.
    pub diagnostics: Vec<Diagnostic>,
}

/// Who wants the mapping files read.
#[derive(Debug, Default)]
pub(super) struct Reload {
    /// Those for whom they are being read.
    reading: Vec<Waiter>,
    /// Those who came since then: what they want read may have been written meanwhile.
    next: Vec<Waiter>,
    /// Whether the last reading had a mistake.
    rejected: bool,
}

impl Gateway {
    /// Has the mapping files read for one who asks, who is answered when they have been.
    pub(super) fn reload_mappings(&mut self, waiter: Waiter) -> Result<(), AdminError> {
        if !self.settings.has_mappings {
            return Err(AdminError::new(
                "internal",
                "this agent has no mapping files",
            ));
        }
        if self.reload.next.len() >= WAITERS {
            return Err(AdminError::new(
                "queue_full",
                "too many wait for the mapping files to be read",
            ));
        }
        if self.reload.reading.is_empty() {
            self.reload.reading.push(waiter);
            self.outputs.push_back(Output::ReadMappings);
        } else {
            self.reload.next.push(waiter);
        }
        Ok(())
    }

    /// The mapping files were read: without a mistake in any of them, what they say holds from now
    /// on; else all stays as it is.
    pub(super) fn on_mappings(&mut self, now: Now, read: MappingsRead) {
        let MappingsRead {
            cause,
            files,
            plan,
            diagnostics,
        } = read;
        let before = self.plan.hash();
        let (errors, warnings): (Vec<_>, Vec<_>) =
            diagnostics.iter().partition(|found| found.is_error());
        let outcome = match plan {
            Some(plan) => {
                let hash = plan.hash();
                let is_news = hash != before || self.reload.rejected;
                if is_news || cause != MappingCause::Change {
                    self.report(
                        now,
                        Event::MappingLoaded {
                            files,
                            hash: hash.clone(),
                            warnings: warnings.len(),
                        },
                    );
                }
                self.reload.rejected = false;
                let changed = hash != before;
                if changed {
                    self.set_plan(now, plan);
                    self.publish(self.bridge_info());
                }
                Ok(json!({ "files": files, "hash": hash, "changed": changed }))
            }
            None => {
                self.reload.rejected = true;
                let shown: Vec<_> = errors.iter().take(MISTAKES).map(|it| short(it)).collect();
                let detail = format!(
                    "{} in the mapping files, which stay as they were: {}",
                    match errors.len() {
                        1 => "a mistake".to_owned(),
                        count => format!("{count} mistakes"),
                    },
                    shown.join("; "),
                );
                self.report(
                    now,
                    Event::MappingRejected {
                        files,
                        hash: before,
                        mistakes: errors.len(),
                        diagnostics: shown,
                    },
                );
                Err(AdminError::parse(detail))
            }
        };
        if cause == MappingCause::Request {
            let next = std::mem::take(&mut self.reload.next);
            if !next.is_empty() {
                self.outputs.push_back(Output::ReadMappings);
            }
            for waiter in std::mem::replace(&mut self.reload.reading, next) {
                self.answer_waiter(now, "mapping/reload", waiter, outcome.clone());
            }
        }
    }

    /// Goes by another plan from now on. A device that is not registered takes it up when it
    /// registers.
    fn set_plan(&mut self, now: Now, plan: Plan) {
        self.plan = plan;
        for id in (0..self.devices.len() as u32).map(DeviceId) {
            self.replan(now, id);
        }
    }

    /// Brings a registered device to its profile in the plan.
    fn replan(&mut self, now: Now, id: DeviceId) {
        let Some(before) = self.device(id).map(|device| device.profile.clone()) else {
            return;
        };
        if self.server.registration(id).is_none() || !self.take_profile(now, id) {
            return;
        }
        self.reconcile(now, id);
        self.read_newly(id, &before);
        self.birth_later(now, id);
        self.keep_descriptor(id, kept::Urgency::Soon);
        self.continue_setup(now, id);
    }

    /// Gives a registered device the profile that the plan has for it; its values move. Whether it
    /// is another one than before.
    pub(super) fn take_profile(&mut self, now: Now, id: DeviceId) -> bool {
        let Some(facts) = DeviceFacts::of(&self.server, id) else {
            return false;
        };
        let profile = self.plan.profile(&facts);
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return false;
        };
        let before = std::mem::replace(&mut device.profile, profile.clone());
        if before.id() == profile.id() && before.hash() == profile.hash() {
            return false;
        }
        // What was wrong may be right now; what is wrong still comes up again.
        device.problems.clear();
        self.settle_name(now, id);
        self.rename_signals(id, &profile);
        true
    }

    /// Gives each signal of a device the place that its profile has for it; its value goes along.
    pub(super) fn rename_signals(&mut self, id: DeviceId, profile: &Profile) {
        let (Some(facts), Some(device)) = (
            DeviceFacts::of(&self.server, id),
            self.devices.get_mut(id.0 as usize),
        ) else {
            return;
        };
        let olds = std::mem::take(&mut device.signals);
        let mut moves = Vec::with_capacity(olds.len());
        for old in &olds {
            let (Destination::Signal(signal) | Destination::Raw(signal)) = &old.destination else {
                continue;
            };
            let destination = profile.signal(&device.name, &facts, &old.path, &self.models);
            let mut new = Tracked::new(old.path, destination, facts.endpoint);
            (new.kept, new.heard, new.stale) = (old.kept, old.heard, old.stale);
            let stood = kept::Signal {
                path: old.path,
                topic: signal.topic.clone(),
                retained: signal.retain,
                last: old.last.clone(),
                due: old.due,
            };
            moves.push((stood, new));
        }
        self.release_topics(id, &olds);
        self.restore_signals(id, moves);
    }
}

/// A mistake in one line of bounded length.
fn short(diagnostic: &Diagnostic) -> String {
    let line = diagnostic.to_string();
    match line.char_indices().nth(MISTAKE_MAX) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}
