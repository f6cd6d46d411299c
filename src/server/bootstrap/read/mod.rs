//! Profile files made into [`Profiles`], or into a list of everything that is wrong with them.

mod access;
mod account;
mod object;
mod secret;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::profile::{OwnAccount, Profile, Profiles, Selector};
use crate::diagnostic::{At, Diagnostic, Item, Reader, Severity, Source, Table};
use crate::lwm2m::model::Models;
use crate::lwm2m::path::{Id, Path};
use crate::name_pattern::{NamePattern, match_table};
use crate::secret::Secret;

/// Keys whose values are never shown.
const SECRET_KEYS: [&str; 1] = ["key"];

/// Where a key or a certificate stands that is not in the profile itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment<'a> {
    /// A file with a key.
    Key(&'a str),
    /// A file with a certificate.
    Certificate(&'a str),
    /// A credential of the service, `$CREDENTIALS_DIRECTORY/NAME`.
    Credential(&'a str),
}

/// Reads attachments for [`Profiles::compile`], which has no files itself.
pub trait Attachments {
    /// The content.
    ///
    /// # Errors
    ///
    /// Why it cannot be read, in words.
    fn read(&self, attachment: Attachment<'_>) -> Result<Secret, String>;

    /// What an attachment that cannot be read is: an error where the profile is needed now, a
    /// warning where it is only looked at.
    fn unreadable(&self) -> Severity;
}

/// What became of profile files.
#[derive(Debug)]
pub struct Compiled {
    /// The profiles, when there was no error and every attachment could be read.
    pub profiles: Option<Profiles>,
    /// Everything found, file by file.
    pub diagnostics: Vec<Diagnostic>,
}

/// What all of one file's tables are read with.
#[derive(Clone, Copy)]
struct Scope<'a> {
    reader: &'a Reader,
    models: &'a Models,
    attachments: &'a dyn Attachments,
}

impl Profiles {
    /// Compiles profile files. Every `id` is there once, whatever the folder.
    pub fn compile(sources: &[Source], models: &Models, attachments: &dyn Attachments) -> Compiled {
        let mut diagnostics = Vec::new();
        let mut profiles: Vec<Arc<Profile>> = Vec::new();
        let mut complete = true;
        let mut holders: BTreeMap<String, &str> = BTreeMap::new();
        for source in sources {
            let reader = Reader::new(source.file.as_str(), source.text.as_str(), &SECRET_KEYS);
            let document = reader.document();
            let scope = Scope {
                reader: &reader,
                models,
                attachments,
            };
            let (profile, id) = read_file(reader.root(&document), scope);
            if let Some((id, at)) = id
                && let Some(holder) = holders.insert(id.clone(), &source.file)
            {
                reader.error(
                    "duplicate-profile",
                    &at,
                    format!("profile `{id}` stands in {holder} already"),
                    "give one of them another id",
                );
            }
            complete &= profile.is_some();
            profiles.extend(profile.map(Arc::new));
            drop(document);
            diagnostics.extend(reader.finish());
        }
        profiles.sort_by_cached_key(|profile| profile.precedence());
        let sound = complete && !diagnostics.iter().any(Diagnostic::is_error);
        Compiled {
            profiles: sound.then_some(Profiles { profiles }),
            diagnostics,
        }
    }
}

/// A profile as far as it could be read, and its id with its place.
fn read_file(mut root: Table<'_>, scope: Scope<'_>) -> (Option<Profile>, Option<(String, At)>) {
    root.schema("bootstrap profiles");
    let named = root
        .require("profile", "add `[profile]` with `id = \"…\"`")
        .and_then(|item| item.table("profile", "{ id = \"factory\" }"))
        .map(read_profile);
    let (id, priority) = named.unwrap_or_default();
    let selector = read_selector(root.take("match"), scope);
    let (delete, own) = read_run(root.take("bootstrap"));
    let mut accounts = Vec::new();
    let mut whole = true;
    let written_as_one = root.take("server").is_some_and(|item| !item.is_list());
    let tables = root.tables("server");
    if tables.is_empty() && !written_as_one && !scope.reader.is_broken() {
        scope.reader.error(
            "no-server",
            &scope.reader.start(),
            "the profile has no server account, and a device without one is lost",
            "add `[[server]]` with `uri` and `short_server_id`",
        );
    }
    for table in tables {
        match account::read(table, scope, &selector) {
            Some(account) => accounts.push(account),
            None => whole = false,
        }
    }
    account::check(&accounts);
    let mut access = Vec::new();
    for table in root.tables("acl") {
        access.extend(access::read(table, whole.then_some(&accounts[..])));
    }
    access::check(&access);
    let mut objects = Vec::new();
    for table in root.tables("object") {
        objects.extend(object::read(table, scope));
    }
    object::check(&objects);
    root.belongs_elsewhere(&["id", "priority", "title"], "write it under [profile]");
    root.belongs_elsewhere(&["endpoint", "identity"], "write it under [match]");
    root.belongs_elsewhere(
        &["delete", "hold_off", "account_timeout"],
        "write it under [bootstrap]",
    );
    root.belongs_elsewhere(
        &["uri", "short_server_id", "lifetime", "security", "key"],
        "write it under [[server]]",
    );
    root.finish();
    let delete = delete.unwrap_or_else(|| {
        let objects = [Some(0), Some(1), (!access.is_empty()).then_some(2)];
        objects.into_iter().flatten().map(Path::object).collect()
    });
    let profile = id.as_ref().filter(|_| whole).map(|(id, _)| Profile {
        id: id.clone(),
        priority,
        selector,
        delete,
        own,
        accounts: accounts.into_iter().map(|(account, _)| account).collect(),
        access: access.into_iter().map(|(rule, _)| rule).collect(),
        objects: objects.into_iter().map(|(object, _)| object).collect(),
    });
    (profile, id)
}

fn read_profile(mut table: Table<'_>) -> (Option<(String, At)>, i64) {
    let id = table
        .require("id", "name the profile, for instance `id = \"factory\"`")
        .and_then(|item| {
            let id = item.text("factory")?;
            if id.is_empty() || id.len() > 128 || id.chars().any(char::is_control) {
                item.error(
                    "bad-name",
                    "the id is empty, too long, or holds control characters",
                    "write 1 to 128 bytes of text",
                );
                return None;
            }
            Some((id.to_owned(), item.at()))
        });
    if let Some(item) = table.take("title") {
        item.text("Devices fresh from the factory");
    }
    let priority = table
        .take("priority")
        .and_then(|item| item.integer(-1_000_000..=1_000_000))
        .unwrap_or_default();
    table.finish();
    (id, priority)
}

fn read_selector(item: Option<Item<'_>>, scope: Scope<'_>) -> Selector {
    let mut selector = Selector {
        never: true,
        ..Selector::default()
    };
    let Some(mut table) = match_table(item, scope.reader) else {
        return selector;
    };
    selector.never = table.is_empty();
    for (key, pattern) in [
        ("endpoint", &mut selector.endpoint),
        ("identity", &mut selector.identity),
    ] {
        if let Some(item) = table.take(key) {
            *pattern = NamePattern::read(&item, "urn:dev:ops:32473-*");
        }
    }
    table.finish();
    selector
}

/// `[bootstrap]`: what is deleted first, if it says so, and what becomes of the bootstrap account.
fn read_run(item: Option<Item<'_>>) -> (Option<Vec<Path>>, OwnAccount) {
    let mut own = OwnAccount::default();
    let Some(mut table) =
        item.and_then(|item| item.table("bootstrap", "{ delete = [\"/0\", \"/1\"] }"))
    else {
        return (None, own);
    };
    let delete = table.take("delete").and_then(|item| {
        let texts = item.texts("/0")?;
        Some(
            texts
                .into_iter()
                .filter_map(|(item, text)| deleted(&item, text))
                .collect(),
        )
    });
    own.hold_off = seconds(&mut table, "hold_off");
    own.timeout = seconds(&mut table, "account_timeout");
    table.finish();
    (delete, own)
}

/// `/`, `/o` or `/o/i` (LwM2M Core 1.1 §6.1.7.5).
fn deleted(item: &Item<'_>, text: &str) -> Option<Path> {
    let path = match text.parse::<Path>() {
        Ok(path) if path.ids().len() <= 2 => return Some(path),
        Ok(_) => "bootstrap deletes objects and their instances, nothing below".to_owned(),
        Err(error) => error.to_string(),
    };
    item.reader().error(
        "bad-path",
        &item.at_part(text),
        path,
        "write \"/\" for everything, an object \"/0\", or an instance \"/0/1\"",
    );
    None
}

/// Seconds as the device's resource holds them, which is a signed 32 bit number for many devices.
fn seconds(table: &mut Table<'_>, key: &'static str) -> Option<u32> {
    let number = table.take(key)?.integer(0..=i64::from(i32::MAX))?;
    u32::try_from(number).ok()
}

/// A Short Server ID (LwM2M Core 1.1 §E.2).
fn short_server_id(item: &Item<'_>) -> Option<Id> {
    let number = item.integer(i64::MIN..=i64::MAX)?;
    let id = Id::try_from(number)
        .ok()
        .filter(|id| (1..Id::MAX).contains(id));
    if id.is_none() {
        item.error(
            "bad-server-id",
            format!("{number} is no Short Server ID"),
            "write a number from 1 to 65534, one of its own for each server",
        );
    }
    id
}
