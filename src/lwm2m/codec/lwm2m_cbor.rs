//! LwM2M CBOR (LwM2M Core 1.2 §7.4.7).
//!
//! Maps in maps. A key is an identifier or an array of them, and the keys from the outside in are
//! the path, from the Object ID on whatever the request was for.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use super::cbor::{self, each, failed};
use super::error::{EncodeError, shortened};
use super::{ContentFormat, Context, DecodeError, Detail, Found, Problem, Sink, sorted, typed};
use crate::lwm2m::path::{Id, Level, MAX_ID, Path, PathError};
use crate::lwm2m::value::Record;

pub(super) fn decode(payload: &[u8], sink: &mut Sink<'_>) -> Result<(), DecodeError> {
    if payload.is_empty() {
        return Ok(());
    }
    let before = match &sink.found {
        Found::Records(records) => records.len(),
        Found::Changes { changes, .. } => changes.len(),
    };
    let decoder = &mut Decoder::new(payload);
    map(decoder, &Path::ROOT, sink)?;
    cbor::end(decoder)?;
    let mut paths: Vec<Path> = match &sink.found {
        Found::Records(records) => records.iter().skip(before).map(|r| r.path).collect(),
        Found::Changes { changes, .. } => changes.iter().skip(before).map(|c| c.path).collect(),
    };
    paths.sort_unstable();
    let twice = paths.iter().zip(paths.iter().skip(1));
    match twice.into_iter().find(|(path, next)| path.contains(next)) {
        Some((_, path)) => Err(DecodeError::Twice(*path)),
        None => Ok(()),
    }
}

/// The map below a node. Each key goes deeper, so maps are in each other four times at most.
fn map(decoder: &mut Decoder<'_>, above: &Path, sink: &mut Sink<'_>) -> Result<(), DecodeError> {
    let start = decoder.position();
    let left = decoder.map().map_err(|error| failed(start, &error))?;
    each(decoder, left, |decoder| {
        let path = match key(decoder, above, sink.context.base)? {
            Ok(path) => path,
            Err(detail) => {
                cbor::skip(decoder)?;
                let above = sink.context.base;
                return sink.problem(above, detail);
            }
        };
        if matches!(decoder.datatype(), Ok(Type::Map | Type::MapIndef)) {
            return map(decoder, &path, sink);
        }
        match cbor::value_or_skip(decoder)? {
            Some(Some(value)) => sink.value(path, value, None),
            Some(None) => sink.null(path, None),
            None => sink.result(path, Err(Problem::no_value(path)), None),
        }
    })
}

/// The node that a key leads to, or why the key leads nowhere.
fn key(
    decoder: &mut Decoder<'_>,
    above: &Path,
    base: Path,
) -> Result<Result<Path, Detail>, DecodeError> {
    let start = decoder.position();
    let kind = decoder.datatype().map_err(|error| failed(start, &error))?;
    let mut path = Ok(*above);
    let mut is_empty = true;
    let mut step = |decoder: &mut Decoder<'_>| {
        is_empty = false;
        path = match (&path, id(decoder)?) {
            (Err(_), _) => return Ok(()),
            (Ok(_), Step::Prefix(prefix)) => Err(Detail::Behind { prefix }),
            (Ok(path), Step::Id(id)) => below(path, id, base)
                .map_err(|reason| Detail::name(&format!("{path}/{id}").replace("//", "/"), reason)),
            (Ok(path), Step::Other) => Err(Detail::name(&path.to_string(), PathError::Number)),
        };
        Ok(())
    };
    match kind {
        Type::Array | Type::ArrayIndef => {
            let left = decoder.array().map_err(|error| failed(start, &error))?;
            each(decoder, left, step)?;
        }
        _ => step(decoder)?,
    }
    if is_empty {
        return Ok(Err(Detail::name("", PathError::EmptySegment)));
    }
    Ok(path)
}

/// A part of a key.
enum Step {
    Id(u64),
    /// A text: the prefix of a device behind a gateway.
    Prefix(String),
    Other,
}

