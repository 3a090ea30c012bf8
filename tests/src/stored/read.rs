//! What recordings show and sound like, and when.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::mark::{self, HEIGHT, WIDTH};
use super::{SAMPLE_RATE, run, sound};

/// Sound whose time is off by less goes on where the last ended: some containers round times to milliseconds.
const ROUNDING: f64 = 0.002;

/// The longest hole in sound that is filled, in seconds: a broken time must not fill the memory.
const LONGEST_HOLE: f64 = 3600.0;

/// The farthest that a beep may be from its flash, in seconds: they come once a second.
const HALF_A_TURN: f64 = 0.5;

/// A picture in grey, [`WIDTH`] by [`HEIGHT`], and its time in seconds from the file's start.
struct Picture {
    seconds: f64,
    gray: Vec<u8>,
}

/// The numbers of all pictures of a file, with their times from the file's start. Pictures without a number that
/// can be read are left out.
///
/// The file's start is the first of all its tracks', which may be sound.
///
/// # Panics
///
/// Where the file cannot be decoded.
pub fn numbers(file: &Path) -> Vec<(Duration, u16)> {
    try_numbers(file).unwrap_or_else(|problem| panic!("{problem}"))
}

/// As [`numbers`].
///
/// # Errors
///
/// ffmpeg's words, where the file cannot be decoded at all.
pub fn try_numbers(file: &Path) -> Result<Vec<(Duration, u16)>, String> {
    let read = |picture: Picture| {
        let number = mark::number_in(&picture.gray, WIDTH, HEIGHT, WIDTH)?;
        Some((Duration::from_secs_f64(picture.seconds.max(0.0)), number))
    };
    Ok(pictures(file)?.into_iter().filter_map(read).collect())
}

/// When flashes begin, in seconds from the file's start.
///
/// # Panics
///
/// Where the file has no pictures that can be decoded.
pub fn flashes(file: &Path) -> Vec<f64> {
    let pictures = pictures(file).unwrap_or_else(|problem| panic!("{problem}"));
    let mut was_flashing = false;
    let mut flashes = Vec::new();
    for Picture { seconds, gray } in pictures {
        // Where there is no number, it is not known what the block's brightness means.
        let Some(_) = mark::number_in(&gray, WIDTH, HEIGHT, WIDTH) else { continue };
        let flashing = mark::is_flashing(&gray);
        if flashing && !was_flashing {
            flashes.push(seconds);
        }
        was_flashing = flashing;
    }
    flashes
}

/// When beeps of the first track of sound begin, in seconds from the file's start.
///
/// # Panics
///
/// Where the file has no sound that can be decoded.
pub fn beeps(file: &Path) -> Vec<f64> {
    let (begins, samples) = samples(file).unwrap_or_else(|problem| panic!("{problem}"));
    sound::onsets(&samples).into_iter().map(|onset| begins + onset).collect()
}

/// How late the sound is at each flash, in milliseconds; negative where it is early. Flashes without a beep near
/// them are left out.
///
/// # Panics
///
/// As [`flashes`] and [`beeps`].
pub fn lip_sync(file: &Path) -> Vec<f64> {
    let beeps = beeps(file);
    let late = |flash: f64| {
        let late = beeps.iter().map(|beep| beep - flash);
        late.filter(|late| late.abs() < HALF_A_TURN).min_by(|a, b| a.abs().total_cmp(&b.abs()))
    };
    flashes(file).into_iter().filter_map(late).map(|late| late * 1000.0).collect()
}

/// Decodes all pictures. ffmpeg tells of each in its log and writes it, both from one place and in one order.
fn pictures(file: &Path) -> Result<Vec<Picture>, String> {
    let start = start(file)?;
    let filter = format!("scale={WIDTH}:{HEIGHT}:flags=area,format=gray,settb=1/1000000,showinfo");
    let mut ffmpeg = decoder(file);
    ffmpeg.args([
        "-map",
        "0:v:0",
        "-vf",
        &filter,
        "-fps_mode",
        "passthrough",
        "-f",
        "rawvideo",
        "-",
    ]);
    let output = run(&mut ffmpeg)?;
    let times = told(&output.log, "showinfo", "pts");
    let pictures: Vec<_> = output.bytes.chunks_exact(WIDTH * HEIGHT).collect();
    if times.len() != pictures.len() {
        return Err(format!("{file:?}: {} times of {} pictures", times.len(), pictures.len()));
    }
    let picture = |(time, gray): (i64, &[u8])| Picture {
        seconds: time as f64 / 1e6 - start,
        gray: gray.to_vec(),
    };
    Ok(times.into_iter().zip(pictures).map(picture).collect())
}

