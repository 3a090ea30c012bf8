//! A stored stream of a known, even bitrate, so that nothing is encoded while it is measured.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the stream is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clip {
    /// Bits a second of the pictures.
    pub bits_per_second: u32,
    /// Pictures a second.
    pub framerate: u32,
    /// From one keyframe to the next, in pictures.
    pub keyframe_interval: u32,
    /// Whether there is sound: Opus, 50 packets a second.
    pub has_sound: bool,
    /// How long it is before it begins again, in seconds.
    pub seconds: u32,
}

impl Default for Clip {
    /// 4 Mbit/s, 30 pictures a second, a keyframe every 2 s, no sound.
    fn default() -> Self {
        Self {
            bits_per_second: 4_000_000,
            framerate: 30,
            keyframe_interval: 60,
            has_sound: false,
            seconds: 8,
        }
    }
}

impl Clip {
    /// Encodes it to a file in `folder` with ffmpeg, unless it is there already. Noise keeps the encoder
    /// at its limit, and a buffer of two pictures keeps pictures at one size.
    pub fn make(&self, folder: &Path) -> io::Result<PathBuf> {
        let Self { bits_per_second, framerate, keyframe_interval, has_sound, seconds } = *self;
        let sound = if has_sound { "sound" } else { "silent" };
        let name =
            format!("{bits_per_second}-{framerate}-{keyframe_interval}-{seconds}-{sound}.mkv");
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
        // Pictures of fewer bits are smaller, or the encoder would have nothing to save.
        let size = if bits_per_second / framerate > 60_000 { "640x360" } else { "320x180" };
        let pictures = format!("testsrc2=size={size}:rate={framerate},noise=alls=60:allf=t");
        // The encoder stays below its limit by as much as is added here.
        let limit = bits_per_second / 20 * 23;
        let buffer = 2 * limit / framerate;
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", &pictures]);
        if has_sound {
            command.args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]);
        }
        command.args(["-t", &seconds.to_string(), "-pix_fmt", "yuv420p", "-c:v", "libx264"]);
        command.args(["-preset", "ultrafast", "-bf", "0", "-g", &keyframe_interval.to_string()]);
        for rate in ["-b:v", "-minrate", "-maxrate"] {
            command.args([rate, &limit.to_string()]);
        }
        command.args(["-bufsize", &buffer.to_string()]);
        command.args(["-x264-params", "scenecut=0:sliced-threads=0:slices=1"]);
        if has_sound {
            command.args(["-c:a", "libopus", "-b:a", "64k", "-frame_duration", "20"]);
        }
        // Whole or not at all: others may look for it.
        let unfinished = folder.join("unfinished.mkv");
        let output = command.arg(&unfinished).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(io::Error::other(format!("ffmpeg: {words}")));
        }
        std::fs::rename(&unfinished, &path)?;
        Ok(path)
    }
}
