//! One bootstrap of one device: which request comes next, and what its answer means
//! (LwM2M Core 1.1 §6.1). No peer, no timer: who owns a [`Run`] sends and receives for it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::plan::{self, Found, Write};
use super::profile::{ACCESS, Key, Profile, SECURITY, SERVER, Security};
use super::request::Ask;
use crate::coap::{Code, Failure, Request, Response};
use crate::lwm2m::codec::{self, Context};
use crate::lwm2m::link;
use crate::lwm2m::model::{Models, Version};
use crate::lwm2m::{ContentFormat, Path};
use crate::secret::Secret;
use crate::server::answer::{OperationError, decode_values};
use crate::server::credentials::IDENTITY_MAX;
use crate::server::formats::Formats;
use crate::server::operation::segments;
use crate::time::Now;

/// A bootstrap under way.
pub(super) struct Run {
    profile: Arc<Profile>,
    endpoint: Arc<str>,
    version: Version,
    formats: Formats,
    attempt: u8,
    found: Found,
    phase: Phase,
    written: u32,
    notes: Vec<String>,
}

/// What the request under way is.
enum Phase {
    Discover,
    Read(VecDeque<Path>),
    Delete(VecDeque<Path>),
    Write(VecDeque<Write>),
    Finish,
}

/// A step of a run, as an event names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Asking what the device has.
    Discover,
    /// Reading what stands in it.
    Read,
    /// Deleting.
    Delete,
    /// Writing.
    Write,
    /// Bootstrap-Finish.
    Finish,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discover => "discover",
            Self::Read => "read",
            Self::Delete => "delete",
            Self::Write => "write",
            Self::Finish => "finish",
        })
    }
}

/// How a run goes on.
#[derive(Debug, PartialEq)]
pub(super) enum Progress {
    /// [`Run::request`] has the next request.
    Next,
    /// The device has its configuration.
    Done,
    /// It has not: why, in words.
    Failed(String),
}

/// Makes a key and keeps it, given the identity that it is for.
pub(super) type Issue<'a> = &'a mut dyn FnMut(&[u8]) -> Result<Secret, String>;

impl Run {
    /// A run for a device that asked so.
    pub(super) fn new(ask: &Ask, endpoint: Arc<str>, profile: Arc<Profile>) -> Self {
        let version = ask.version();
        let preferred: Vec<u16> = ask.preferred.iter().map(|format| format.0).collect();
        Self {
            profile,
            endpoint,
            version,
            formats: Formats::advertised(&preferred, version),
            attempt: 0,
            found: Found::default(),
            phase: Phase::Discover,
            written: 0,
            notes: Vec::new(),
        }
    }

    /// Where it stands.
    pub(super) fn step(&self) -> Step {
        match self.phase {
            Phase::Discover => Step::Discover,
            Phase::Read(_) => Step::Read,
            Phase::Delete(_) => Step::Delete,
            Phase::Write(_) => Step::Write,
            Phase::Finish => Step::Finish,
        }
    }

    /// How many objects, instances or resources the device has taken.
    pub(super) fn written(&self) -> u32 {
        self.written
    }

    /// What went wrong and did not matter enough to stop, in words.
    pub(super) fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// The request of this step.
    ///
    /// # Errors
    ///
    /// When it cannot be written in any format that is left: the run has failed.
    pub(super) fn request(&mut self, now: Now, models: &Models) -> Result<Request, String> {
        let to = |method, path: Option<&Path>| {
            Request::new(method, segments(None, path.unwrap_or(&Path::ROOT)))
        };
        Ok(match &self.phase {
            Phase::Discover => Request {
                accept: Some(ContentFormat::LINK_FORMAT.0),
                ..to(Code::GET, None)
            },
            Phase::Read(paths) => Request {
                accept: self.formats.attempt(0, false).map(|f| f.0),
                ..to(Code::GET, paths.front())
            },
            Phase::Delete(paths) => to(Code::DELETE, paths.front()),
            Phase::Write(writes) => {
                let (format, payload) = self.payload(now, models, writes.front())?;
                let path = writes.front().map(|write| &write.path);
                Request {
                    content_format: Some(format.0),
                    payload,
                    ..to(Code::PUT, path)
                }
            }
            Phase::Finish => Request::new(Code::POST, ["bs"]),
        })
    }

