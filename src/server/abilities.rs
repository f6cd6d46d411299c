//! What a device turns out to be able to do, remembered as long as its registration lasts.

use crate::coap::{Code, Failure, Response};
use crate::lwm2m::Version;
use crate::server::operation::Operation;

/// What is known of a device beside its formats.
///
/// Composite operations are optional, and no client says whether it has them (LwM2M Core 1.1
/// §6.3.7), so the first one finds out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abilities {
    /// Read-Composite and Observe-Composite.
    fetch: Ability,
    /// Write-Composite.
    ipatch: Ability,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ability {
    /// It was not seen; so often nothing at all came back.
    Unknown {
        silences: u8,
    },
    Has,
    Lacks,
}

/// A device that is away, or a network that loses messages, is silent once; twice it is the
/// method that it does not like.
const SILENCES: u8 = 2;

impl Ability {
    const fn known(self) -> Option<bool> {
        match self {
            Self::Unknown { .. } => None,
            Self::Has => Some(true),
            Self::Lacks => Some(false),
        }
    }
}

impl Abilities {
    /// What a device of this version may have.
    pub(super) fn of(version: Version) -> Self {
        let ability = match version < Version::V1_1 {
            true => Ability::Lacks,
            false => Ability::Unknown { silences: 0 },
        };
        Self {
            fetch: ability,
            ipatch: ability,
        }
    }

    /// Whether the device has Read-Composite and Observe-Composite, and Write-Composite, as far as
    /// that is known.
    pub(super) const fn known(&self) -> [Option<bool>; 2] {
        [self.fetch.known(), self.ipatch.known()]
    }

    /// Takes back what was [`known`](Self::known).
    pub(super) fn restore(&mut self, known: [Option<bool>; 2]) {
        for (ability, known) in [&mut self.fetch, &mut self.ipatch].into_iter().zip(known) {
            match known {
                None => {}
                Some(true) => *ability = Ability::Has,
                Some(false) => *ability = Ability::Lacks,
            }
        }
    }

    /// Whether the device may have Read-Composite and Observe-Composite.
    pub(super) fn composes(&self) -> bool {
        self.fetch != Ability::Lacks
    }

    fn of_method(&mut self, method: Code) -> Option<&mut Ability> {
        match method {
            Code::FETCH => Some(&mut self.fetch),
            Code::IPATCH => Some(&mut self.ipatch),
            _ => None,
        }
    }

    /// Whether the device is known not to have what an operation needs.
    pub(super) fn lacks(&self, operation: &Operation) -> bool {
        let mut known = *self;
        known.of_method(operation.method()).copied() == Some(Ability::Lacks)
    }

    /// Learns from what became of a composite request. Whether the device has no such operation, so
    /// that another way is to be tried.
    ///
    /// Clients without it answer 4.05, 4.02 or 5.01, 4.04 to the root that they do not have, or
    /// Reset; one acknowledges the request and is silent. Once it did well, those are answers to
    /// the request itself; `refusable` says that 4.05 is one anyway.
    pub(super) fn learn(
        &mut self,
        method: Code,
        result: &Result<Response, Failure>,
        refusable: bool,
    ) -> bool {
        let Some(ability) = self.of_method(method) else {
            return false;
        };
        let Ability::Unknown { silences } = ability else {
            return false;
        };
        let lacks = match result {
            Ok(response) if response.code.is_success() => {
                *ability = Ability::Has;
                return false;
            }
            Ok(response) => match response.code {
                Code::BAD_OPTION | Code::NOT_IMPLEMENTED => true,
                Code::METHOD_NOT_ALLOWED => !refusable,
                // A Write-Composite is refused with it as a whole, for one node that is not there.
                Code::NOT_FOUND => method == Code::FETCH,
                _ => false,
            },
            Err(Failure::Reset | Failure::NoResponse) => true,
            Err(Failure::Timeout) => {
                *silences += 1;
                if *silences >= SILENCES {
                    *ability = Ability::Lacks;
                }
                // It may be away: what it is asked next will not be answered either.
                return false;
            }
            Err(_) => false,
        };
        if lacks {
            *ability = Ability::Lacks;
        }
        lacks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: Code) -> Result<Response, Failure> {
        Ok(Response::new(code))
    }

    // conformance: P28
    #[test]
    fn what_a_device_cannot_do_is_learnt_from_how_it_refuses() {
        for (method, result, lacks) in [
            (Code::FETCH, answered(Code::METHOD_NOT_ALLOWED), true),
            (Code::FETCH, answered(Code::BAD_OPTION), true),
            (Code::FETCH, answered(Code::NOT_IMPLEMENTED), true),
            (Code::FETCH, answered(Code::NOT_FOUND), true),
            (Code::IPATCH, answered(Code::NOT_FOUND), false),
            (Code::IPATCH, answered(Code::BAD_REQUEST), false),
            (Code::FETCH, answered(Code::CONTENT), false),
            (Code::FETCH, Err(Failure::NoResponse), true),
            (Code::FETCH, Err(Failure::Reset), true),
            (Code::FETCH, Err(Failure::Timeout), false),
        ] {
            let mut abilities = Abilities::of(Version::V1_1);
            assert_eq!(
                abilities.learn(method, &result, false),
                lacks,
                "{method} {result:?}"
            );
        }
    }

    #[test]
    fn a_device_that_did_it_once_refuses_for_other_reasons() {
        let mut abilities = Abilities::of(Version::V1_1);
        abilities.learn(Code::FETCH, &answered(Code::CONTENT), false);
        assert!(!abilities.learn(Code::FETCH, &answered(Code::METHOD_NOT_ALLOWED), false));
        assert_eq!(abilities.fetch, Ability::Has);
        assert_eq!(abilities.ipatch, Ability::Unknown { silences: 0 });
    }

    #[test]
    fn a_device_that_is_silent_twice_is_not_asked_again() {
        let mut abilities = Abilities::of(Version::V1_1);
        for _ in 0..2 {
            abilities.learn(Code::IPATCH, &Err(Failure::Timeout), false);
        }
        assert_eq!(abilities.ipatch, Ability::Lacks);
        assert!(Abilities::of(Version::V1_0).lacks(&Operation::WriteComposite(Vec::new())));
    }
}
