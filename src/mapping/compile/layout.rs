//! `layout = [ … ]` of `value`: the fields of a frame of bytes.

use super::value::bits;
use crate::diagnostic::{Item, Table, nearest};
use crate::mapping::layout::{FORMS, Field, Form, Layout, Reading};
use crate::mapping::published::Encoding;
use crate::mapping::unit::Line;

/// The longest frame, in bytes.
const MAX_FRAME: i64 = 65_535;

/// The most fields of one.
const MAX_FIELDS: usize = 256;

const EXAMPLE: &str = "{ name = \"temp\", type = \"i16be\", scale = 0.1 }";

pub(super) fn read(item: &Item<'_>, encoding: Encoding) -> Option<Layout> {
    let items = item.list(&format!("[{EXAMPLE}]"))?;
    if items.is_empty() || items.len() > MAX_FIELDS {
        item.error(
            "bad-value",
            format!("a layout has 1 to {MAX_FIELDS} fields"),
            format!("write it like `layout = [{EXAMPLE}]`"),
        );
    }
    let mut fields: Vec<Field> = Vec::new();
    let mut next = Some(0);
    for item in items {
        let Some(table) = item.table("layout", EXAMPLE) else {
            continue;
        };
        let Some(field) = read_field(&item, table, &mut next) else {
            continue;
        };
        if fields.iter().any(|other| other.name == field.name) {
            item.error(
                "duplicate-name",
                format!("two fields are called `{}`", field.name),
                "give each field a name of its own",
            );
        }
        fields.push(field);
    }
    Some(Layout { fields, encoding })
}

/// Reads one field; `next` is where it begins unless it says so, unknown behind one that is wrong.
fn read_field(item: &Item<'_>, mut table: Table<'_>, next: &mut Option<i64>) -> Option<Field> {
    let name = table
        .require("name", "name the field, for instance `name = \"temp\"`")
        .and_then(|item| item.text("temp"));
    let form = read_form(&mut table);
    let at = match table.take("at") {
        Some(item) => item.integer(0..=MAX_FRAME),
        None => *next,
    };
    let reading = read_reading(item, &mut table, form);
    table.belongs_elsewhere(&["endian"], "say it in the type: `u16be`, `u16le`");
    table.belongs_elsewhere(
        &["unit"],
        "the fields of a frame are published without units; name them after it: `temp-cel`",
    );
    table.finish();
    *next = at.zip(form).map(|(at, form)| at + form.len() as i64);
    let (at, form) = at.zip(form)?;
    if at + form.len() as i64 > MAX_FRAME {
        item.error(
            "bad-value",
            format!("a frame has at most {MAX_FRAME} bytes"),
            "look at `at` and `len`",
        );
    }
    Some(Field {
        name: name?.into(),
        at: usize::try_from(at).ok()?,
        form,
        reading,
    })
}

fn read_form(table: &mut Table<'_>) -> Option<Form> {
    let item = table.require("type", "say how it is written: `type = \"u16be\"`")?;
    let word = item.text("u16be")?;
    let length = table.take("len");
    let sized: Option<fn(usize) -> Form> = match word {
        "text" => Some(Form::Text),
        "bytes" => Some(Form::Bytes),
        _ => None,
    };
    if let Some(form) = sized {
        let Some(length) = length else {
            item.error(
                "missing-key",
                format!("a field of type `{word}` needs `len`"),
                "write how many bytes it has: `len = 8`",
            );
            return None;
        };
        let length = length.integer(1..=MAX_FRAME)?;
        return usize::try_from(length).ok().map(form);
    }
    if let Some(length) = length {
        length.error(
            "bad-value",
            format!("the type `{word}` says how long it is"),
            "remove `len`",
        );
    }
    let found = FORMS.iter().find(|(name, _)| *name == word);
    if found.is_none() {
        let ordered = FORMS
            .iter()
            .any(|(name, _)| name.strip_suffix("be") == Some(word));
        let names = FORMS.iter().map(|(name, _)| *name).chain(["text", "bytes"]);
        let hint = match nearest(word, names) {
            _ if ordered => format!(
                "say in which order its bytes are: `{word}be` with the highest first, or `{word}le`"
            ),
            Some(name) => format!("did you mean `{name}`?"),
            None => "write `u` or `i` with 8, 16, 24, 32, 48 or 64 bits, `f32` or `f64`, and `be` \
                     or `le`; or `text` or `bytes` with `len`"
                .to_owned(),
        };
        item.error("bad-value", format!("there is no type `{word}`"), hint);
    }
    found.map(|(_, form)| *form)
}

fn read_reading(item: &Item<'_>, table: &mut Table<'_>, form: Option<Form>) -> Reading {
    let is_whole = matches!(form, Some(Form::Whole { .. }) | None);
    let is_number = is_whole || matches!(form, Some(Form::Float { .. }));
    let mut of_kind = |key: &'static str, fits: bool, kind: &str| {
        let item = table.take(key)?;
        if !fits {
            item.error(
                "bad-type",
                format!("`{key}` is for fields that are {kind}"),
                "remove it",
            );
        }
        Some(item)
    };
    let scale = of_kind("scale", is_number, "numbers").and_then(|item| item.number());
    let offset = of_kind("offset", is_number, "numbers").and_then(|item| item.number());
    let round = of_kind("round", is_number, "numbers").and_then(|item| item.integer(0..=9));
    let names = of_kind("enum", is_whole, "whole numbers");
    let set = of_kind("bits", is_whole, "whole numbers");
    if scale == Some(0.0) {
        item.error(
            "bad-value",
            "a scale of 0 makes every value the same",
            "write the factor from the frame's unit to the published one",
        );
    }
    let several = [
        scale.or(offset).is_some() || round.is_some(),
        names.is_some(),
        set.is_some(),
    ];
    if several.iter().filter(|said| **said).count() > 1 {
        item.error(
            "bad-value",
            "a field has scale, offset and round, or `enum`, or `bits`",
            "keep one of them",
        );
    }
    if let Some(item) = set {
        let width = form.map_or(64, |form| u8::try_from(8 * form.len()).unwrap_or(64));
        if let Some(bits) = bits(&item, width) {
            return Reading::Bits(bits);
        }
    }
    if let Some(item) = names
        && let Some(table) = item.table("enum", "{ 0 = \"off\", 1 = \"on\" }")
    {
        let named = table.entries().into_iter().filter_map(|item| {
            let name = item.text("on")?;
            let number = item.key().parse().ok();
            if number.is_none() {
                item.error(
                    "bad-value",
                    format!("`{}` is no whole number", item.key()),
                    "write the number in the frame before the `=`",
                );
            }
            Some((number?, name.to_owned()))
        });
        return Reading::Names(named.collect());
    }
    let scale = scale.filter(|scale| *scale != 0.0).unwrap_or(1.0);
    Reading::Number {
        line: Line::of(scale, offset.unwrap_or(0.0)),
        round: round.and_then(|digits| u8::try_from(digits).ok()),
    }
}
