//! The configuration file that `generate config` prints.

/// A configuration file with every key: its default, and what it means.
///
/// A line that begins `#key` is a default commented out; `# ` begins an explanation or an example.
pub fn template() -> &'static str {
    include_str!("template.toml")
}
