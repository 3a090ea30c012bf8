//! Files that only their owner can read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Writes a file for its owner alone, since a link may hold a secret: whole or not at all, so
/// that whoever waits for it never reads half a link. What is no plain file, as a pipe, is written to.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    let plain = fs::symlink_metadata(path).map_or(true, |found| found.is_file());
    if !plain {
        return fs::write(path, text);
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = Path::new(&name);
    create(temporary)?.write_all(text.as_bytes())?;
    fs::rename(temporary, path)
}

/// A new file that its owner alone can read.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
