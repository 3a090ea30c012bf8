//! Reading YAML configuration files.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration file {path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It does not hold what it should; the text names key and line.
    #[error("{path}: {source}{line}", path = path.display(), line = line_of(source))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: serde_yaml::Error,
    },
}

/// The library leaves the place out where it is the very beginning.
fn line_of(error: &serde_yaml::Error) -> &'static str {
    if error.to_string().contains("line") { "" } else { " at line 1" }
}

/// Reads a configuration; without a file, the defaults.
pub fn load<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T, ConfigError> {
    let Some(path) = path else { return Ok(T::default()) };
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    parse(&text).map_err(|source| ConfigError::Invalid { path: path.to_owned(), source })
}

/// Reads a configuration from text. A text without any key gives the defaults.
pub fn parse<T: DeserializeOwned + Default>(text: &str) -> Result<T, serde_yaml::Error> {
    let is_blank = |line: &str| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    };
    if text.lines().all(is_blank) { Ok(T::default()) } else { serde_yaml::from_str(text) }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        listen: u16,
    }

    #[test]
    fn unknown_keys_are_named_with_their_line() {
        let error = parse::<Sample>("listen: 1\nlisten_to: 2\n").expect_err("unknown key");
        let text = error.to_string();
        assert!(text.contains("listen_to") && text.contains("line 2"), "{text}");
    }

    #[test]
    fn the_first_line_is_named_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, "listn: 1\n").expect("written");
        let error = load::<Sample>(Some(&path)).expect_err("unknown key").to_string();
        assert!(error.contains("listn") && error.contains("line 1"), "{error}");
    }

    #[test]
    fn no_key_means_defaults() {
        assert_eq!(parse::<Sample>("# nothing\n\n").expect("defaults"), Sample::default());
        assert_eq!(load::<Sample>(None).expect("defaults"), Sample::default());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load::<Sample>(Some(Path::new("/nonexistent.yaml"))).expect_err("missing");
        assert!(error.to_string().contains("/nonexistent.yaml"));
    }
}
