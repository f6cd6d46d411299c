//! Which Content-Formats to ask a device for, and to write in.

use crate::lwm2m::codec::can_decode;
use crate::lwm2m::model::Version;
use crate::lwm2m::{ContentFormat, Level};

/// Formats that carry several values, the one we like best first: small and self-describing
/// before verbose.
const COMPOSITE: [ContentFormat; 3] = [
    ContentFormat::SENML_CBOR,
    ContentFormat::TLV,
    ContentFormat::SENML_JSON,
];

/// What is known of a device's formats: what it advertised, and what it was seen to take.
///
/// A client need not advertise anything, and what it advertises need not be true, so the list is
/// an order to try in: after 4.06 or 4.15 the next one gets its turn.
#[derive(Clone, Debug, Default)]
pub struct Formats {
    order: Vec<ContentFormat>,
    /// Position of the one that worked last.
    current: u8,
}

impl Formats {
    /// The order for a device that advertised `ct` in its Register.
    ///
    /// Without any, a 1.0 client speaks TLV (mandatory there, LwM2M 1.0 §6.4), and a later one is
    /// tried with what it most likely has.
    pub fn advertised(ct: &[u16], version: Version) -> Self {
        let tlv_only = version == Version { major: 1, minor: 0 };
        let advertises = |format: &ContentFormat| ct.contains(&format.0);
        let mut order: Vec<_> = COMPOSITE
            .into_iter()
            .filter(|format| can_decode(*format))
            .collect();
        order.sort_by_key(|format| {
            (
                !advertises(format),
                tlv_only && *format != ContentFormat::TLV,
            )
        });
        Self { order, current: 0 }
    }

    /// The format for an attempt: the `attempt`-th after the one that worked last.
    ///
    /// At a single value the list ends in text, which every client takes there. `None`: nothing is
    /// left to try.
    pub fn attempt(&self, attempt: u8, level: Level) -> Option<ContentFormat> {
        let single = level >= Level::Resource;
        let attempt = usize::from(attempt);
        if attempt < self.order.len() {
            let index = (usize::from(self.current) + attempt) % self.order.len();
            self.order.get(index).copied()
        } else {
            (single && attempt == self.order.len()).then_some(ContentFormat::TEXT)
        }
    }

    /// Remembers that a request in `format` was taken.
    pub fn worked(&mut self, format: ContentFormat) {
        if let Some(index) = self.order.iter().position(|known| *known == format) {
            self.current = index as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1_0: Version = Version { major: 1, minor: 0 };
    const V1_1: Version = Version { major: 1, minor: 1 };

    fn attempts(formats: &Formats, level: Level) -> Vec<u16> {
        (0..8)
            .map_while(|attempt| formats.attempt(attempt, level))
            .map(|format| format.0)
            .collect()
    }

    #[test]
    fn what_a_device_advertises_comes_first() {
        assert_eq!(
            attempts(&Formats::advertised(&[11542], V1_1), Level::Instance),
            [11542, 112, 110]
        );
        assert_eq!(
            attempts(
                &Formats::advertised(&[60, 110, 112, 11542], V1_1),
                Level::Instance
            ),
            [112, 11542, 110]
        );
        assert_eq!(
            attempts(&Formats::advertised(&[110], V1_1), Level::Resource),
            [110, 112, 11542, 0]
        );
    }

    #[test]
    fn a_1_0_client_that_advertises_nothing_is_asked_for_tlv() {
        assert_eq!(
            attempts(&Formats::advertised(&[], V1_0), Level::Instance),
            [11542, 112, 110]
        );
        assert_eq!(
            attempts(&Formats::advertised(&[], V1_1), Level::Instance),
            [112, 11542, 110]
        );
    }

    #[test]
    fn what_worked_is_tried_first_next_time() {
        let mut formats = Formats::advertised(&[], V1_1);
        formats.worked(ContentFormat::SENML_JSON);
        assert_eq!(attempts(&formats, Level::Resource), [110, 112, 11542, 0]);
        formats.worked(ContentFormat::TEXT);
        assert_eq!(attempts(&formats, Level::Instance), [110, 112, 11542]);
    }
}
