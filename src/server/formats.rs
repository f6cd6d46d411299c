//! Which Content-Formats to ask a device for, and to write in.

use crate::lwm2m::ContentFormat;
use crate::lwm2m::model::Version;
use crate::server::operation::Shape;

/// Formats that carry several values, the one we like best first: small and self-describing
/// before verbose.
const STRUCTURED: [ContentFormat; 4] = [
    ContentFormat::LWM2M_CBOR,
    ContentFormat::SENML_CBOR,
    ContentFormat::TLV,
    ContentFormat::SENML_JSON,
];

/// What composite operations are asked in, the one that most devices know first
/// (LwM2M Core 1.1 §6.3.8, Core 1.2 §6.3.8).
const COMPOSITE: [Composite; 4] = [
    Composite {
        body: ContentFormat::SENML_CBOR,
        accept: ContentFormat::SENML_CBOR,
    },
    Composite {
        body: ContentFormat::SENML_JSON,
        accept: ContentFormat::SENML_JSON,
    },
    Composite {
        body: ContentFormat::SENML_ETCH_CBOR,
        accept: ContentFormat::SENML_CBOR,
    },
    Composite {
        body: ContentFormat::SENML_ETCH_JSON,
        accept: ContentFormat::SENML_JSON,
    },
];

/// The two formats of an operation; they differ for composite ones only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Composite {
    /// Of the body of the request: paths, or what to write.
    pub body: ContentFormat,
    /// What to ask for in Accept.
    pub accept: ContentFormat,
}

/// What is known of a device's formats: what it advertised, and what it was seen to take.
///
/// A client need not advertise anything, and what it advertises need not be true, so the list is
/// an order to try in: after 4.06 or 4.15 the next one gets its turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Formats {
    /// Bits: what of [`STRUCTURED`], of the bodies of [`COMPOSITE`], and CBOR it advertised.
    advertised: u16,
    generation: Generation,
    /// Positions of those that worked last, in the orders for many values, for one, and for
    /// composite operations.
    many: u8,
    single: u8,
    composite: u8,
}

/// What the version of the enabler says about formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Generation {
    /// TLV is mandatory (LwM2M Core 1.0 §6.4).
    #[default]
    V1_0,
    V1_1,
    /// LwM2M CBOR and SenML-ETCH came.
    V1_2,
}

impl Composite {
    const fn of(format: ContentFormat) -> Self {
        Self {
            body: format,
            accept: format,
        }
    }
}

impl Formats {
    /// The order for a device that advertised `ct` in its Register.
    ///
    /// Without any, a 1.0 client speaks TLV (mandatory there, LwM2M 1.0 §6.4), and a later one is
    /// tried with what it most likely has.
    pub fn advertised(ct: &[u16], version: Version) -> Self {
        let bit = |number: &u16| bit(ContentFormat(*number));
        Self {
            advertised: ct.iter().map(bit).fold(0, |bits, bit| bits | bit),
            generation: if version < Version::V1_1 {
                Generation::V1_0
            } else if version < Version::V1_2 {
                Generation::V1_1
            } else {
                Generation::V1_2
            },
            ..Self::default()
        }
    }

    /// The formats for an attempt at an operation that has to carry this; `None`: nothing is left
    /// to try.
    pub(super) fn choose(&self, attempt: u8, shape: Shape) -> Option<Composite> {
        let is_etch = |formats: &Composite| {
            matches!(
                formats.body,
                ContentFormat::SENML_ETCH_JSON | ContentFormat::SENML_ETCH_CBOR
            )
        };
        match shape {
            Shape::Value | Shape::Values => self
                .attempt(attempt, shape == Shape::Value)
                .map(Composite::of),
            Shape::Anywhere => self.composite_attempt(attempt),
            Shape::Deletions => (0..)
                .map_while(|attempt| self.composite_attempt(attempt))
                .filter(is_etch)
                .nth(attempt.into()),
        }
    }

    /// Remembers that an operation went well in these formats.
    pub(super) fn taken(&mut self, formats: Composite, shape: Shape) {
        match shape {
            Shape::Value | Shape::Values => self.worked(formats.body, shape == Shape::Value),
            Shape::Anywhere | Shape::Deletions => self.composite_worked(formats),
        }
    }

    /// The format for an attempt: the `attempt`-th after the one that worked last.
    ///
    /// At a single value CBOR comes first, if the device advertises it, and the list ends in text,
    /// which every client takes there. `None`: nothing is left to try.
    pub fn attempt(&self, attempt: u8, single: bool) -> Option<ContentFormat> {
        let order = self.order(single);
        let current = if single { self.single } else { self.many };
        let attempt = usize::from(attempt);
        match turned(&order, current, attempt) {
            None if single && attempt == order.len() => Some(ContentFormat::TEXT),
            format => format,
        }
    }

    /// The formats for an attempt at a composite operation, in the same way.
    pub fn composite_attempt(&self, attempt: u8) -> Option<Composite> {
        turned(
            &self.composite_order(),
            self.composite,
            usize::from(attempt),
        )
    }

    /// Remembers that a request in `format` was taken.
    pub fn worked(&mut self, format: ContentFormat, single: bool) {
        let order = self.order(single);
        if let Some(index) = order.iter().position(|known| *known == format) {
            let current = if single {
                &mut self.single
            } else {
                &mut self.many
            };
            *current = index as u8;
        }
    }

    /// Remembers that a composite operation in `formats` was taken.
    pub fn composite_worked(&mut self, formats: Composite) {
        let order = self.composite_order();
        if let Some(index) = order.iter().position(|known| *known == formats) {
            self.composite = index as u8;
        }
    }

