//! `[instances]`.

use super::{check_name, clash, topic};
use crate::diagnostic::{Item, Table};
use crate::lwm2m::path::Id;
use crate::mapping::pattern::parse_id;
use crate::mapping::rule::InstanceNames;
use crate::mapping::template::Field;

/// Reads those of one file, over those of the files that it extends.
pub(super) fn read<'a>(
    table: Table<'a>,
    names: &mut InstanceNames,
    places: &mut clash::Places<'a>,
) {
    // A name for all instances counts for those too that the file below names one by one.
    let keys = || table.entries().into_iter();
    for (object, _) in keys()
        .filter_map(|item| parse_instance(item.key()))
        .filter(|(_, instance)| instance.is_none())
    {
        names.exact.retain(|(named, _), _| *named != object);
        places
            .instances
            .retain(|(named, instance), _| *named != object || instance.is_none());
    }
    for item in table.entries() {
        let Some((object, instance)) = parse_instance(item.key()) else {
            report(&item);
            continue;
        };
        let Some(text) = item.text("air") else {
            continue;
        };
        let Some(template) = topic::template(&item, text, &[Field::Oid, Field::Iid]) else {
            continue;
        };
        let number = instance.map(|id| id.to_string()).unwrap_or("\0".to_owned());
        let name = template.render(|field, text| match field {
            Field::Oid => text.push_str(&object.to_string()),
            _ => text.push_str(&number),
        });
        if !check_name(&item, &name.replace('\0', "0")) {
            continue;
        }
        let place = clash::Place::new(item.reader(), item.at());
        places.instances.insert((object, instance), place);
        match instance {
            Some(instance) => {
                names.exact.insert((object, instance), name);
            }
            None => match name.split('\0').collect::<Vec<_>>()[..] {
                [before, behind] => {
                    names
                        .any
                        .insert(object, (before.to_owned(), behind.to_owned()));
                }
                _ => item.error(
                    "shared-name",
                    "the name of several instances needs `{iid}`, once",
                    format!("write it like `\"{}\" = \"name-{{iid}}\"`", item.key()),
                ),
            },
        }
    }
}

fn parse_instance(key: &str) -> Option<(Id, Option<Id>)> {
    let (object, instance) = key.split_once('/')?;
    let instance = match instance {
        "*" => None,
        number => Some(parse_id(number)?),
    };
    Some((parse_id(object)?, instance))
}

fn report(item: &Item<'_>) {
    let key = item.key();
    let hint = match parse_instance(key.trim_start_matches('/')) {
        Some(_) => format!(
            "write `\"{}\"`, without the first `/`",
            key.trim_start_matches('/')
        ),
        None => "write object and instance: \"3303/0\", or \"3303/*\" for all".to_owned(),
    };
    item.error(
        "bad-instance",
        format!("`{key}` is no object instance"),
        hint,
    );
}
