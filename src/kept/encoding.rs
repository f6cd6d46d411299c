//! How the types of other modules are written as CBOR: as little as tells them apart.
//!
//! A field, once it has a number, keeps it; one that is not needed any more leaves a gap. So what an
//! older version wrote can be read, and what a newer one added is passed over.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use minicbor::data::Type;
use minicbor::decode::{Decoder, Error};
use minicbor::encode::{self, Encoder, Write};
use minicbor::{Decode, Encode};

use crate::coap::Token;
use crate::dtls::PeerIdentity;
use crate::lwm2m::{ObjectLink, Path, Target, Value};
use crate::mapping::Published;
use crate::route::Route;
use crate::time::UnixTime;

impl<C> Encode<C> for UnixTime {
    fn encode<W: Write>(
        &self,
        to: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        to.i64(self.as_millis())?.ok()
    }
}

impl<C> Decode<'_, C> for UnixTime {
    fn decode(from: &mut Decoder<'_>, _: &mut C) -> Result<Self, Error> {
        Ok(Self::from_millis(from.i64()?))
    }
}

/// The numbers, two bytes each.
impl<C> Encode<C> for Path {
    fn encode<W: Write>(
        &self,
        to: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        to.bytes(&path_to_bytes(self))?.ok()
    }
}

impl<C> Decode<'_, C> for Path {
    fn decode(from: &mut Decoder<'_>, _: &mut C) -> Result<Self, Error> {
        path_from_bytes(from.bytes()?).ok_or_else(|| Error::message("no path"))
    }
}

/// The numbers of a path, two bytes each in network order: sorted as paths are.
pub fn path_to_bytes(path: &Path) -> Vec<u8> {
    path.ids().iter().flat_map(|id| id.to_be_bytes()).collect()
}

/// The path of [`path_to_bytes`].
pub fn path_from_bytes(bytes: &[u8]) -> Option<Path> {
    let (ids, rest) = bytes.as_chunks::<2>();
    let ids: Vec<_> = ids.iter().map(|id| u16::from_be_bytes(*id)).collect();
    Path::from_ids(&ids).filter(|_| rest.is_empty())
}

/// A path, or the paths of a composite one.
impl<C> Encode<C> for Target {
    fn encode<W: Write>(
        &self,
        to: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        match self {
            Self::Node(path) => path.encode(to, context),
            Self::Composite(paths) => paths.encode(to, context),
        }
    }
}

impl<'b, C> Decode<'b, C> for Target {
    fn decode(from: &mut Decoder<'b>, context: &mut C) -> Result<Self, Error> {
        Ok(match from.datatype()? {
            Type::Bytes => Self::Node(Path::decode(from, context)?),
            _ => Self::composite(list(from, |from| Path::decode(from, &mut ()))?),
        })
    }
}

impl<C> Encode<C> for Token {
    fn encode<W: Write>(
        &self,
        to: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        to.bytes(self.as_bytes())?.ok()
    }
}

impl<C> Decode<'_, C> for Token {
    fn decode(from: &mut Decoder<'_>, _: &mut C) -> Result<Self, Error> {
        Self::new(from.bytes()?).ok_or_else(|| Error::message("a token of more than 8 bytes"))
    }
}

impl<C> Encode<C> for Value {
    fn encode<W: Write>(
        &self,
        to: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        to.array(2)?;
        match self {
            Self::String(text) => to.u8(0)?.str(text)?,
            Self::Integer(number) => to.u8(1)?.i64(*number)?,
            Self::UnsignedInteger(number) => to.u8(2)?.u64(*number)?,
            Self::Float(number) => to.u8(3)?.f64(*number)?,
            Self::Boolean(flag) => to.u8(4)?.bool(*flag)?,
            Self::Opaque(bytes) => to.u8(5)?.bytes(bytes)?,
            Self::Time(seconds) => to.u8(6)?.i64(*seconds)?,
            Self::ObjectLink(link) => {
                let link = u32::from(link.object) << 16 | u32::from(link.instance);
                to.u8(7)?.u32(link)?
            }
            Self::CoreLink(text) => to.u8(8)?.str(text)?,
        };
        to.ok()
    }
}

impl<C> Decode<'_, C> for Value {
    fn decode(from: &mut Decoder<'_>, _: &mut C) -> Result<Self, Error> {
        expect_array(from, 2)?;
        let kind = from.u8()?;
        value_of_kind(from, kind)
    }
}

fn value_of_kind(from: &mut Decoder<'_>, kind: u8) -> Result<Value, Error> {
    Ok(match kind {
        0 => Value::String(from.str()?.to_owned()),
        1 => Value::Integer(from.i64()?),
        2 => Value::UnsignedInteger(from.u64()?),
        3 => Value::Float(from.f64()?),
        4 => Value::Boolean(from.bool()?),
        5 => Value::Opaque(from.bytes()?.to_vec()),
        6 => Value::Time(from.i64()?),
        7 => {
            let link = from.u32()?;
            Value::ObjectLink(ObjectLink {
                object: (link >> 16) as u16,
                instance: link as u16,
            })
        }
        8 => Value::CoreLink(from.str()?.to_owned()),
        _ => return Err(Error::message("an unknown type of value")),
    })
}

