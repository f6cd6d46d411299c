//! Mapping files: read and compiled at the start, and again when they change or somebody asks for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::config::toml_sources;
use crate::agent::watched::{Watch, Watched};
use crate::diagnostic::Diagnostic;
use crate::gateway::{MappingCause, MappingsRead};
use crate::lwm2m::model::Models;
use crate::mapping::Plan;

/// How often it is looked whether a file has changed.
const INTERVAL: Duration = Duration::from_secs(1);

/// The mapping files of the configuration.
pub struct MappingFiles {
    files: Watched,
    models: Arc<Models>,
    base: String,
}

impl MappingFiles {
    /// These files and folders, not read yet.
    pub fn new(paths: Vec<PathBuf>, models: Arc<Models>, base: &str) -> Self {
        Self {
            files: Watched::new(paths),
            models,
            base: base.to_owned(),
        }
    }

    /// Reads and compiles them. There is a plan when there is no mistake in any of them.
    pub fn read(&mut self, cause: MappingCause) -> MappingsRead {
        self.files.note();
        let (sources, mut diagnostics) = toml_sources(self.files.paths());
        let compiled = Plan::compile(&sources, &self.models, &self.base);
        diagnostics.extend(compiled.diagnostics);
        let is_sound = !diagnostics.iter().any(Diagnostic::is_error);
        MappingsRead {
            cause,
            files: sources.len(),
            plan: compiled.plan.filter(|_| is_sound),
            diagnostics,
        }
    }

    /// Reads them from now on whenever they change.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn watch(mut self) -> anyhow::Result<Watch<MappingCause, MappingsRead>> {
        Watch::start("mapping files", INTERVAL, move |wish| {
            let changed = || self.files.have_changed().then_some(MappingCause::Change);
            let cause = wish.or_else(changed)?;
            Some(self.read(cause))
        })
    }
}
