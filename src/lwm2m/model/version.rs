//! Versions of objects and of LwM2M itself.

use std::fmt;
use std::str::FromStr;

use crate::lwm2m::path::Id;

/// A version of an object or of the LwM2M enabler, `1.1`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode,
)]
pub struct Version {
    /// Changes when old and new no longer understand each other.
    #[n(0)]
    pub major: u16,
    /// Changes when something is added.
    #[n(1)]
    pub minor: u16,
}

/// Why a text is not a [`Version`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a version is two numbers with a dot between them, as in 1.1")]
pub struct VersionError;

impl Version {
    /// LwM2M 1.0, and the version of an object that names none.
    pub const V1_0: Self = Self::new(1, 0);
    /// LwM2M 1.1.
    pub const V1_1: Self = Self::new(1, 1);
    /// LwM2M 1.2.
    pub const V1_2: Self = Self::new(1, 2);

    /// `{major}.{minor}`
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// The version of `object` on a device that registers it without `ver`: the one that belongs
    /// to the device's LwM2M version for the core objects, 1.0 for all others
    /// (LwM2M Core 1.2.2 §7.2.2).
    pub const fn implied(object: Id, lwm2m: Self) -> Self {
        let (minor_1_1, minor_1_2) = match object {
            0 | 1 => (1, 2),
            2 => (0, 1),
            3 => (1, 2),
            4 => (2, 3),
            5 => (0, 1),
            21 if lwm2m.major == 1 && lwm2m.minor >= 2 => return Self::new(2, 0),
            _ => (0, 0),
        };
        match (lwm2m.major, lwm2m.minor) {
            (0, _) | (1, 0) => Self::V1_0,
            (1, 1) => Self::new(1, minor_1_1),
            _ => Self::new(1, minor_1_2),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_| plain).ok_or(VersionError)
        };
        let (major, minor) = text.split_once('.').ok_or(VersionError)?;
        Ok(Self::new(number(major)?, number(minor)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_two_numbers() {
        assert_eq!("1.1".parse(), Ok(Version::V1_1));
        assert_eq!("2.10".parse(), Ok(Version::new(2, 10)));
        for text in [
            "", "1", "1.", ".1", "1.1.1", "1.x", "+1.0", "1.65536", " 1.0",
        ] {
            assert_eq!(text.parse::<Version>(), Err(VersionError), "{text:?}");
        }
        assert_eq!(Version::new(2, 10).to_string(), "2.10");
        assert!(Version::new(1, 10) > Version::new(1, 9));
    }

    #[test]
    fn an_object_without_a_version_has_the_one_of_the_enabler() {
        for (object, lwm2m, implied) in [
            (3, Version::V1_0, Version::V1_0),
            (3, Version::V1_1, Version::V1_1),
            (4, Version::V1_1, Version::V1_2),
            (4, Version::V1_2, Version::new(1, 3)),
            (6, Version::V1_2, Version::V1_0),
            (21, Version::V1_1, Version::V1_0),
            (21, Version::V1_2, Version::new(2, 0)),
            (3303, Version::V1_2, Version::V1_0),
        ] {
            assert_eq!(
                Version::implied(object, lwm2m),
                implied,
                "/{object} in {lwm2m}"
            );
        }
    }
}