    fn payload(
        &self,
        now: Now,
        models: &Models,
        write: Option<&Write>,
    ) -> Result<(ContentFormat, Vec<u8>), String> {
        let (Some(write), Some(format)) = (write, self.formats.attempt(self.attempt, false)) else {
            return Err("no content format is left to try".to_owned());
        };
        let context = Context {
            base: write.path,
            alternate: None,
            now: now.unix,
            types: models,
        };
        let payload = codec::encode(format, &write.records, &context)
            .map_err(|error| format!("{}: {error}", write.path))?;
        Ok((format, payload))
    }

    /// Takes the answer to the request, and goes to the next step.
    pub(super) fn answered(
        &mut self,
        now: Now,
        result: Result<Response, Failure>,
        models: &Models,
        issue: Issue<'_>,
    ) -> Progress {
        let response = match result {
            Ok(response) => Ok(response),
            // It is there, and does not understand: no worse than an error code.
            Err(Failure::Reset) => Err(OperationError::Reset),
            Err(failure) => {
                let error = OperationError::from(failure);
                return Progress::Failed(format!("{}{error}", self.place()));
            }
        };
        let response = response.and_then(|response| match response.code.is_success() {
            true => Ok(response),
            false => Err(OperationError::from_response(&response)),
        });
        let outcome = match response {
            Ok(response) => self.on_success(now, &response, models),
            Err(error) => self.on_error(&error),
        };
        match outcome.and_then(|()| self.advance(models, issue)) {
            Ok(true) => Progress::Next,
            Ok(false) => Progress::Done,
            Err(detail) => Progress::Failed(detail),
        }
    }

    fn on_success(&mut self, now: Now, response: &Response, models: &Models) -> Result<(), String> {
        match &mut self.phase {
            Phase::Discover => match links(&response.payload) {
                Ok(links) => {
                    self.found.add_links(&links);
                    self.version = self.found.version.unwrap_or(self.version);
                }
                Err(error) => self.notes.push(format!("discover: {error}")),
            },
            Phase::Read(paths) => {
                let Some(base) = paths.pop_front() else {
                    return Ok(());
                };
                let context = Context {
                    base,
                    alternate: None,
                    now: now.unix,
                    types: models,
                };
                let mut records = Vec::new();
                match decode_values(response, &base.into(), &context, &mut records) {
                    Ok(_) => self.found.add_records(&records),
                    Err(error) => self.notes.push(format!("read {base}: {error}")),
                }
            }
            Phase::Delete(paths) => {
                paths.pop_front();
            }
            Phase::Write(writes) => {
                writes.pop_front();
                self.written += 1;
                if let Some(format) = self.formats.attempt(self.attempt, false) {
                    self.formats.worked(format, false);
                }
                self.attempt = 0;
            }
            Phase::Finish => {}
        }
        Ok(())
    }

    /// An error: what matters ends the run, the rest is noted.
    fn on_error(&mut self, error: &OperationError) -> Result<(), String> {
        let (step, place) = (self.step(), self.place());
        let code = match error {
            OperationError::Response { code, .. } => Some(*code),
            _ => None,
        };
        match &mut self.phase {
            // A device of 1.0 need not have it.
            Phase::Discover => {}
            // It is for the sake of what stands there already, and 4.05 is as good as nothing.
            Phase::Read(paths) => {
                paths.pop_front();
            }
            Phase::Delete(paths) => {
                let path = paths.pop_front().unwrap_or(Path::ROOT);
                if code != Some(Code::NOT_FOUND) {
                    if concerns_accounts(&path) {
                        return Err(format!("{place}{error}"));
                    }
                    self.notes.push(format!("{step} {place}{error}"));
                }
            }
            Phase::Write(writes) => {
                let declined = matches!(
                    code,
                    Some(Code::UNSUPPORTED_CONTENT_FORMAT | Code::NOT_ACCEPTABLE)
                );
                let next = self.attempt + 1;
                if declined && self.formats.attempt(next, false).is_some() {
                    self.attempt = next;
                    return Ok(());
                }
                self.attempt = 0;
                let path = writes.pop_front().map_or(Path::ROOT, |write| write.path);
                if concerns_accounts(&path) {
                    // What the device says about object 0 may quote the key: its words stay here.
                    let error = match code {
                        Some(code) if path.object_id() == Some(SECURITY) => format!("{code:?}"),
                        _ => error.to_string(),
                    };
                    return Err(format!("{place}{error}"));
                }
                self.notes.push(format!("{step} {place}{error}"));
            }
            Phase::Finish if code == Some(Code::NOT_ACCEPTABLE) => {
                return Err(format!(
                    "the device finds the configuration inconsistent: {error}; it goes back to \
                     what it had. Compare the profile with what the device supports"
                ));
            }
            Phase::Finish => return Err(error.to_string()),
        }
        Ok(())
    }

