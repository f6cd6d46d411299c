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
    /// Positions of those that worked last, for each [`Shape`], without times and with.
    worked: [[u8; 2]; 4],
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

    /// The formats for an attempt at an operation that has to carry this: the `attempt`-th after
    /// those that worked last. `None`: nothing is left to try.
    ///
    /// `timed`: what the device has to say may have a time, as a notification that it kept while
    /// nobody listened. SenML alone carries it, so no other format is preferred.
    ///
    /// At a single value CBOR comes first, if the device advertises it, and the list ends in text,
    /// which every client takes there.
    pub(super) fn choose(&self, attempt: u8, shape: Shape, timed: bool) -> Option<Composite> {
        let order = self.order(shape, timed);
        let attempt = usize::from(attempt);
        if attempt >= order.len() {
            let is_text = shape == Shape::Value && attempt == order.len();
            return is_text.then_some(Composite::of(ContentFormat::TEXT));
        }
        let worked = self.worked[shape as usize][usize::from(timed)];
        let index = (usize::from(worked) + attempt) % order.len();
        order.get(index).copied()
    }

    /// Remembers that an operation went well in these formats.
    pub(super) fn taken(&mut self, formats: Composite, shape: Shape, timed: bool) {
        let order = self.order(shape, timed);
        if let Some(index) = order.iter().position(|known| *known == formats) {
            self.worked[shape as usize][usize::from(timed)] = index as u8;
        }
    }

    fn order(&self, shape: Shape, timed: bool) -> Vec<Composite> {
        match shape {
            Shape::Value | Shape::Values => self.structured(shape == Shape::Value, timed),
            Shape::Anywhere | Shape::Deletions => self.composite(shape == Shape::Deletions, timed),
        }
    }

    fn structured(&self, single: bool, timed: bool) -> Vec<Composite> {
        // Room for all, and for CBOR.
        let mut order = Vec::with_capacity(STRUCTURED.len() + 1);
        if single && !timed && self.advertises(ContentFormat::CBOR) {
            order.push(Composite::of(ContentFormat::CBOR));
        }
        let first = order.len();
        order.extend(
            STRUCTURED
                .into_iter()
                .filter(|format| *format != ContentFormat::LWM2M_CBOR || self.speaks_lwm2m_cbor())
                .map(Composite::of),
        );
        let has_senml = self.advertises(ContentFormat::SENML_CBOR)
            || self.advertises(ContentFormat::SENML_JSON);
        if let Some(structured) = order.get_mut(first..) {
            structured.sort_by_key(|Composite { accept, .. }| {
                let has_times = matches!(
                    *accept,
                    ContentFormat::SENML_CBOR | ContentFormat::SENML_JSON
                );
                (
                    !self.advertises(*accept),
                    self.generation == Generation::V1_0 && *accept != ContentFormat::TLV,
                    timed && has_senml && !has_times,
                )
            });
        }
        order
    }

    fn composite(&self, deletes: bool, timed: bool) -> Vec<Composite> {
        let mut order = Vec::with_capacity(COMPOSITE.len() + 1);
        order.extend(COMPOSITE.into_iter().filter(|formats| {
            // Nothing is answered in SenML-ETCH.
            let is_etch = formats.body != formats.accept;
            match self.generation {
                Generation::V1_2 => is_etch || !deletes,
                _ => !is_etch && !deletes,
            }
        }));
        order.sort_by_key(|formats| !self.advertises(formats.body));
        if let (Some(&first), true) = (order.first(), self.speaks_lwm2m_cbor() && !timed) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const V1_0: Version = Version::V1_0;
    const V1_1: Version = Version::V1_1;
    const V1_2: Version = Version::V1_2;

    fn attempts(formats: &Formats, shape: Shape, timed: bool) -> Vec<u16> {
        (0..8)
            .map_while(|attempt| formats.choose(attempt, shape, timed))
            .map(|formats| formats.accept.0)
            .collect()
    }

    fn composite_attempts(formats: &Formats, shape: Shape, timed: bool) -> Vec<(u16, u16)> {
        (0..8)
            .map_while(|attempt| formats.choose(attempt, shape, timed))
            .map(|formats| (formats.body.0, formats.accept.0))
            .collect()
    }

    #[test]
    fn what_a_device_advertises_comes_first() {
        for (ct, version, shape, expected) in [
            (&[11542][..], V1_1, Shape::Values, &[11542, 112, 110][..]),
            (
                &[60, 110, 112, 11542],
                V1_1,
                Shape::Values,
                &[112, 11542, 110],
            ),
            (&[110], V1_1, Shape::Value, &[110, 112, 11542, 0]),
            (&[60, 112], V1_1, Shape::Value, &[60, 112, 11542, 110, 0]),
            (
                &[112, 11544],
                V1_2,
                Shape::Values,
                &[11544, 112, 11542, 110],
            ),
            (
                &[60, 11544],
                V1_2,
                Shape::Value,
                &[60, 11544, 112, 11542, 110, 0],
            ),
            (&[11544], V1_1, Shape::Values, &[112, 11542, 110]),
        ] {
            let formats = Formats::advertised(ct, version);
            assert_eq!(attempts(&formats, shape, false), expected, "{ct:?}");
        }
    }

    #[test]
    fn what_may_have_times_is_asked_for_in_senml_where_the_device_has_it() {
        for (ct, version, shape, expected) in [
            (
                &[60, 112, 11542, 11544][..],
                V1_2,
                Shape::Value,
                &[112, 11544, 11542, 110, 0][..],
            ),
            (&[110, 11542], V1_1, Shape::Values, &[110, 11542, 112]),
            (&[11544], V1_2, Shape::Values, &[11544, 112, 11542, 110]),
            (&[11542], V1_1, Shape::Values, &[11542, 112, 110]),
            (&[11544], V1_2, Shape::Anywhere, &[112, 110, 112, 110]),
        ] {
            let formats = Formats::advertised(ct, version);
            assert_eq!(attempts(&formats, shape, true), expected, "{ct:?}");
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
                attempts(&Formats::advertised(&[], version), Shape::Values, false),
                expected
            );
        }
    }

    #[test]
    fn what_worked_is_tried_first_next_time() {
        let mut formats = Formats::advertised(&[], V1_1);
        let mut taken = |format| formats.taken(Composite::of(format), Shape::Value, false);
        taken(ContentFormat::SENML_JSON);
        taken(ContentFormat::TEXT);
        assert_eq!(
            attempts(&formats, Shape::Value, false),
            [110, 112, 11542, 0]
        );
        assert_eq!(
            attempts(&formats, Shape::Values, false),
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
            let shape = Shape::Anywhere;
            assert_eq!(
                composite_attempts(&formats, shape, false),
                expected,
                "{ct:?}"
            );
            let last = formats.choose(expected.len() as u8 - 1, shape, false);
            formats.taken(last.unwrap(), shape, false);
            assert_eq!(composite_attempts(&formats, shape, false)[1], expected[0]);
        }
        let formats = Formats::advertised(&[112, 11544], V1_2);
        assert_eq!(
            composite_attempts(&formats, Shape::Deletions, false),
            [(322, 11544), (322, 112), (320, 110)],
            "only SenML-ETCH deletes"
        );
        let formats = Formats::advertised(&[112], V1_1);
        assert_eq!(composite_attempts(&formats, Shape::Deletions, false), []);
    }
}
