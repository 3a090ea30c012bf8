//! Finding beeps in sound.

use std::f64::consts::TAU;

use super::SAMPLE_RATE;

/// Pitch of the beeps.
pub(super) const BEEP_HERTZ: f64 = 1000.0;

/// What is looked at for each moment: 10 ms, ten whole waves.
const WINDOW: usize = SAMPLE_RATE as usize / 100;
/// From one moment to the next: 1 ms.
const HOP: usize = SAMPLE_RATE as usize / 1000;

/// What is quieter is no beep, of full scale, and of the loudest.
const QUIETEST: f64 = 0.01;
const QUIETEST_OF_LOUDEST: f64 = 0.25;

/// Where beeps begin, in seconds from the first sample.
pub(super) fn onsets(samples: &[f32]) -> Vec<f64> {
    // Half a window holds the beep where its middle is the first sample: the earliest begins with silence.
    let padded = [&vec![0.0; WINDOW][..], samples, &vec![0.0; WINDOW]].concat();
    let levels: Vec<f64> =
        (0..padded.len() - WINDOW).step_by(HOP).map(|at| level(&padded[at..at + WINDOW])).collect();
    let loudest = levels.iter().copied().fold(0.0, f64::max);
    let threshold = QUIETEST.max(loudest * QUIETEST_OF_LOUDEST);
    let mut onsets = Vec::new();
    let mut at = 0;
    while let Some(first) = levels[at..].iter().position(|&level| level > threshold) {
        let first = at + first;
        let length = levels[first..].iter().position(|&level| level <= threshold);
        at = first + length.unwrap_or(levels.len() - first);
        // The window that is half full has half the level.
        let half = levels[first..at].iter().copied().fold(0.0, f64::max) / 2.0;
        let below = levels[..first].iter().rposition(|&level| level < half);
        let crossing = (below.map_or(0, |below| below + 1)..at).find(|&at| levels[at] >= half);
        onsets.push(seconds(crossing.unwrap_or(first), &levels, half));
    }
    onsets
}

/// When the level passed `half` on its way up to that of a window, in seconds from the first sample.
fn seconds(crossing: usize, levels: &[f64], half: f64) -> f64 {
    let below = crossing.checked_sub(1).map_or(0.0, |before| levels[before]);
    let share = ((levels[crossing] - half) / (levels[crossing] - below)).clamp(0.0, 1.0);
    let middle = (crossing as f64 - share) * HOP as f64 - WINDOW as f64 / 2.0;
    middle / f64::from(SAMPLE_RATE)
}

/// Amplitude at the beeps' pitch (Goertzel), of full scale.
fn level(window: &[f32]) -> f64 {
    let turn = 2.0 * (TAU * BEEP_HERTZ / f64::from(SAMPLE_RATE)).cos();
    let (last, before) = window.iter().fold((0.0, 0.0), |(last, before), &sample| {
        (turn * last - before + f64::from(sample), last)
    });
    let power = last * last + before * before - turn * last * before;
    2.0 * power.max(0.0).sqrt() / window.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A quiet tone with beeps of 40 ms that begin at these times.
    fn sound(begin_at: &[f64], level: f32) -> Vec<f32> {
        let sample = |at: usize| {
            let time = at as f64 / f64::from(SAMPLE_RATE);
            let beeps = begin_at.iter().any(|begin| (*begin..begin + 0.04).contains(&time));
            let wave = |hertz: f64| (TAU * hertz * time).sin() as f32;
            level * (0.05 * wave(220.0) + if beeps { 0.5 * wave(BEEP_HERTZ) } else { 0.0 })
        };
        (0..3 * SAMPLE_RATE as usize).map(sample).collect()
    }

    #[test]
    fn beeps_are_found_to_the_millisecond() {
        let begin_at = [0.0, 0.5003, 1.2517, 2.9];
        for level in [1.0, 0.3] {
            let found = onsets(&sound(&begin_at, level));
            assert_eq!(found.len(), begin_at.len(), "{found:?}");
            for (found, begins) in found.iter().zip(begin_at) {
                assert!((found - begins).abs() < 0.001, "{found} {begins}");
            }
        }
    }

    #[test]
    fn silence_and_another_tone_have_no_beeps() {
        assert!(onsets(&[]).is_empty());
        assert!(onsets(&vec![0.0; 48_000]).is_empty());
        assert!(onsets(&sound(&[], 1.0)).is_empty());
    }
}