/// Decodes the first track of sound, mixed to one channel, holes filled: when it begins, in seconds from the file's
/// start, and its samples.
fn samples(file: &Path) -> Result<(f64, Vec<f32>), String> {
    let start = start(file)?;
    let filter = format!(
        "aresample={SAMPLE_RATE},aformat=sample_fmts=s16:channel_layouts=mono,asettb=1/{SAMPLE_RATE},ashowinfo"
    );
    let mut ffmpeg = decoder(file);
    ffmpeg.args(["-map", "0:a:0", "-af", &filter, "-f", "s16le", "-"]);
    let output = run(&mut ffmpeg)?;
    let times = told(&output.log, "showinfo", "pts");
    let lengths = told(&output.log, "showinfo", "nb_samples");
    let written: Vec<_> = output.bytes.chunks_exact(2).collect();
    if times.len() != lengths.len() || lengths.iter().sum::<i64>() != written.len() as i64 {
        return Err(format!("{file:?}: {} samples in {} parts", written.len(), times.len()));
    }
    let rate = f64::from(SAMPLE_RATE);
    let first = times.first().copied().unwrap_or_default();
    let mut written = written.into_iter();
    let mut samples = Vec::new();
    for (time, length) in times.into_iter().zip(lengths) {
        let hole = (time - first) as f64 - samples.len() as f64;
        if hole.abs() > LONGEST_HOLE * rate {
            return Err(format!("{file:?}: sound jumps by {} s", hole / rate));
        }
        if hole.abs() > ROUNDING * rate {
            // What comes twice replaces what was there.
            samples.resize((time - first).max(0) as usize, 0.0);
        }
        let part = written.by_ref().take(length as usize);
        let value = |bytes: &[u8]| f32::from(i16::from_le_bytes([bytes[0], bytes[1]])) / 32768.0;
        samples.extend(part.map(value));
    }
    Ok((first as f64 / rate - start, samples))
}

/// ffmpeg, about to decode a file with the times as they are in it.
fn decoder(file: &Path) -> Command {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-hide_banner", "-nostdin", "-nostats", "-v", "info", "-copyts", "-i"]).arg(file);
    ffmpeg
}

/// When the file starts, in seconds on its own clock.
fn start(file: &Path) -> Result<f64, String> {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-show_entries", "format=start_time", "-of", "csv=p=0"]).arg(file);
    let output = run(&mut ffprobe)?;
    Ok(output.text().trim().parse().unwrap_or_default())
}

/// Values of a field in all lines that a filter of ffmpeg's wrote: `[Parsed_showinfo_3 @ 0x1] n:0 pts:  40 …`.
fn told(log: &str, filter: &str, field: &str) -> Vec<i64> {
    let field = format!(" {field}:");
    let value = |line: &str| {
        let (name, line) = line.split_once(" @ ")?;
        let (_, value) = line.split_once(&field).filter(|_| name.contains(filter))?;
        value.split_whitespace().next()?.parse().ok()
    };
    // What other threads write may break a line up, but behind what is read here; the callers count.
    log.lines().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_from_the_log() {
        let log = "Input #0, matroska\n\
            [Parsed_showinfo_3 @ 0x55] config in time_base: 1/1000000, frame_rate: 25/1\n\
            [Parsed_showinfo_3 @ 0x55] n:   0 pts:      0 pts_time:0       fmt:gray\n\
            [h264 @ 0x56] error pts: 7 while decoding\n\
            [Parsed_showinfo_3 @ 0x55] n:   1 pts: -40000 pts_time:-0.04   fmt:gray\n";
        assert_eq!(told(log, "showinfo", "pts"), [0, -40_000]);
        assert!(told(log, "showinfo", "nb_samples").is_empty());
    }
}
