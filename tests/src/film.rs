//! A film for encoders, and what a recording of it holds.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Pictures a second of [`film`].
pub const PICTURES_PER_SECOND: f64 = 25.0;

/// A film of 40 s that is as hard to encode as what cameras see: it moves, and has noise. Motion JPEG, so that it is
/// encoded anew. `size` is as in `480x270`, `noise` as ffmpeg takes it: 0 to 100.
pub fn film(folder: &Path, size: &str, noise: u32) -> PathBuf {
    let film = folder.join("film.avi");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-f", "lavfi", "-i"]);
    ffmpeg.arg(format!("testsrc2=s={size}:r=25:d=40,noise=alls={noise}:allf=t"));
    ffmpeg.args(["-c:v", "mjpeg", "-q:v", "4", "-pix_fmt", "yuvj420p"]).arg(&film);
    let output = ffmpeg.output().expect("scripts/install.sh test installs ffmpeg");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    film
}

/// A coded picture of a recording.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Picture {
    /// When it is shown, in seconds.
    pub time: f64,
    /// Its size.
    pub bytes: f64,
    /// Whether decoding can begin with it.
    pub is_keyframe: bool,
}

/// The coded pictures of a recording, in the order of the file.
pub fn pictures(recording: &Path) -> Vec<Picture> {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-select_streams", "v:0", "-show_entries"]);
    ffprobe.args(["packet=pts_time,size,flags", "-of", "json"]).arg(recording);
    let output = ffprobe.output().expect("ffprobe comes with ffmpeg");
    let all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packets = all["packets"].as_array().expect("a list");
    let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    let picture = |packet: &Value| Picture {
        time: number(&packet["pts_time"]).expect("a time"),
        bytes: number(&packet["size"]).expect("a size"),
        is_keyframe: packet["flags"].as_str().is_some_and(|flags| flags.starts_with('K')),
    };
    packets.iter().map(picture).collect()
}

/// Where the keyframes are.
pub fn keyframes(pictures: &[Picture]) -> Vec<usize> {
    (0..pictures.len()).filter(|at| pictures[*at].is_keyframe).collect()
}

/// Pictures that a decoder makes of a recording, without a complaint.
pub fn decoded(recording: &Path) -> usize {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-i"]).arg(recording);
    ffmpeg.args(["-map", "0:v", "-fps_mode", "passthrough", "-f", "framecrc", "-"]);
    let output = ffmpeg.stderr(Stdio::piped()).output().expect("ffmpeg");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|line| !line.starts_with('#')).count()
}
