//! `[[command]]`: what is run by one name, in one step or several.

use std::collections::BTreeMap;
use std::time::Duration;

use super::content::{Names, Need, literal, read_content, read_text, resource};
use super::write::{check_order, read_waits};
use super::{check_name, expression, subject};
use crate::diagnostic::{Item, Table};
use crate::lwm2m::Arguments;
use crate::lwm2m::value::{DataType, Value};
use crate::mapping::command::{Command, Content, Parameter, Part, Step};
use crate::mapping::expression::{Kind, Scope};

/// How long a step waits for a value, if it does not say so.
const PATIENCE: Duration = Duration::from_secs(60);

/// The most steps of one command.
const STEPS_MAX: usize = 64;

/// What a command takes from none that it replaces: what it does is said in one way.
pub(super) fn hidden(table: &Table<'_>) -> &'static [&'static str] {
    if table.has("execute") {
        &["steps", "atomic"]
    } else if table.has("steps") {
        &["execute", "args", "atomic"]
    } else {
        &[]
    }
}

pub(super) fn read(
    mut table: Table<'_>,
    scope: super::Scope<'_>,
    commands: &mut BTreeMap<String, Command>,
) {
    let name = table
        .require("name", "name the command, for instance `name = \"reboot\"`")
        .and_then(|item| {
            let name = item.text("reboot")?;
            if commands.contains_key(name) {
                item.error(
                    "duplicate-name",
                    format!("there is a command `{name}` already"),
                    "give one of them another name",
                );
                return None;
            }
            check_name(&item, name).then(|| name.to_owned())
        });
    let parameters_item = table.take("params");
    let parameters = parameters_item
        .as_ref()
        .map(read_parameters)
        .unwrap_or_default();
    let mut names = Names {
        parameters: &parameters,
        used: Vec::new(),
    };
    let steps = read_steps(&mut table, scope, &mut names);
    // Those of a command that this one replaces in part are not its mistake.
    let own = |item: &&Item<'_>| std::ptr::eq(item.reader(), table.reader());
    if let Some(item) = parameters_item.as_ref().filter(own) {
        for (name, _) in &parameters {
            if !names.used.contains(name) {
                item.warning(
                    "unused-parameter",
                    format!("no step uses `{{{name}}}`"),
                    "remove it, or write it into a value",
                );
            }
        }
    }
    let atomic = table.take("atomic").and_then(|item| {
        let atomic = item.boolean()?;
        let is_write = |step: &Step| matches!(step, Step::Write { .. });
        if atomic && !steps.iter().flatten().all(is_write) {
            item.error(
                "bad-value",
                "`atomic` is for commands that only write",
                "remove it, or make a command of the writes alone",
            );
        }
        Some(atomic)
    });
    let waits = read_waits(&mut table);
    table.not_built(&["ha"]);
    table.belongs_elsewhere(
        &["confirm"],
        "write it inside `write = { … }` of a signal, or let a step wait for the value",
    );
    table.belongs_elsewhere(
        &["timeout", "until"],
        "write it inside a step: `{ wait = \"/33210/0/32\", until = \"value == 0\", timeout = \"10m\" }`",
    );
    table.finish();
    if let (Some(name), Some(steps)) = (name, steps) {
        let command = Command {
            waits,
            parameters,
            steps,
            atomic: atomic.unwrap_or_default(),
        };
        commands.insert(name, command);
    }
}

/// `execute`, or the list `steps`.
fn read_steps(
    table: &mut Table<'_>,
    scope: super::Scope<'_>,
    names: &mut Names<'_>,
) -> Option<Vec<Step>> {
    let Some(item) = table.take("steps") else {
        table.require(
            "execute",
            "say what it executes, `execute = \"/3/0/4\"`, or what it does in `steps`",
        )?;
        return Some(vec![read_execute(table, scope, names)?]);
    };
    table.belongs_elsewhere(
        &["execute", "args"],
        "a command has `execute` or `steps`; write it inside a step: `{ execute = \"/3/0/4\" }`",
    );
    let items = item.list("[{ write = \"/3311/0/5850\", value = true }]")?;
    if items.is_empty() || items.len() > STEPS_MAX {
        item.error(
            "bad-value",
            format!("a command has 1 to {STEPS_MAX} steps"),
            "write it like `steps = [{ execute = \"/3/0/4\" }]`",
        );
        return None;
    }
    let steps: Vec<_> = items
        .iter()
        .map(|item| {
            let table = item.table("steps", "{ write = \"/3311/0/5850\", value = true }")?;
            read_step(item, table, scope, names)
        })
        .collect();
    steps.into_iter().collect()
}

fn read_step(
    item: &Item<'_>,
    mut table: Table<'_>,
    scope: super::Scope<'_>,
    names: &mut Names<'_>,
) -> Option<Step> {
    const KINDS: [&str; 4] = ["write", "execute", "read", "wait"];
    let found: Vec<&str> = KINDS.into_iter().filter(|key| table.has(key)).collect();
    let [kind] = found[..] else {
        item.error(
            "bad-step",
            match found[..] {
                [] => "this step does nothing".to_owned(),
                _ => format!(
                    "a step does one thing, and this one has {}",
                    found.join(" and ")
                ),
            },
            "a step has one of `write`, `execute`, `read` and `wait`",
        );
        return None;
    };
    let step = match kind {
        "write" => {
            let model = resource(table.take("write"), scope, Need::Write);
            let content = table
                .require("value", "say what is written: `value = true`")
                .and_then(|item| {
                    let data_type = model
                        .as_ref()
                        .and_then(|(_, model)| model.as_ref()?.data_type);
                    read_content(&item, data_type, names)
                });
            model
                .zip(content)
                .map(|((path, _), content)| Step::Write { path, content })
        }
        "execute" => read_execute(&mut table, scope, names),
        "read" => resource(table.take("read"), scope, Need::Read).map(|(path, _)| Step::Read(path)),
        _ => read_wait(&mut table, scope),
    };
    table.finish();
    step
}

fn read_execute(
    table: &mut Table<'_>,
    scope: super::Scope<'_>,
    names: &mut Names<'_>,
) -> Option<Step> {
    let found = resource(table.take("execute"), scope, Need::Execute);
    let arguments = table.take("args").and_then(|item| {
        let text = item.text("0='{litres}'")?;
        let content = read_text(&item, text, names)?;
        // Whatever is filled in, what stands around it has to be right.
        let tried = match &content {
            Content::Value(Value::String(text)) => text.clone(),
            Content::Text(parts) => parts
                .iter()
                .map(|part| match part {
                    Part::Literal(text) => text.as_str(),
                    Part::Filled(_) => "0",
                })
                .collect(),
            _ => "0".to_owned(),
        };
        if Arguments::parse(&tried).is_none() {
            item.error(
                "bad-value",
                format!("`{text}` are no arguments"),
                "write digits, each once, with or without a value: `args = \"0='U',5\"`",
            );
        }
        Some(content)
    });
    let (path, _) = found?;
    Some(Step::Execute { path, arguments })
}

fn read_wait(table: &mut Table<'_>, scope: super::Scope<'_>) -> Option<Step> {
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(7 * 86_400);
    let found = resource(table.take("wait"), scope, Need::Read);
    let kind = match &found {
        Some((_, Some(model))) => Kind::of(model.data_type).unwrap_or(Kind::Any),
        _ => Kind::Any,
    };
    let until = table
        .require("until", "say what is waited for: `until = \"value == 0\"`")
        .and_then(|item| expression::condition(&item, "value == 0", &Scope::of_value(kind)));
    let timeout = match table.take("timeout") {
        Some(item) => item.duration(LEAST, MOST),
        None => Some(PATIENCE),
    };
    Some(Step::Wait {
        path: found?.0,
        until: until?,
        timeout: timeout?,
    })
}

/// `params = { seconds = { type = "integer", min = 1, max = 60, default = 5 } }`
fn read_parameters(item: &Item<'_>) -> Vec<(String, Parameter)> {
    let Some(table) = item.table("params", "{ seconds = { type = \"integer\" } }") else {
        return Vec::new();
    };
    table
        .entries()
        .iter()
        .filter_map(|item| {
            let name = item.key();
            if !is_parameter_name(name) {
                item.error(
                    "bad-name",
                    format!("`{name}` cannot be a parameter"),
                    "a parameter has letters, digits, `-` and `_`, and is none of `id`, `ttl`, `reply_to`, `args` and `now`",
                );
                return None;
            }
            Some((name.to_owned(), read_parameter(item)?))
        })
        .collect()
}

/// What stands beside parameters in a request cannot be one.
fn is_parameter_name(name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !name.is_empty()
        && name.chars().all(is_word)
        && !["id", "ttl", "reply_to", "args", "now"].contains(&name)
}

fn read_parameter(item: &Item<'_>) -> Option<Parameter> {
    let mut table = item.table(item.key(), "{ type = \"integer\", min = 1, max = 60 }")?;
    let data_type = table
        .require("type", "say what it is: `type = \"integer\"`")
        .and_then(|item| {
            item.one_of(&[
                ("integer", DataType::Integer),
                ("number", DataType::Float),
                ("boolean", DataType::Boolean),
                ("string", DataType::String),
            ])
        });
    let is_number = matches!(data_type, None | Some(DataType::Integer | DataType::Float));
    let mut bound = |key| {
        let item = table.take(key)?;
        if !is_number {
            item.error(
                "not-numeric",
                format!("`{key}` needs a number"),
                "remove it",
            );
        }
        item.number()
    };
    let mut parameter = Parameter {
        min: bound("min"),
        max: bound("max"),
        data_type: data_type.unwrap_or(DataType::Float),
        choices: Vec::new(),
        default: None,
    };
    check_order(item, parameter.min, parameter.max);
    if let Some(item) = table.take("enum") {
        for item in item.list("[\"slow\", \"fast\"]").unwrap_or_default() {
            parameter.choices.extend(typed(&item, data_type));
        }
    }
    if let Some(item) = table.take("default")
        && let Some(value) = typed(&item, data_type)
    {
        if let Err(error) = parameter.check(&value) {
            item.error(
                "bad-value",
                error.to_string(),
                "write a default that may be given",
            );
        }
        parameter.default = Some(value);
    }
    table.finish();
    data_type.map(|_| parameter)
}

/// A value of the parameter's type.
fn typed(item: &Item<'_>, data_type: Option<DataType>) -> Option<Value> {
    let value = literal(item)?;
    let Some(data_type) = data_type else {
        return Some(value);
    };
    let typed = value.coerce(data_type);
    if typed.is_err() {
        item.error(
            "bad-type",
            format!("this is not {}", subject::data_type_name(data_type)),
            "write a value of the parameter's type",
        );
    }
    typed.ok()
}
