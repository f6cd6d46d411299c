//! Randomness of the system, for the seeds that the core is given.

use anyhow::Context as _;
use rand::TryRng as _;
use rand::rngs::SysRng;

/// A seed that nobody can guess.
///
/// # Errors
///
/// When the system has no randomness, getrandom(2).
pub fn seed() -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    SysRng
        .try_fill_bytes(&mut seed)
        .context("no randomness from the system")?;
    Ok(seed)
}

/// A number that nobody can guess.
///
/// # Errors
///
/// As [`seed`].
pub fn number() -> anyhow::Result<u64> {
    SysRng
        .try_next_u64()
        .context("no randomness from the system")
}