/// A value as itself; beside its types there are these.
const NAMES: u8 = 9;
const FIELDS: u8 = 10;

impl<C> Encode<C> for Published {
    fn encode<W: Write>(
        &self,
        to: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        match self {
            Self::Value(value) => value.encode(to, context)?,
            Self::Names(names) => {
                to.array(2)?.u8(NAMES)?.encode(names)?;
            }
            Self::Fields(fields) => {
                to.array(2)?.u8(FIELDS)?.array(2 * fields.len() as u64)?;
                for (name, value) in fields {
                    to.str(name)?;
                    value.encode(to, context)?;
                }
            }
        }
        Ok(())
    }
}

impl<C> Decode<'_, C> for Published {
    fn decode(from: &mut Decoder<'_>, _: &mut C) -> Result<Self, Error> {
        published(from, true)
    }
}

/// Fields hold no fields.
fn published(from: &mut Decoder<'_>, whole: bool) -> Result<Published, Error> {
    expect_array(from, 2)?;
    match from.u8()? {
        NAMES => from.decode().map(Published::Names),
        FIELDS if whole => {
            let Some(count) = from.array()? else {
                return Err(Error::message("an array without a length"));
            };
            let mut fields = Vec::new();
            for _ in 0..count / 2 {
                fields.push((Arc::from(from.str()?), published(from, false)?));
            }
            Ok(Published::Fields(fields))
        }
        kind => value_of_kind(from, kind).map(Published::Value),
    }
}

impl<C> Encode<C> for Route {
    fn encode<W: Write>(
        &self,
        to: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        to.array(4)?.u16(self.listener)?;
        let scope = match self.address {
            SocketAddr::V4(address) => {
                to.bytes(&address.ip().octets())?;
                0
            }
            SocketAddr::V6(address) => {
                to.bytes(&address.ip().octets())?;
                address.scope_id()
            }
        };
        to.u16(self.address.port())?.u32(scope)?.ok()
    }
}

impl<C> Decode<'_, C> for Route {
    fn decode(from: &mut Decoder<'_>, _: &mut C) -> Result<Self, Error> {
        expect_array(from, 4)?;
        let listener = from.u16()?;
        let bytes = from.bytes()?;
        let address = <[u8; 4]>::try_from(bytes)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
            .map_err(|_| Error::message("no address"))?;
        let mut address = SocketAddr::new(address, from.u16()?);
        let scope = from.u32()?;
        if let SocketAddr::V6(address) = &mut address {
            address.set_scope_id(scope);
        }
        Ok(Self { listener, address })
    }
}

impl<C> Encode<C> for PeerIdentity {
    fn encode<W: Write>(
        &self,
        to: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        match self {
            Self::Psk(identity) => to.array(2)?.u8(0)?.bytes(identity)?,
            Self::X509 {
                leaf,
                chain,
                names,
                authority,
            } => {
                to.array(5)?.u8(1)?.bytes(leaf)?;
                to.array(chain.len() as u64)?;
                for certificate in chain {
                    to.bytes(certificate)?;
                }
                to.array(names.len() as u64)?;
                for name in names {
                    to.str(name)?;
                }
                match authority {
                    Some(authority) => to.bytes(authority)?,
                    None => to.null()?,
                }
            }
            Self::RawPublicKey(key) => to.array(2)?.u8(2)?.bytes(key)?,
        };
        to.ok()
    }
}

impl<C> Decode<'_, C> for PeerIdentity {
    fn decode(from: &mut Decoder<'_>, _: &mut C) -> Result<Self, Error> {
        let count = from.array()?;
        Ok(match (from.u8()?, count) {
            (0, Some(2)) => Self::Psk(from.bytes()?.to_vec()),
            (1, Some(5)) => Self::X509 {
                leaf: from.bytes()?.to_vec(),
                chain: list(from, |from| Ok(from.bytes()?.to_vec()))?,
                names: list(from, |from| Ok(from.str()?.to_owned()))?,
                authority: match from.datatype()? {
                    Type::Null => {
                        from.null()?;
                        None
                    }
                    _ => Some(
                        from.bytes()?
                            .try_into()
                            .map_err(|_| Error::message("no SHA-256"))?,
                    ),
                },
            },
            (2, Some(2)) => Self::RawPublicKey(from.bytes()?.to_vec()),
            _ => return Err(Error::message("an unknown kind of identity")),
        })
    }
}

/// For `Option<Arc<…>>`, which minicbor does not know.
pub(super) mod shared {
    use super::*;

