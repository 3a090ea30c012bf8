//! The cameras that are plugged in, as the file has them: a line each.

use std::fs;
use std::path::Path;

/// A camera as a test wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Camera {
    /// What people call it.
    pub name: String,
    /// Its device node, which no file need be.
    pub path: String,
    /// The modes that it has, as caps are written: raw, JPEG or H.264 with size and rate.
    pub modes: String,
    /// Whether another program has it open.
    pub is_busy: bool,
}

impl Camera {
    /// One that nobody has open.
    pub fn new(name: &str, path: &str, modes: &[&str]) -> Self {
        let modes = modes.join(";");
        Self { name: name.to_owned(), path: path.to_owned(), modes, is_busy: false }
    }

    pub(crate) fn line(&self) -> String {
        let use_of_it = if self.is_busy { "busy" } else { "free" };
        format!("{}|{}|{}|{use_of_it}\n", self.name, self.path, self.modes)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('|').map(str::to_owned);
        let (name, path, modes) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self { name, path, modes, is_busy: fields.next()? == "busy" })
    }

    /// All that are plugged in.
    pub(crate) fn all() -> Vec<Self> {
        let file = std::env::var_os(crate::VARIABLE).unwrap_or_default();
        let text = fs::read_to_string(Path::new(&file)).unwrap_or_default();
        text.lines().filter_map(Self::parse).collect()
    }

    /// The one of this device node, if it is plugged in.
    pub(crate) fn at(path: &str) -> Option<Self> {
        Self::all().into_iter().find(|camera| camera.path == path)
    }
}