    /// Goes to the next request. Whether there is one.
    fn advance(&mut self, models: &Models, issue: Issue<'_>) -> Result<bool, String> {
        loop {
            let next = match &self.phase {
                Phase::Discover => Phase::Read(self.reads()),
                Phase::Read(paths) if paths.is_empty() => {
                    Phase::Delete(self.profile.delete.iter().copied().collect())
                }
                Phase::Delete(paths) if paths.is_empty() => {
                    Phase::Write(self.writes(models, issue)?)
                }
                Phase::Write(writes) if writes.is_empty() => {
                    self.phase = Phase::Finish;
                    return Ok(true);
                }
                Phase::Finish => return Ok(false),
                _ => return Ok(true),
            };
            self.phase = next;
        }
    }

    /// What has to be read first: objects 1 and 2, where instances of theirs stay and those of the
    /// profile must find their places among them.
    fn reads(&self) -> VecDeque<Path> {
        let may_read = self.version >= Version::V1_1;
        [(SERVER, true), (ACCESS, !self.profile.access.is_empty())]
            .into_iter()
            .filter(|(object, written)| may_read && *written && !self.profile.clears(*object))
            .map(|(object, _)| Path::object(object))
            .collect()
    }

    fn writes(&mut self, models: &Models, issue: Issue<'_>) -> Result<VecDeque<Write>, String> {
        let generated = issue_key(&self.profile, &self.endpoint, issue)?;
        let (writes, doubt) = plan::writes(
            &self.profile,
            &self.found,
            &self.endpoint,
            generated
                .as_ref()
                .map(|(identity, key)| (&identity[..], key)),
            models,
            self.version,
        );
        self.notes.extend(doubt);
        Ok(writes.into())
    }

    /// What the request under way is about, to stand before what is said about it.
    fn place(&self) -> String {
        let path = match &self.phase {
            Phase::Discover | Phase::Finish => None,
            Phase::Read(paths) | Phase::Delete(paths) => paths.front().copied(),
            Phase::Write(writes) => writes.front().map(|write| write.path),
        };
        path.map_or_else(String::new, |path| format!("{path}: "))
    }
}

/// Identity and key for the account that wants a generated one.
pub(super) fn issue_key(
    profile: &Profile,
    endpoint: &str,
    issue: Issue<'_>,
) -> Result<Option<(Vec<u8>, Secret)>, String> {
    let Some(account) = profile.generated() else {
        return Ok(None);
    };
    let identity = match &account.security {
        Security::Psk {
            identity: Some(identity),
            key: Key::Generate,
        } => identity.as_bytes(),
        _ => endpoint.as_bytes(),
    };
    if identity.len() > IDENTITY_MAX {
        return Err(format!(
            "the endpoint name of {} bytes is too long for a PSK identity; give the account an \
             `identity` in a profile for this device",
            identity.len()
        ));
    }
    let key = issue(identity)?;
    Ok(Some((identity.to_vec(), key)))
}

/// Whether a failure there leaves the device without its accounts.
fn concerns_accounts(path: &Path) -> bool {
    path.object_id()
        .is_none_or(|object| matches!(object, SECURITY | SERVER))
}

/// The links of a Bootstrap-Discover. Devices of LwM2M 1.0 begin it with a bare `lwm2m="1.0"`.
fn links(payload: &[u8]) -> Result<Vec<link::Link>, link::LinkError> {
    if !payload.starts_with(b"lwm2m=") {
        return link::parse(payload);
    }
    let end = payload.iter().position(|byte| *byte == b',');
    let (version, rest) = payload.split_at(end.unwrap_or(payload.len()));
    let mut links = link::parse(&[b"</>;", version].concat())?;
    links.extend(link::parse(rest.get(1..).unwrap_or_default())?);
    Ok(links)
}
