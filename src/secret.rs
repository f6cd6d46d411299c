//! Bytes that are never shown.

use std::fmt;

use zeroize::Zeroizing;

/// A key. Its memory is overwritten when it is dropped, and no format prints it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Keeps these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes: for the one place that needs them, never for a message to a person.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::new(*b"hunter2!");
        assert_eq!(format!("{secret:?}"), "[secret]");
        assert_eq!(secret.expose(), b"hunter2!");
    }
}
