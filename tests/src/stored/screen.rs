//! A screen that tests can see: an X server without a display, and its memory.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Error, Result};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::lab::eventually;

use super::mark::{BLOCK, BLOCKS, HEIGHT, MARK_LINES, WIDTH, number_in, sync_bit};

/// How often it is looked at while something is awaited.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// How long a server that is asked to end may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pixels brighter than this may be white, others black.
const MIDDLE: u8 = 128;

/// A running X server, on which windows are watched. Dropping it ends it.
pub struct Screen {
    child: Child,
    display: String,
    memory: Memory,
    folder: TempDir,
    /// Where the picture was seen last: its left upper corner.
    picture_at: Option<(usize, usize)>,
}

impl Drop for Screen {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Asks a server to end, so that it takes its socket with it, and makes sure that it does.
fn end(child: &mut Child) {
    let pid = i32::try_from(child.id()).map(Pid::from_raw);
    let asked = pid.is_ok_and(|pid| signal::kill(pid, Signal::SIGTERM).is_ok());
    let has_ended = asked && eventually(PATIENCE, || matches!(child.try_wait(), Ok(Some(_))));
    if !has_ended {
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Screen {
    /// Starts one of 640 by 480 pixels, under a name that is free, for programs in any network namespace.
    ///
    /// # Errors
    ///
    /// Where Xvfb is not installed, or does not start.
    pub fn start() -> Result<Self> {
        Self::sized(640, 480)
    }

    /// As [`Self::start`], of so many pixels.
    ///
    /// # Errors
    ///
    /// Where Xvfb is not installed, or does not start.
    pub fn sized(width: u32, height: u32) -> Result<Self> {
        let size = format!("{width}x{height}x24");
        let screen = Self::start_one(&size)?;
        let socket = format!("/tmp/.X11-unix/X{}", screen.display.trim_start_matches(':'));
        if UnixStream::connect(&socket).is_ok() {
            return Ok(screen);
        }
        // One that was killed left it behind, and nobody listens to it.
        drop(screen);
        fs::remove_file(&socket)?;
        Self::start_one(&size)
    }

    fn start_one(size: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // It chooses its name itself, and tells it once it is ready. It stays as it is where programs come and go.
        let mut child = Command::new("Xvfb")
            .args([
                "-displayfd",
                "1",
                "-screen",
                "0",
                size,
                "-nolisten",
                "tcp",
                "-noreset",
                "-fbdir",
            ])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| Error::other(format!("Xvfb (Debian package xvfb): {error}")))?;
        let started = Self::first_line(&mut child)
            .and_then(|display| Ok((display, Memory::open(folder.path())?)));
        match started {
            Ok((display, memory)) => Ok(Self { child, display, memory, folder, picture_at: None }),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    fn first_line(child: &mut Child) -> Result<String> {
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        match line.trim() {
            "" => Err(Error::other("Xvfb ends without a display")),
            number => Ok(format!(":{number}")),
        }
    }

    /// What `DISPLAY` is to be for programs that open windows on it.
    pub fn display(&self) -> &str {
        &self.display
    }

    /// The number in the picture that is shown now, at its own size, anywhere on the screen. None where there is no
    /// picture, or it is just being drawn.
    pub fn number(&mut self) -> Option<u16> {
        if let Some((left, top)) = self.picture_at
            && let Some(number) = self.number_at(left, top)
        {
            return Some(number);
        }
        let (left, top) = self.memory.find_picture()?;
        let number = self.number_at(left, top)?;
        self.picture_at = Some((left, top));
        Some(number)
    }

    /// The number in a picture of this size in the left upper corner. None where there is none, or it is just being drawn.
    pub fn number_in_corner(&self, width: usize, height: usize) -> Option<u16> {
        let lines = self.memory.lines(0, MARK_LINES * height / HEIGHT).ok()?;
        number_in(&lines, width, height, self.memory.width)
    }

    /// A line of the picture that was seen last, in grey. None where none was seen.
    pub fn line(&self, line: usize) -> Option<Vec<u8>> {
        let (left, top) = self.picture_at?;
        let gray = self.memory.lines(top + line, 1).ok()?;
        gray.get(left..left + WIDTH).map(<[u8]>::to_vec)
    }

    /// How bright a pixel of the screen is. None where it has no such pixel.
    pub fn gray_at(&self, column: usize, line: usize) -> Option<u8> {
        self.memory.lines(line, 1).ok()?.get(column).copied()
    }

    /// Presses keys as a hand would, by their X names, in the window under the pointer.
    ///
    /// # Panics
    ///
    /// Where xdotool is not installed, or refuses.
    pub fn press(&self, keys: &[&str]) {
        self.hand(&[&["key"], keys].concat());
    }

    /// Has the hand do something, in xdotool's words. Returns what that says.
    ///
    /// # Panics
    ///
    /// Where xdotool is not installed, or refuses.
    pub fn hand(&self, words: &[&str]) -> String {
        let mut xdotool = Command::new("xdotool");
        let output = xdotool.args(words).env("DISPLAY", &self.display).output();
        let output = output.expect("xdotool (Debian package xdotool) runs");
        assert!(output.status.success(), "xdotool {words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Left, top, width and height of the only window, in pixels. None where there is none, or several.
    pub fn window(&self) -> Option<[u32; 4]> {
        let mut xdotool = Command::new("xdotool");
        xdotool.args(["search", "--onlyvisible", "--maxdepth", "1", "--name", "."]);
        let output = xdotool.env("DISPLAY", &self.display).output().ok()?;
        let window = String::from_utf8(output.stdout).ok()?.trim().parse::<u32>().ok()?;
        let said = self.hand(&["getwindowgeometry", "--shell", &window.to_string()]);
        let field = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.strip_prefix('=')?.parse().ok())
        };
        Some([field("X")?, field("Y")?, field("WIDTH")?, field("HEIGHT")?])
    }

    /// What is written in a part of it, light on dark, as tesseract reads it: in small letters, and without the spaces,
    /// of which it is not sure. The part is left, top, width and height, in pixels.
    ///
    /// # Panics
    ///
    /// Where ffmpeg or tesseract is not installed.
    pub fn text(&self, [left, top, width, height]: [u32; 4]) -> String {
        let picture = self.folder.path().join("text.png");
        // Larger, and black on white, as books are.
        let book = "format=gray,scale=3*iw:-1:flags=lanczos,lutyuv=y='if(gt(val,150),0,255)'";
        self.picture(&format!("crop={width}:{height}:{left}:{top},{book}"), &picture);
        let mut tesseract = Command::new("tesseract");
        tesseract.arg(&picture).args(["-", "--psm", "11"]).env("OMP_THREAD_LIMIT", "1");
        let read = tesseract.output().expect("tesseract (Debian package tesseract-ocr) runs");
        let text = String::from_utf8_lossy(&read.stdout).to_lowercase();
        text.split_whitespace().collect()
    }

    /// Writes a part of what is shown as a PNG: left, top, width and height, in pixels. It has few colours, as it
    /// is to be small.
    ///
    /// # Panics
    ///
    /// Where ffmpeg is not installed, or the file cannot be written.
    pub fn save(&self, [left, top, width, height]: [u32; 4], path: &Path) {
        let few = "split[a][b];[a]palettegen=max_colors=128[p];[b][p]paletteuse=dither=none";
        self.picture(&format!("crop={width}:{height}:{left}:{top},{few}"), path);
    }

    /// Writes what is shown, through a filter of ffmpeg's.
    fn picture(&self, filter: &str, path: &Path) {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-loglevel", "error", "-nostdin", "-y", "-f", "image2", "-c:v", "xwd", "-i"]);
        ffmpeg.arg(self.folder.path().join(IMAGE)).args(["-filter_complex", filter]);
        let status = ffmpeg.args(["-frames:v", "1"]).arg(path).status();
        assert!(status.expect("ffmpeg (Debian package ffmpeg) runs").success(), "no picture");
    }

    fn number_at(&self, left: usize, top: usize) -> Option<u16> {
        let lines = self.memory.lines(top, MARK_LINES).ok()?;
        let stride = self.memory.width;
        number_in(lines.get(left..)?, WIDTH, HEIGHT, stride)
    }

    /// Waits until the picture shows a number that is wanted, and returns it; None when time is up.
    pub fn wait_for(
        &mut self,
        mut is_wanted: impl FnMut(u16) -> bool,
        timeout: Duration,
    ) -> Option<u16> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(number) = self.number().filter(|&number| is_wanted(number)) {
                return Some(number);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

/// The name of the file that the server keeps its screen in.
const IMAGE: &str = "Xvfb_screen0";

/// What the X server draws into, a window dump (XWD) that it keeps mapped.
struct Memory {
    file: File,
    pixels_at: usize,
    width: usize,
    height: usize,
    stride: usize,
}

/// Bytes of a pixel: blue, green, red and nothing.
const PIXEL: usize = 4;

impl Memory {
    fn open(folder: &Path) -> Result<Self> {
        // Of XWDFileHeader: 25 numbers, the most significant byte first; then a name, then colours of 12 bytes.
        const FIELDS: usize = 25;
        let file = File::open(folder.join(IMAGE))?;
        let mut header = [0; 4 * FIELDS];
        file.read_exact_at(&mut header, 0)?;
        let field = |at: usize| {
            let bytes = header[4 * at..4 * at + 4].iter();
            bytes.fold(0, |number, &byte| number << 8 | usize::from(byte))
        };
        let (header_size, version, bits, colors) = (field(0), field(1), field(11), field(19));
        if version != 7 || bits != 8 * PIXEL {
            let what = format!("a window dump of version {version} with {bits} bits a pixel");
            return Err(Error::other(what));
        }
        let (width, height, stride) = (field(4), field(5), field(12));
        Ok(Self { file, pixels_at: header_size + 12 * colors, width, height, stride })
    }

    /// Lines as they are now, in grey, as it were: green is most of what the eye sees.
    fn lines(&self, top: usize, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count * self.stride];
        self.file.read_exact_at(&mut bytes, (self.pixels_at + top * self.stride) as u64)?;
        let lines = bytes.chunks_exact(self.stride);
        Ok(lines
            .flat_map(|line| line[..PIXEL * self.width].iter().skip(1).step_by(PIXEL))
            .copied()
            .collect())
    }

    /// Where a picture is. Looking at the middle of its blocks, it looks right from all places that are less than
    /// half a block off, and it is in the middle of those.
    fn find_picture(&self) -> Option<(usize, usize)> {
        const HALF: usize = BLOCK / 2;
        let gray = self.lines(0, self.height).ok()?;
        let looks_right = |&(x, y): &(usize, usize)| {
            let row = &gray[y * self.width + x..];
            (0..BLOCKS).all(|column| (row[column * BLOCK] > MIDDLE) == sync_bit(column))
        };
        // Where the middle of the first block may be, and half a block around.
        let columns = 0..(self.width + BLOCK).checked_sub(WIDTH)?;
        let lines = 0..(self.height + BLOCK).checked_sub(HEIGHT)?;
        let all = lines.flat_map(|y| columns.clone().map(move |x| (x, y)));
        let right: Vec<_> = all.filter(looks_right).collect();
        let place = |&(x, y): &(usize, usize)| {
            // What else looks right by chance is elsewhere.
            let near =
                right.iter().filter(|at| at.0.abs_diff(x) < BLOCK && at.1.abs_diff(y) < BLOCK);
            let (count, sum_x, sum_y) =
                near.fold((0, 0, 0), |(count, x, y), at| (count + 1, x + at.0, y + at.1));
            // A block has as many columns before its middle as from there on.
            ((sum_x / count + 1).saturating_sub(HALF), (sum_y / count + 1).saturating_sub(HALF))
        };
        let is_one = |&(left, top): &(usize, usize)| {
            let from = gray.get(top * self.width + left..);
            from.is_some_and(|from| number_in(from, WIDTH, HEIGHT, self.width).is_some())
        };
        right.iter().map(place).find(is_one)
    }
}
