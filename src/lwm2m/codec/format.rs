//! Names and numbers of formats.

use std::fmt;

/// A Content-Format identifier (RFC 7252 §12.3; the OMA's in LwM2M Core 1.1 §7.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentFormat(pub u16);

impl ContentFormat {
    /// `text/plain`, for one resource.
    pub const TEXT: Self = Self(0);
    /// `application/link-format`, see [`crate::lwm2m::link`].
    pub const LINK_FORMAT: Self = Self(40);
    /// `application/octet-stream`, for one Opaque resource.
    pub const OPAQUE: Self = Self(42);
    /// `application/cbor`, for one resource.
    pub const CBOR: Self = Self(60);
    /// `application/senml+json`
    pub const SENML_JSON: Self = Self(110);
    /// `application/senml+cbor`
    pub const SENML_CBOR: Self = Self(112);
    /// `application/senml-etch+json` (RFC 8790), the body of composite operations since LwM2M 1.2.
    pub const SENML_ETCH_JSON: Self = Self(320);
    /// `application/senml-etch+cbor` (RFC 8790).
    pub const SENML_ETCH_CBOR: Self = Self(322);
    /// `application/vnd.oma.lwm2m+tlv`
    pub const TLV: Self = Self(11542);
    /// `application/vnd.oma.lwm2m+json`, of LwM2M 1.0.
    pub const OMA_JSON: Self = Self(11543);
    /// `application/vnd.oma.lwm2m+cbor`, since LwM2M 1.2.
    pub const LWM2M_CBOR: Self = Self(11544);

    /// The number in use for one of the numbers that devices used before there were registered ones.
    pub(super) const fn current(self) -> Self {
        match self.0 {
            1541 => Self::TEXT,
            1542 => Self::TLV,
            1543 => Self::OMA_JSON,
            _ => self,
        }
    }
}

impl fmt::Display for ContentFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TEXT => f.write_str("text"),
            Self::LINK_FORMAT => f.write_str("link-format"),
            Self::OPAQUE => f.write_str("opaque"),
            Self::CBOR => f.write_str("CBOR"),
            Self::SENML_JSON => f.write_str("SenML JSON"),
            Self::SENML_CBOR => f.write_str("SenML CBOR"),
            Self::SENML_ETCH_JSON => f.write_str("SenML-ETCH JSON"),
            Self::SENML_ETCH_CBOR => f.write_str("SenML-ETCH CBOR"),
            Self::TLV => f.write_str("TLV"),
            Self::OMA_JSON => f.write_str("OMA JSON"),
            Self::LWM2M_CBOR => f.write_str("LwM2M CBOR"),
            Self(number) => write!(f, "content format {number}"),
        }
    }
}

impl fmt::Debug for ContentFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
