//! What a program has written so far.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Lines of a log that are shown when something goes wrong.
const TAIL_LINES: usize = 30;

/// One output stream of a program, kept in a file.
#[derive(Clone, Debug)]
pub struct Output {
    name: String,
    path: PathBuf,
}

impl Output {
    pub(crate) fn new(name: String, path: PathBuf) -> Self {
        Self { name, path }
    }

    /// The node, program and stream that it belongs to.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Everything written so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.path).unwrap_or_default()).into_owned()
    }

    /// The complete lines written so far.
    pub fn lines(&self) -> Vec<String> {
        let text = self.text();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(str::to_owned).collect()
    }

    /// The last lines, each after a line feed.
    pub(crate) fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        let skipped = lines.len().saturating_sub(TAIL_LINES);
        lines[skipped..].iter().map(|line| format!("\n{line}")).collect()
    }
}
