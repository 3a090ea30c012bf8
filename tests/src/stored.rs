//! Stored files with known contents, and what tells them from what comes back.
//!
//! [`make()`] fills a folder with clips in all containers and codecs, and with what files are like that were cut,
//! renamed or never were clips. Their pictures carry a number ([`number_in`]), and once a second, where the
//! number is a multiple of 25, a block flashes and a tone of 1 kHz begins at the same time.
//!
//! [`numbers`], [`flashes`], [`beeps`] and [`lip_sync`] look at the clips or at recordings of them,
//! [`access_units`] compares tracks without decoding them, and [`Screen`] sees what a window shows.

mod catalogue;
mod make;
mod mark;
mod read;
mod screen;
mod sound;
mod source;
mod units;

pub use catalogue::{Codec, Container, Expect, Stored};
pub use make::make;
pub use mark::{HEIGHT, MARK_LINES, WIDTH, draw, number_in};
pub use read::{beeps, flashes, lip_sync, numbers, try_numbers};
pub use screen::Screen;
pub use units::access_units;

use std::process::Command;
use std::time::Duration;

/// Frames a second of all clips, where their frame rate does not vary.
pub const RATE: u32 = 25;

/// Frames of a whole clip: 12 s.
pub const FRAMES: u16 = 300;

/// How long a whole clip plays.
pub const DURATION: Duration = Duration::from_secs(FRAMES as u64 / RATE as u64);

/// Samples a second of all sound.
const SAMPLE_RATE: u32 = 48_000;

/// Runs a program to its end and returns what it printed, or what it complained of.
fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?} does not run ({error}); scripts/install.sh test installs what it takes")
    });
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("{command:?} failed: {log}"));
    }
    Ok(Output { bytes: output.stdout, log })
}

/// What a program printed.
struct Output {
    bytes: Vec<u8>,
    log: String,
}

impl Output {
    fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}
