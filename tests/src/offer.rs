//! A broadcaster that offers stored files, and viewers that play them as they are told.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use protocol::link::{Link, Target};
use serde_json::Value;

use crate::lab::{self, Process, Result};
use crate::stage::{Broadcast, Stage, Watching};

/// A library in the lab's folder, and a broadcaster that offers it.
#[derive(Debug)]
pub struct Offered {
    /// Where the files are.
    pub folder: PathBuf,
    /// The broadcaster.
    pub broadcast: Broadcast,
    _rendezvous: Process,
}

impl Offered {
    /// Has a folder filled, and offers what is in it.
    pub fn new(stage: &Stage, fill: impl FnOnce(&Path)) -> Result<Self> {
        Self::beside(stage, "none", fill)
    }

    /// As [`Self::new`], beside a live source.
    pub fn beside(stage: &Stage, source: &str, fill: impl FnOnce(&Path)) -> Result<Self> {
        Self::with(stage, source, "", fill)
    }

    /// As [`Self::beside`], with more settings of the broadcaster, each on a line of its own.
    pub fn with(
        stage: &Stage,
        source: &str,
        settings: &str,
        fill: impl FnOnce(&Path),
    ) -> Result<Self> {
        let folder = stage.path("library");
        fs::create_dir_all(folder.join("sub")).expect("the lab's folder can be written");
        fill(&folder);
        let rendezvous = stage.start_rendezvous()?;
        let settings = format!("library: {}\n{settings}", folder.display());
        let broadcast = stage.broadcast("cam", source, &settings)?;
        Ok(Self { folder, broadcast, _rendezvous: rendezvous })
    }

    /// The link with these words, percent-encoded already where they must be, in the file's place.
    pub fn link(&self, path: &str) -> String {
        let (front, _) = self.broadcast.link.rsplit_once('/').expect("a link has slashes");
        format!("{front}/library/{path}")
    }

    /// The link of the file with this path.
    pub fn link_of(&self, path: &str) -> String {
        let mut link: Link = self.broadcast.link.parse().expect("a link");
        link.target = Target::File(path.to_owned());
        link.to_string()
    }
}

/// A viewer that takes commands.
#[derive(Debug)]
pub struct Commanded {
    /// The viewer.
    pub watching: Watching,
    commands: File,
}

impl Commanded {
    /// Starts a viewer with these flags on the host of that number.
    pub fn start(stage: &Stage, viewer: usize, link: &str, flags: &[&str]) -> Result<Self> {
        Self::start_on(stage, viewer, link, flags, None)
    }

    /// As [`Self::start`], with windows on this display.
    pub fn start_on(
        stage: &Stage,
        viewer: usize,
        link: &str,
        flags: &[&str],
        display: Option<&str>,
    ) -> Result<Self> {
        let pipe = stage.path(&format!("commands{viewer}"));
        let _ = fs::remove_file(&pipe);
        mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).expect("the lab's folder can be written");
        // For both, so that neither end waits for the other to be opened.
        let commands = OpenOptions::new().read(true).write(true).open(&pipe);
        let commands = commands.expect("a pipe opens");
        let mut command = Command::new("sh");
        let script = format!("exec \"$@\" < {}", pipe.display());
        command.args(["-c", &script, "sh"]).arg(lab::binary("punchcast-viewer")?);
        command.args(["watch", link, "--stats", "json"]).args(flags);
        if let Some(display) = display {
            command.env("DISPLAY", display);
        }
        let process = stage.viewers[viewer].1.spawn(&format!("watch{viewer}"), &command)?;
        Ok(Self { watching: Watching { process }, commands })
    }

    /// Gives it a command.
    pub fn say(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("the viewer reads");
    }
}

/// Whether a viewer's statistics show a position behind this one.
pub fn is_playing_beyond(seconds: f64) -> impl Fn(&Value) -> bool {
    move |stats| stats["position_ms"].as_f64().is_some_and(|position| position > seconds * 1e3)
}
