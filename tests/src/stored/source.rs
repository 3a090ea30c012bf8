//! What all clips show and sound like, before it is encoded.

use std::f64::consts::TAU;
use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::Path;

use super::mark::{self, HEIGHT, WIDTH};
use super::sound::BEEP_HERTZ;
use super::{FRAMES, RATE, SAMPLE_RATE};

/// Samples of a beep: 40 ms, as long as a picture is shown.
const BEEP_SAMPLES: u32 = SAMPLE_RATE / RATE;
/// How loud the beeps are, and the tone that never ends, of full scale.
const BEEP_LEVEL: f64 = 0.5;
const TONE_LEVEL: f64 = 0.05;

/// Edge of the square that runs about, in pixels.
const SQUARE: usize = 40;

/// Writes all pictures, as YUV4MPEG2.
pub(super) fn write_pictures(path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(file, "YUV4MPEG2 W{WIDTH} H{HEIGHT} F{RATE}:1 Ip A1:1 C420mpeg2")?;
    for number in 0..FRAMES {
        writeln!(file, "FRAME")?;
        file.write_all(&picture(number))?;
    }
    file.flush()
}

/// A picture in I420: slopes that move, a square that runs about, and the mark.
fn picture(number: u16) -> Vec<u8> {
    let at = usize::from(number);
    let (left, top) = (bounce(3 * at, WIDTH - SQUARE), bounce(2 * at, HEIGHT - SQUARE));
    let is_square =
        |x: usize, y: usize| (left..left + SQUARE).contains(&x) && (top..top + SQUARE).contains(&y);
    let brightness =
        |x, y| if is_square(x, y) { 200 } else { 60 + bounce(x + y + 2 * at, 100) as u8 };
    let mut luma = plane(WIDTH, HEIGHT, brightness);
    mark::draw(&mut luma, number, u32::from(number).is_multiple_of(RATE));
    // Black and white are without colour, so that they are as bright in each of red, green and blue.
    let color = |level: usize, x: usize, y: usize| {
        if mark::covers(2 * x, 2 * y) { 128 } else { 80 + bounce(level + at, 90) as u8 }
    };
    let blue = plane(WIDTH / 2, HEIGHT / 2, |x, y| color(x, x, y));
    let red = plane(WIDTH / 2, HEIGHT / 2, |x, y| color(y, x, y));
    [luma, blue, red].concat()
}

fn plane(width: usize, height: usize, of: impl Fn(usize, usize) -> u8) -> Vec<u8> {
    (0..width * height).map(|at| of(at % width, at / width)).collect()
}

/// Goes up to a bound and back, over and over.
fn bounce(step: usize, bound: usize) -> usize {
    let step = step % (2 * bound);
    step.min(2 * bound - step)
}

/// Writes the sound, as 16 bits little-endian, two channels: a quiet tone and the beeps.
pub(super) fn write_sound(path: &Path, tone_hertz: f64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let wave = |hertz: f64, at: u32| (TAU * hertz * f64::from(at) / f64::from(SAMPLE_RATE)).sin();
    for at in 0..u32::from(FRAMES) / RATE * SAMPLE_RATE {
        let beep = if at % SAMPLE_RATE < BEEP_SAMPLES { wave(BEEP_HERTZ, at) } else { 0.0 };
        let level = BEEP_LEVEL * beep + TONE_LEVEL * wave(tone_hertz, at);
        let sample = ((level * f64::from(i16::MAX)) as i16).to_le_bytes();
        file.write_all(&sample)?;
        file.write_all(&sample)?;
    }
    file.flush()
}