    pub fn encode<C, T: Encode<C>, W: Write>(
        value: &Option<Arc<T>>,
        to: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        value.as_deref().encode(to, context)
    }

    pub fn decode<'b, C, T: Decode<'b, C>>(
        from: &mut Decoder<'b>,
        context: &mut C,
    ) -> Result<Option<Arc<T>>, Error> {
        Ok(Option::<T>::decode(from, context)?.map(Arc::new))
    }

    pub const fn is_nil<T>(value: &Option<Arc<T>>) -> bool {
        value.is_none()
    }

    pub const fn nil<T>() -> Option<Option<Arc<T>>> {
        Some(None)
    }
}

/// For `Arc<str>`.
pub(super) mod text {
    use super::*;

    pub fn encode<C, W: Write>(
        text: &Arc<str>,
        to: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        to.str(text)?.ok()
    }

    pub fn decode<C>(from: &mut Decoder<'_>, _: &mut C) -> Result<Arc<str>, Error> {
        Ok(from.str()?.into())
    }
}

/// A list; nothing is allocated by the length that it claims.
fn list<'b, T>(
    from: &mut Decoder<'b>,
    one: impl Fn(&mut Decoder<'b>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let count = from.array()?.ok_or_else(|| Error::message("no length"))?;
    let mut items = Vec::new();
    for _ in 0..count {
        items.push(one(from)?);
    }
    Ok(items)
}

fn expect_array(from: &mut Decoder<'_>, count: u64) -> Result<(), Error> {
    match from.array()? {
        Some(found) if found == count => Ok(()),
        _ => Err(Error::message("an array of another length")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comes_back<T>(value: &T)
    where
        T: Encode<()> + for<'b> Decode<'b, ()> + PartialEq + std::fmt::Debug,
    {
        let bytes = minicbor::to_vec(value).unwrap();
        assert_eq!(&minicbor::decode::<T>(&bytes).unwrap(), value);
        // Nothing that was cut short is taken for something else.
        for length in 0..bytes.len() {
            assert!(
                minicbor::decode::<T>(&bytes[..length]).is_err(),
                "{value:?}"
            );
        }
    }

    #[test]
    fn everything_comes_back_as_it_was() {
        for value in [
            Value::String("x".into()),
            Value::Integer(-5),
            Value::UnsignedInteger(u64::MAX),
            Value::Float(-18.25),
            Value::Boolean(true),
            Value::Opaque(vec![0, 255]),
            Value::Time(1_795_360_765),
            Value::ObjectLink(ObjectLink {
                object: 66,
                instance: 1,
            }),
            Value::CoreLink("</3>".into()),
        ] {
            comes_back(&value);
        }
        for path in ["/", "/3", "/3/0", "/3303/65534/5700", "/3/0/7/1"] {
            comes_back(&path.parse::<Path>().unwrap());
        }
        let paths = [Path::instance(1, 0), Path::resource(3, 0, 9)];
        for target in [
            Target::Node(Path::ROOT),
            Target::Node(Path::instance(3303, 0)),
            Target::composite([]),
            Target::composite(paths),
        ] {
            comes_back(&target);
        }
        for address in ["192.0.2.7:5683", "[2001:db8::1]:5684", "[fe80::1%3]:5683"] {
            comes_back(&Route {
                listener: 2,
                address: address.parse().unwrap(),
            });
        }
        for identity in [
            PeerIdentity::Psk(vec![1, 2]),
            PeerIdentity::RawPublicKey(vec![3]),
            PeerIdentity::X509 {
                leaf: vec![4; 300],
                chain: vec![vec![5], vec![6]],
                names: vec!["a".into(), "b".into()],
                authority: Some([7; 32]),
            },
            PeerIdentity::X509 {
                leaf: vec![4],
                chain: Vec::new(),
                names: Vec::new(),
                authority: None,
            },
        ] {
            comes_back(&identity);
        }
        let names = Published::Names(vec!["leak".into(), "bit-7".into()]);
        comes_back(&names);
        comes_back(&Published::Value(Value::Boolean(true)));
        comes_back(&Published::Fields(vec![
            ("seq".into(), Value::Integer(7).into()),
            ("flags".into(), names),
        ]));
        comes_back(&Token::new(&[1, 2, 3]).unwrap());
        comes_back(&UnixTime::from_millis(-1));
    }

    #[test]
    fn paths_are_sorted_as_their_bytes_are() {
        let paths = [
            "/",
            "/3",
            "/3/0",
            "/3/0/7",
            "/3/0/7/1",
            "/3/1",
            "/300",
            "/3303/0/5700",
        ];
        let bytes: Vec<_> = paths
            .iter()
            .map(|path| path_to_bytes(&path.parse().unwrap()))
            .collect();
        assert!(bytes.is_sorted());
    }
}
