//! Which paths name files of a library.

use protocol::library::MAX_PATH;

/// How many parts a path may have.
pub(super) const MAX_DEPTH: usize = 32;

/// Whether a path may name a file: its parts are names, none of them hidden, and it is neither too long nor
/// too deep. Partly copied files have hidden names too.
pub(super) fn is_legal(path: &str) -> bool {
    path.len() <= MAX_PATH && path.split('/').count() <= MAX_DEPTH && path.split('/').all(is_shown)
}

/// Whether a name within a folder is one that is shown.
pub(super) fn is_shown(name: &str) -> bool {
    // `.` and `..` begin with a dot as well.
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_names_joined_by_slashes() {
        for path in ["a", "a b/ä ö ü/日本語 & #1%.mp4", "a\\b", "a..b/c.", "~", "C:"] {
            assert!(is_legal(path), "{path}");
        }
        let long = "a".repeat(MAX_PATH + 1);
        let deep = ["a"; MAX_DEPTH + 1].join("/");
        for path in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", ".a", "a/.b", "a\0b", &long,
            &deep,
        ] {
            assert!(!is_legal(path), "{path}");
        }
    }
}