fn id(decoder: &mut Decoder<'_>) -> Result<Step, DecodeError> {
    let start = decoder.position();
    match decoder.datatype().map_err(|error| failed(start, &error))? {
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => decoder
            .u64()
            .map(Step::Id)
            .map_err(|error| failed(start, &error)),
        Type::String | Type::StringIndef => {
            let prefix = cbor::name(decoder)?;
            Ok(Step::Prefix(shortened(&prefix).into_owned()))
        }
        _ => cbor::skip(decoder).map(|()| Step::Other),
    }
}

/// The node `id` below a node. In the place of an Object Instance ID, 65535 stands for the one
/// that the receiver picks: the one of the request's path.
fn below(path: &Path, id: u64, base: Path) -> Result<Path, PathError> {
    if path.level() == Level::ResourceInstance {
        return Err(PathError::TooDeep);
    }
    let id = Id::try_from(id).map_err(|_| PathError::Number)?;
    if id == MAX_ID && path.level() == Level::Object && path.contains(&base) {
        let picked = base.instance_id().ok_or(PathError::Number)?;
        return path.child(picked).ok_or(PathError::Number);
    }
    path.child(id).ok_or(PathError::Number)
}

pub(super) fn encode(records: &[Record], context: &Context<'_>) -> Result<Vec<u8>, EncodeError> {
    Writer {
        encoder: Encoder::new(Vec::with_capacity(16 * records.len())),
        context,
        nameless: false,
    }
    .payload(records)
}

/// The same with 65535 as Object Instance ID.
pub(super) fn encode_new(
    records: &[Record],
    context: &Context<'_>,
) -> Result<Vec<u8>, EncodeError> {
    Writer {
        encoder: Encoder::new(Vec::with_capacity(16 * records.len())),
        context,
        nameless: true,
    }
    .payload(records)
}

struct Writer<'a> {
    encoder: Encoder<Vec<u8>>,
    context: &'a Context<'a>,
    nameless: bool,
}

impl Writer<'_> {
    /// No records are no payload, for a map has at least one entry.
    fn payload(mut self, records: &[Record]) -> Result<Vec<u8>, EncodeError> {
        let sorted = sorted(records, ContentFormat::LWM2M_CBOR)?;
        if !sorted.is_empty() {
            self.map(&sorted, 0)?;
        }
        Ok(self.encoder.into_writer())
    }

    /// A map of records that share their first `depth` identifiers.
    fn map(&mut self, records: &[&Record], depth: usize) -> Result<(), EncodeError> {
        let id_at = |record: &Record, depth: usize| record.path.ids().get(depth).copied();
        let same = |a: &&Record, b: &&Record| id_at(a, depth) == id_at(b, depth);
        // Writing to a Vec does not fail.
        let _ = self.encoder.map(records.chunk_by(same).count() as u64);
        for group in records.chunk_by(same) {
            let [first, ..] = group else { continue };
            let shared = match group {
                // In sorted order, what the outermost two share is shared by all.
                [first, .., last] => {
                    let ids = first.path.ids().iter().zip(last.path.ids());
                    ids.take_while(|(a, b)| a == b).count()
                }
                _ => first.path.ids().len(),
            };
            self.key(first.path.ids(), depth, shared);
            match group {
                [record] => {
                    let value = typed(record.path, &record.value, self.context)?;
                    cbor::write(&mut self.encoder, &value);
                }
                _ => self.map(group, shared)?,
            }
        }
        Ok(())
    }

    fn key(&mut self, ids: &[Id], from: usize, to: usize) {
        if to - from > 1 {
            let _ = self.encoder.array((to - from) as u64);
        }
        for (depth, id) in ids.iter().enumerate().take(to).skip(from) {
            let id = if self.nameless && depth == 1 {
                MAX_ID
            } else {
                *id
            };
            let _ = self.encoder.u16(id);
        }
    }
}