    fn order(&self, single: bool) -> Vec<ContentFormat> {
        let mut order = Vec::with_capacity(STRUCTURED.len() + 1);
        order.extend(
            STRUCTURED
                .into_iter()
                .filter(|format| *format != ContentFormat::LWM2M_CBOR || self.speaks_lwm2m_cbor()),
        );
        order.sort_by_key(|format| {
            (
                !self.advertises(*format),
                self.generation == Generation::V1_0 && *format != ContentFormat::TLV,
            )
        });
        if single && self.advertises(ContentFormat::CBOR) {
            order.insert(0, ContentFormat::CBOR);
        }
        order
    }

    fn composite_order(&self) -> Vec<Composite> {
        let mut order = Vec::with_capacity(COMPOSITE.len() + 1);
        order.extend(COMPOSITE.into_iter().filter(|formats| {
            self.generation == Generation::V1_2 || formats.body == formats.accept
        }));
        order.sort_by_key(|formats| !self.advertises(formats.body));
        if let (Some(&first), true) = (order.first(), self.speaks_lwm2m_cbor()) {
            let accept = ContentFormat::LWM2M_CBOR;
            order.insert(0, Composite { accept, ..first });
        }
        order
    }

    /// LwM2M CBOR has a number of its own since 1.2.1 only, so that it must be advertised.
    fn speaks_lwm2m_cbor(&self) -> bool {
        self.generation == Generation::V1_2 && self.advertises(ContentFormat::LWM2M_CBOR)
    }

    const fn advertises(&self, format: ContentFormat) -> bool {
        self.advertised & bit(format) != 0
    }
}

const fn bit(format: ContentFormat) -> u16 {
    match format {
        ContentFormat::CBOR => 1,
        ContentFormat::SENML_JSON => 1 << 1,
        ContentFormat::SENML_CBOR => 1 << 2,
        ContentFormat::SENML_ETCH_JSON => 1 << 3,
        ContentFormat::SENML_ETCH_CBOR => 1 << 4,
        ContentFormat::TLV => 1 << 5,
        ContentFormat::LWM2M_CBOR => 1 << 6,
        _ => 0,
    }
}

/// The `attempt`-th of `order`, which begins at `current`.
fn turned<T: Copy>(order: &[T], current: u8, attempt: usize) -> Option<T> {
    if attempt >= order.len() {
        return None;
    }
    let index = (usize::from(current) + attempt) % order.len();
    order.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1_0: Version = Version::V1_0;
    const V1_1: Version = Version::V1_1;
    const V1_2: Version = Version::V1_2;

    fn attempts(formats: &Formats, single: bool) -> Vec<u16> {
        (0..8)
            .map_while(|attempt| formats.attempt(attempt, single))
            .map(|format| format.0)
            .collect()
    }

    fn composite_attempts(formats: &Formats) -> Vec<(u16, u16)> {
        (0..8)
            .map_while(|attempt| formats.composite_attempt(attempt))
            .map(|formats| (formats.body.0, formats.accept.0))
            .collect()
    }

    #[test]
    fn what_a_device_advertises_comes_first() {
        for (ct, version, single, expected) in [
            (&[11542][..], V1_1, false, &[11542, 112, 110][..]),
            (&[60, 110, 112, 11542], V1_1, false, &[112, 11542, 110]),
            (&[110], V1_1, true, &[110, 112, 11542, 0]),
            (&[60, 112], V1_1, true, &[60, 112, 11542, 110, 0]),
            (&[112, 11544], V1_2, false, &[11544, 112, 11542, 110]),
            (&[60, 11544], V1_2, true, &[60, 11544, 112, 11542, 110, 0]),
            (&[11544], V1_1, false, &[112, 11542, 110]),
        ] {
            let formats = Formats::advertised(ct, version);
            assert_eq!(attempts(&formats, single), expected, "{ct:?}");
        }
    }

    #[test]
    fn a_1_0_client_that_advertises_nothing_is_asked_for_tlv() {
        for (version, expected) in [
            (V1_0, [11542, 112, 110]),
            (V1_1, [112, 11542, 110]),
            (V1_2, [112, 11542, 110]),
        ] {
            assert_eq!(
                attempts(&Formats::advertised(&[], version), false),
                expected
            );
        }
    }

    #[test]
    fn what_worked_is_tried_first_next_time() {
        let mut formats = Formats::advertised(&[], V1_1);
        formats.worked(ContentFormat::SENML_JSON, true);
        assert_eq!(attempts(&formats, true), [110, 112, 11542, 0]);
        formats.worked(ContentFormat::TEXT, true);
        assert_eq!(attempts(&formats, true), [110, 112, 11542, 0]);
        assert_eq!(
            attempts(&formats, false),
            [112, 11542, 110],
            "one value says nothing about many"
        );
    }

    #[test]
    fn composite_operations_are_asked_in_senml_and_answered_in_lwm2m_cbor_too() {
        for (ct, version, expected) in [
            (&[][..], V1_1, &[(112, 112), (110, 110)][..]),
            (&[110, 11542], V1_1, &[(110, 110), (112, 112)]),
            (
                &[110],
                V1_2,
                &[(110, 110), (112, 112), (322, 112), (320, 110)],
            ),
            (
                &[322, 11544],
                V1_2,
                &[(322, 11544), (322, 112), (112, 112), (110, 110), (320, 110)],
            ),
        ] {
            let mut formats = Formats::advertised(ct, version);
            assert_eq!(composite_attempts(&formats), expected, "{ct:?}");
            let last = formats.composite_attempt(expected.len() as u8 - 1);
            formats.composite_worked(last.unwrap());
            assert_eq!(composite_attempts(&formats)[1], expected[0]);
        }
    }
}
