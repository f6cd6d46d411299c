//! `[[acl]]`: instances of the Access Control object (LwM2M Core 1.1 §8, §E.3).

use std::collections::BTreeSet;

use super::account::Accounts;
use crate::diagnostic::{At, Item, Reader, Table};
use crate::lwm2m::path::Id;
use crate::server::bootstrap::profile::{AccessRule, NOBODY};

/// What a server may do, and its bit in /2/x/2.
const RIGHTS: [(char, u8); 5] = [('R', 1), ('W', 2), ('E', 4), ('D', 8), ('C', 16)];

/// The rules of a file, each with its place.
pub(super) type Placed<'a> = (AccessRule, (&'a Reader, At));

/// Reads one. `accounts` are those of the profile, if all of them could be read.
pub(super) fn read<'a>(
    mut table: Table<'a>,
    accounts: Option<&Accounts<'_>>,
) -> Option<Placed<'a>> {
    let place = (table.reader(), table.at().clone());
    let object = table
        .require("object", "say what it is about: `object = 3303`")
        .and_then(|item| id(&item));
    let instance = table.take("instance").map(|item| id(&item));
    let owner = table
        .take("owner")
        .and_then(|item| server(&item, super::short_server_id(&item)?, accounts));
    let mut rights = Vec::new();
    if let Some(item) = table.require("rights", "say who may do what: `rights = { 101 = \"RW\" }`")
        && let Some(table) = item.table("rights", "{ 101 = \"RW\", 0 = \"R\" }")
    {
        for item in table.entries() {
            rights.extend(right(&item, accounts));
        }
    }
    table.finish();
    rights.sort_unstable();
    let rule = AccessRule {
        object: object?,
        instance: match instance {
            Some(instance) => Some(instance?),
            None => None,
        },
        owner,
        rights,
    };
    if rule.instance.is_some() && rule.rights.iter().any(|(_, bits)| bits & 16 != 0) {
        let (reader, at) = &place;
        reader.error(
            "bad-rights",
            at,
            "C is the right to create instances, and this rule is about one that is there",
            "give C in a rule for the object, without `instance`",
        );
    }
    Some((rule, place))
}

/// Each target has one rule.
pub(super) fn check(rules: &[Placed<'_>]) {
    let mut seen = BTreeSet::new();
    for (rule, (reader, at)) in rules {
        if !seen.insert((rule.object, rule.instance)) {
            let target = match rule.instance {
                Some(instance) => format!("/{}/{instance}", rule.object),
                None => format!("creating instances of object {}", rule.object),
            };
            reader.error(
                "duplicate-acl",
                at,
                format!("there is a rule about {target} already"),
                "write all rights of a target into one [[acl]]",
            );
        }
    }
}

fn id(item: &Item<'_>) -> Option<Id> {
    let id = item.integer(0..=i64::from(NOBODY) - 1)?;
    Id::try_from(id).ok()
}

/// A server that has an account.
fn server(item: &Item<'_>, id: Id, accounts: Option<&Accounts<'_>>) -> Option<Id> {
    let known = accounts.is_none_or(|accounts| {
        accounts
            .iter()
            .any(|(account, _)| account.short_server_id == id)
    });
    if !known {
        let known: Vec<String> = accounts
            .unwrap_or_default()
            .iter()
            .map(|(account, _)| account.short_server_id.to_string())
            .collect();
        item.error(
            "unknown-server",
            format!("no [[server]] has the Short Server ID {id}"),
            format!("there are: {}", known.join(", ")),
        );
    }
    known.then_some(id)
}

fn right(item: &Item<'_>, accounts: Option<&Accounts<'_>>) -> Option<(Id, u8)> {
    let who = match item.key().parse::<Id>() {
        Ok(0) => Some(0),
        Ok(id) if id != NOBODY => server(item, id, accounts),
        _ => {
            item.error(
                "bad-server-id",
                format!("`{}` is no Short Server ID", item.key()),
                "write a number from 1 to 65534, or 0 for all other servers",
            );
            None
        }
    };
    let text = item.text("RW")?;
    let mut bits = 0;
    for letter in text.chars() {
        let right = RIGHTS
            .iter()
            .find(|(name, _)| *name == letter.to_ascii_uppercase());
        match right {
            Some((_, bit)) => bits |= bit,
            None => {
                item.error(
                    "bad-rights",
                    format!("`{letter}` is no right"),
                    "rights are R (read), W (write), E (execute), D (delete) and C (create)",
                );
                return None;
            }
        }
    }
    Some((who?, bits))
}
