//! The two objects that take packages: numbers, states and results (LwM2M Core 1.1, appendix E.6;
//! LwM2M Software Management 1.0, §6.1).

use serde::{Deserialize, Serialize};

use crate::lwm2m::{Id, Path};

/// Which object takes the package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Object 5, Firmware Update: its one instance.
    Firmware,
    /// Object 9, Software Management: an instance of it.
    Software(Id),
}

/// What the device says that it is doing, in one form for both objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It has no package.
    Idle,
    /// A package is coming in, or is being checked.
    Downloading,
    /// It has a package, and may be told to install it.
    Downloaded,
    /// It installs.
    Updating,
    /// Object 9 alone: the package is installed.
    Installed,
}

/// What the device says of its last update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    None,
    /// It is installed.
    Success,
    /// Its user wants it later (object 5 since 1.1, 11).
    Deferred,
    /// It failed, with this result.
    Failed(u8),
}

impl Target {
    /// The instance.
    pub const fn path(self) -> Path {
        match self {
            Self::Firmware => Path::instance(5, 0),
            Self::Software(instance) => Path::instance(9, instance),
        }
    }

    fn resource(self, firmware: Id, software: Id) -> Path {
        match self {
            Self::Firmware => Path::resource(5, 0, firmware),
            Self::Software(instance) => Path::resource(9, instance, software),
        }
    }

    /// Package, which takes the content.
    pub fn package(self) -> Path {
        self.resource(0, 2)
    }

    /// Package URI, which takes the place to fetch it from.
    pub fn package_uri(self) -> Path {
        self.resource(1, 3)
    }

    /// Update, or Install.
    pub fn install(self) -> Path {
        self.resource(2, 4)
    }

    /// State, or Update State.
    pub fn state(self) -> Path {
        self.resource(3, 7)
    }

    /// Update Result.
    pub fn result(self) -> Path {
        self.resource(5, 9)
    }

    /// Uninstall, which brings object 9 back to its beginning.
    pub fn uninstall(self) -> Path {
        self.resource(10, 6)
    }

    /// Activate of object 9.
    pub fn activate(self) -> Path {
        self.resource(2, 10)
    }

    /// Takes a value of State.
    pub fn read_state(self, value: i64) -> Option<State> {
        Some(match (self, value) {
            (_, 0) => State::Idle,
            (_, 1) => State::Downloading,
            (Self::Firmware, 2) => State::Downloaded,
            (Self::Firmware, 3) => State::Updating,
            // The package is there, and its integrity not yet verified.
            (Self::Software(_), 2) => State::Downloading,
            (Self::Software(_), 3) => State::Downloaded,
            (Self::Software(_), 4) => State::Installed,
            _ => return None,
        })
    }

    /// Takes a value of Update Result.
    pub fn read_result(self, value: i64) -> Verdict {
        match (self, value) {
            (_, 0) | (Self::Software(_), 1 | 3) => Verdict::None,
            (Self::Firmware, 1) | (Self::Software(_), 2) => Verdict::Success,
            (Self::Firmware, 11) => Verdict::Deferred,
            (_, value) => Verdict::Failed(u8::try_from(value).unwrap_or(u8::MAX)),
        }
    }

    /// What a result means, as the specification has it.
    pub const fn words(self, result: u8) -> &'static str {
        match (self, result) {
            (Self::Firmware, 1) | (Self::Software(_), 2) => "updated",
            (Self::Firmware, 2) => "not enough flash memory for the package",
            (Self::Firmware, 3) => "out of RAM while downloading",
            (Self::Firmware, 4) => "connection lost while downloading",
            (Self::Firmware, 5) | (Self::Software(_), 53) => "integrity check failed",
            (Self::Firmware, 6) | (Self::Software(_), 54) => "unsupported package type",
            (Self::Firmware, 7) | (Self::Software(_), 56) => "invalid URI",
            (Self::Firmware, 8) => "update failed",
            (Self::Firmware, 9) => "unsupported protocol",
            (Self::Firmware, 10) => "cancelled at the device",
            (Self::Firmware, 11) => "deferred at the device",
            (Self::Software(_), 50) => "not enough storage for the package",
            (Self::Software(_), 51) => "out of memory while downloading",
            (Self::Software(_), 52) => "connection lost while downloading",
            (Self::Software(_), 57) => "the device could not begin to update",
            (Self::Software(_), 58) => "installation failed",
            (Self::Software(_), 59) => "uninstallation failed",
            _ => "a result that is in no specification",
        }
    }

    /// Whether to try again by itself can help: the connection was lost.
    pub const fn is_passing(self, result: u8) -> bool {
        matches!(
            (self, result),
            (Self::Firmware, 4) | (Self::Software(_), 52)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_of_object_5_has_its_own_words() {
        let mut words: Vec<_> = (1..=11)
            .map(|result| Target::Firmware.words(result))
            .collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), 11);
        assert!(!words.contains(&Target::Firmware.words(12)));
    }

    #[test]
    fn states_and_results_of_both_objects_come_to_one_form() {
        let states = |target: Target| {
            (0..6)
                .map(|value| target.read_state(value))
                .collect::<Vec<_>>()
        };
        use State::{Downloaded, Downloading, Idle, Installed, Updating};
        assert_eq!(
            states(Target::Firmware),
            [
                Some(Idle),
                Some(Downloading),
                Some(Downloaded),
                Some(Updating),
                None,
                None
            ]
        );
        assert_eq!(
            states(Target::Software(0)),
            [
                Some(Idle),
                Some(Downloading),
                Some(Downloading),
                Some(Downloaded),
                Some(Installed),
                None
            ]
        );
        assert_eq!(Target::Firmware.read_result(-1), Verdict::Failed(255));
        assert_eq!(Target::Software(0).read_result(3), Verdict::None);
        assert_eq!(Target::Software(0).read_result(2), Verdict::Success);
        assert_eq!(Target::Firmware.read_result(2), Verdict::Failed(2));
    }
}
