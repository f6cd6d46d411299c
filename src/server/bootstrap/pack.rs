//! Bootstrap-Pack: all of a profile in one answer (LwM2M Core 1.2 §6.1.7.8).

use super::plan::{self, Found};
use super::profile::{OwnAccount, Profile};
use super::request::AskPack;
use super::run::{Issue, issue_key};
use crate::coap::{Code, Response};
use crate::lwm2m::Path;
use crate::lwm2m::codec::{self, Context};
use crate::lwm2m::model::{Models, Version};
use crate::lwm2m::path::Id;
use crate::server::registration::Refusal;
use crate::time::Now;

/// The pack of a profile, and how many instances are in it.
///
/// # Errors
///
/// 4.05 when the pack would not do what the profile says; the device has to ask with a
/// Bootstrap-Request then.
pub(super) fn pack(
    now: Now,
    ask: &AskPack,
    endpoint: &str,
    profile: &Profile,
    models: &Models,
    issue: Issue<'_>,
) -> Result<(Response, u32), Refusal> {
    if let Some(reason) = objection(profile, models) {
        return Err(Refusal::new(
            Code::METHOD_NOT_ALLOWED,
            format!(
                "profile {} cannot be a pack: {reason}; use POST /bs",
                profile.id
            ),
        ));
    }
    let failed = |detail: String| Refusal::new(Code::INTERNAL_SERVER_ERROR, detail);
    let generated = issue_key(profile, endpoint, issue).map_err(failed)?;
    let mut found = Found::default();
    for account in &ask.accounts {
        found.add_bootstrap_account(*account);
    }
    let (writes, _) = plan::writes(
        profile,
        &found,
        endpoint,
        generated
            .as_ref()
            .map(|(identity, key)| (&identity[..], key)),
        models,
        Version::V1_2,
    );
    let written = u32::try_from(writes.len()).unwrap_or(u32::MAX);
    let records: Vec<_> = writes.into_iter().flat_map(|write| write.records).collect();
    let context = Context {
        base: Path::ROOT,
        alternate: None,
        now: now.unix,
        types: models,
    };
    let payload =
        codec::encode(ask.format, &records, &context).map_err(|error| failed(error.to_string()))?;
    let response = Response {
        content_format: Some(ask.format.0),
        payload,
        ..Response::new(Code::CONTENT)
    };
    Ok((response, written))
}

/// Why a pack would do something else than the profile says: it replaces every instance of the
/// objects that are in it, and leaves all other objects as they are.
fn objection(profile: &Profile, models: &Models) -> Option<&'static str> {
    let written = profile.written_objects();
    let named = |path: &Path| matches!(path.ids(), [object] if written.contains(object));
    let several = |object: &Id| {
        models
            .object(*object, None)
            .is_none_or(|model| model.multiple)
    };
    if profile.own != OwnAccount::default() {
        Some("it changes the bootstrap account")
    } else if !profile.delete.iter().all(named) {
        Some("it deletes what the pack does not name")
    } else if written
        .iter()
        .any(|object| several(object) && !profile.clears(*object))
    {
        Some("it leaves instances as they are that the pack would replace")
    } else {
        None
    }
}
