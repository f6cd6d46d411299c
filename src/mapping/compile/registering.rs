//! `[on_register]`.

use super::Scope;
use super::content::{Names, Need, node, read_content, resource};
use crate::diagnostic::{Item, Table};
use crate::mapping::command::Step;
use crate::mapping::registering::OnRegister;

/// The most nodes that are read, and the most that are written.
const MOST: usize = 64;

pub(super) fn read(mut table: Table<'_>, scope: Scope<'_>) -> OnRegister {
    let mut on_register = OnRegister::default();
    if let Some(item) = table.take("read") {
        let items = item.texts("/3/0/0").unwrap_or_default();
        too_many(&item, items.len());
        let paths = items.iter().filter_map(|(item, _)| node(item, scope));
        on_register.read = paths.collect();
    }
    if let Some(item) = table.take("write") {
        let items = item
            .list("[{ path = \"/3/0/13\", value = \"{now}\" }]")
            .unwrap_or_default();
        too_many(&item, items.len());
        for item in items {
            let write = read_write(&item, scope);
            if let Some(write) = write {
                if on_register
                    .write
                    .iter()
                    .any(|other| other.path() == write.path())
                {
                    item.error(
                        "duplicate-path",
                        format!("{} is written twice", write.path()),
                        "keep one of them",
                    );
                }
                on_register.write.push(write);
            }
        }
    }
    table.belongs_elsewhere(
        &["execute", "steps"],
        "at a registration there are `read` and `write`; make it a [[command]]",
    );
    table.finish();
    on_register
}

fn too_many(item: &Item<'_>, count: usize) {
    if count > MOST {
        item.error(
            "bad-value",
            format!("`{}` has at most {MOST} elements", item.key()),
            "name a whole instance, or leave to observations what changes",
        );
    }
}

fn read_write(item: &Item<'_>, scope: Scope<'_>) -> Option<Step> {
    let mut table = item.table("write", "{ path = \"/3/0/13\", value = \"{now}\" }")?;
    let path = table.require("path", "say what is written: `path = \"/3/0/13\"`");
    let model = resource(path, scope, Need::Write);
    let content = table
        .require("value", "say what is written: `value = \"{now}\"`")
        .and_then(|item| {
            let data_type = model
                .as_ref()
                .and_then(|(_, model)| model.as_ref()?.data_type);
            read_content(&item, data_type, &mut Names::default())
        });
    table.finish();
    Some(Step::Write {
        path: model?.0,
        content: content?,
    })
}
