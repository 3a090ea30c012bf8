//! Looking at recordings: their frames against the source's, and their sound.

use std::path::Path;
use std::process::Command;

/// Size to which frames are brought for comparing, in pixels.
const WIDTH: usize = 160;
const HEIGHT: usize = 90;

/// Above this two frames show the same (PSNR of small grey frames, in dB).
pub const SAME_PICTURE: f64 = 40.0;

fn output(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?} does not run ({error}); install the Debian package ffmpeg")
    });
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {log}");
    output.stdout
}

/// All frames of a video, decoded, small and grey.
pub fn frames(video: &Path) -> Vec<Vec<u8>> {
    let scale = format!("scale={WIDTH}:{HEIGHT}:flags=area,format=gray");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-i"]).arg(video);
    ffmpeg.args(["-map", "0:v:0", "-vf", &scale, "-fps_mode", "passthrough"]);
    ffmpeg.args(["-f", "rawvideo", "-"]);
    output(&mut ffmpeg).chunks_exact(WIDTH * HEIGHT).map(<[u8]>::to_vec).collect()
}

/// Peak signal-to-noise ratio of two frames, in dB; infinite for equal ones.
pub fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let squares = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    let mean = squares.sum::<f64>() / a.len() as f64;
    10.0 * (255.0f64.powi(2) / mean).log10()
}

/// Where a recording of a looped source begins, in frames of the source, and the worst PSNR of all
/// its frames against the source's in turn.
pub fn compare_looped(recording: &[Vec<u8>], source: &[Vec<u8>]) -> (usize, f64) {
    let first = recording.first().expect("the recording has frames");
    let begin = (0..source.len())
        .max_by(|&a, &b| psnr(first, &source[a]).total_cmp(&psnr(first, &source[b])))
        .expect("the source has frames");
    let turns = recording.iter().zip(source.iter().cycle().skip(begin));
    let worst = turns.map(|(recorded, sent)| psnr(recorded, sent)).fold(f64::INFINITY, f64::min);
    (begin, worst)
}

/// How many frames a recording of a looped source has, which must play from one end to the other: in order, without a
/// gap, and show what the source shows.
pub fn whole_frames(recording: &Path, source: &Path) -> usize {
    let times = times(recording, "v:0");
    assert!(times.is_sorted() && longest_gap(&times) < 0.045, "{times:?}");
    let frames = frames(recording);
    let (_, worst) = compare_looped(&frames, &self::frames(source));
    assert!(worst > SAME_PICTURE, "{}: {worst} dB", recording.display());
    frames.len()
}

/// Presentation times of a stream's packets, in seconds. `stream` is `v:0` or `a:0`.
pub fn times(media: &Path, stream: &str) -> Vec<f64> {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-select_streams", stream, "-show_entries", "packet=pts_time"]);
    ffprobe.args(["-of", "csv=p=0"]).arg(media);
    let text = String::from_utf8(output(&mut ffprobe)).expect("ffprobe prints text");
    text.lines().filter_map(|line| line.trim_end_matches(',').parse().ok()).collect()
}

/// The longest time from one packet to the next, in seconds.
pub fn longest_gap(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
}
