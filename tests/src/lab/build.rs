//! Finding what cargo has built.

use std::{env, path::PathBuf};

use super::error::{Doing, LabError, Result};

/// The path of one of the workspace's binaries, from the folder that the test itself was built into.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = env::current_exe().doing("finding the test's own path")?;
    // Tests are in target/<profile>/deps, binaries one folder up.
    let folders = test.ancestors().skip(1).take(2);
    let candidates: Vec<PathBuf> = folders.map(|folder| folder.join(name)).collect();
    match candidates.iter().rev().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => {
            Err(LabError::NotBuilt { path: candidates.into_iter().next_back().unwrap_or_default() })
        }
    }
}
