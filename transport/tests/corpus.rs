//! The fuzz target of `protocol/fuzz` that needs this crate, on stable: every committed corpus file, each of its
//! beginnings, and each of its bytes changed.

use std::path::Path;

/// The target names the crates as the fuzzers do.
extern crate protocol as punchcast_protocol;

#[path = "../../protocol/fuzz/src/paths.rs"]
pub mod paths;

#[test]
fn paths() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/fuzz/corpus/paths");
    let entries = std::fs::read_dir(folder).expect("committed");
    let corpus: Vec<_> = entries
        .map(|entry| std::fs::read(entry.expect("readable").path()).expect("readable"))
        .collect();
    assert!(!corpus.is_empty(), "paths has no corpus");
    for bytes in corpus {
        (0..=bytes.len()).for_each(|end| paths::run(&bytes[..end]));
        for at in 0..bytes.len() {
            for change in [1, 2, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                paths::run(&changed);
            }
        }
    }
}
