//! The viewer's one timeline: from a packet's RTP timestamp to the moment at which, on this viewer's
//! clock, it should arrive.
//!
//! Admission tells for each track which RTP timestamp was captured when, on the channel's capture
//! clock. So all tracks stand on one clock, and stay in sync whatever each one's encoder or path
//! adds. What remains is a single offset between capture clock and local clock: first estimated from
//! the admission, then held at the slowest track's least delay over the last seconds, and moved
//! slowly. A packet of the joining burst gets the moment at which it *would* have arrived live.

use std::collections::VecDeque;
use std::time::Duration;

/// The least delay is taken over this long.
const WINDOW: Duration = Duration::from_secs(4);

/// What a track's first packets show says nothing: a sender that packs much sound together sends the first of it late, and
/// the last in time.
const SETTLING: Duration = Duration::from_secs(1);

/// A track of which nothing comes is waited for no longer than this.
const LONGEST_SETTLING: Duration = Duration::from_secs(2);

/// Smaller errors are left alone: they are jitter.
const TOLERANCE_US: i64 = 2_000;

/// Larger errors are jumped over (the path changed), smaller ones moved away slowly. Unless told otherwise.
const JUMP_US: i64 = 150_000;

/// The offset moves by at most this share of elapsed time: 0.5%, inaudible and invisible.
const SLEW: f64 = 0.005;

/// Where one track's RTP timestamps stand on the capture clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrackClock {
    /// In Hz.
    pub clock_rate: u32,
    /// A timestamp …
    pub rtp_timestamp: u32,
    /// … and when it was captured, in microseconds of the capture clock;
    /// [`UNKNOWN_CAPTURE`](crate::control::UNKNOWN_CAPTURE) until [`Timeline::learn`] is told.
    pub captured_us: u64,
}

/// Capture clock to local clock, for all tracks of a channel.
#[derive(Debug)]
pub struct Timeline {
    tracks: Vec<TrackLine>,
    /// Local time minus capture time of a packet without jitter, in microseconds.
    offset_us: i64,
    adjusted_at_us: Option<i64>,
    /// Local time of the first that was observed of any track.
    began_us: Option<i64>,
    jump_us: i64,
}

#[derive(Debug)]
struct TrackLine {
    clock_rate: u32,
    /// Last timestamp seen and its capture time: the reference for unwrapping.
    rtp_timestamp: u32,
    captured_us: i64,
    /// (local time, arrival minus capture), with growing delays only: the front is the least.
    delays: VecDeque<(i64, i64)>,
    /// Local time of the first that came, or came after a silence.
    observed_at: Option<i64>,
}

impl Timeline {
    /// A timeline from what the admission said: `capture_now` and `send_lag` are the capture clock
    /// and the slowest track's delay before sending, `local_now` when the admission arrived.
    pub fn new(
        tracks: &[TrackClock],
        capture_now: Duration,
        send_lag: Duration,
        local_now: Duration,
    ) -> Self {
        let tracks = tracks
            .iter()
            .map(|track| TrackLine {
                clock_rate: track.clock_rate.max(1),
                rtp_timestamp: track.rtp_timestamp,
                captured_us: i64::try_from(track.captured_us).unwrap_or(i64::MAX),
                delays: VecDeque::new(),
                observed_at: None,
            })
            .collect();
        // Saturating, here and below: the admission may say anything.
        let ahead = micros(local_now).saturating_sub(micros(capture_now));
        let offset_us = ahead.saturating_add(micros(send_lag));
        Self { tracks, offset_us, adjusted_at_us: None, began_us: None, jump_us: JUMP_US }
    }

    /// What comes later than its place by more than `room` is of no use: a path that grows longer by that is followed
    /// with a jump, where moving slowly would lose everything meanwhile.
    pub fn set_room(&mut self, room: Duration) {
        self.jump_us = micros(room).clamp(TOLERANCE_US, JUMP_US);
    }

    /// When a packet with this timestamp should arrive, on the local clock. `None` for a track that
    /// is not there.
    pub fn place(&mut self, track: usize, rtp_timestamp: u32) -> Option<Duration> {
        let captured = self.tracks.get_mut(track)?.captured_us(rtp_timestamp);
        Some(Duration::from_micros(
            u64::try_from(captured.saturating_add(self.offset_us)).unwrap_or(0),
        ))
    }

    /// Takes a track's first packet, of which the admission knew nothing yet: it was captured, as far as is known, so
    /// that it arrives now.
    pub fn learn(&mut self, track: usize, rtp_timestamp: u32, local_now: Duration) {
        let Some(line) = self.tracks.get_mut(track) else { return };
        if line.captured_us == i64::MAX {
            line.rtp_timestamp = rtp_timestamp;
            line.captured_us = micros(local_now).saturating_sub(self.offset_us);
        }
    }

    /// Learns from a packet that was sent live and arrived first of its access unit at `local_now`.
    pub fn observe(&mut self, track: usize, rtp_timestamp: u32, local_now: Duration) {
        let now = micros(local_now);
        let Some(line) = self.tracks.get_mut(track) else { return };
        let delay = now.saturating_sub(line.captured_us(rtp_timestamp));
        line.observe(delay, now);
        let elapsed = now - self.adjusted_at_us.replace(now).unwrap_or(now);
        let began = *self.began_us.get_or_insert(now);
        // The slowest may be one of which too little was seen.
        if self.tracks.iter().any(|line| line.is_settling(began, now)) {
            return;
        }
        let slowest = self.tracks.iter().filter_map(|line| line.least_delay(now)).max();
        let Some(target) = slowest else { return };
        let error = target.saturating_sub(self.offset_us);
        if error > self.jump_us || error < -JUMP_US {
            self.offset_us = target;
        } else if error.saturating_abs() > TOLERANCE_US {
            let most = (elapsed.max(0) as f64 * SLEW) as i64;
            self.offset_us += error.clamp(-most, most);
        }
    }

    /// From capture to an arrival without jitter, where the two clocks show this at the same moment.
    pub fn delay(&self, capture_now: Duration, local_now: Duration) -> Duration {
        let ahead = micros(local_now).saturating_sub(micros(capture_now));
        let delay = self.offset_us.saturating_sub(ahead);
        Duration::from_micros(u64::try_from(delay).unwrap_or(0))
    }

    /// The delay from capture to an arrival without jitter, on the two clocks: only its changes mean
    /// something unless the clocks are one.
    pub fn offset_us(&self) -> i64 {
        self.offset_us
    }
}

impl TrackLine {
    fn captured_us(&mut self, rtp_timestamp: u32) -> i64 {
        let ticks = i64::from(rtp_timestamp.wrapping_sub(self.rtp_timestamp) as i32);
        // The reference moves on in whole seconds of ticks only, so that no rounding adds up.
        let rate = i64::from(self.clock_rate);
        let whole = ticks.div_euclid(rate);
        if whole > 0 {
            let step = (whole * rate) as u32;
            self.rtp_timestamp = self.rtp_timestamp.wrapping_add(step);
            self.captured_us = self.captured_us.saturating_add(whole * 1_000_000);
            return self.captured_us.saturating_add((ticks - whole * rate) * 1_000_000 / rate);
        }
        self.captured_us.saturating_add(ticks * 1_000_000 / rate)
    }

    fn observe(&mut self, delay: i64, now: i64) {
        // What a source sends first on its return is late, and by how much says as little as at the beginning.
        if self.delays.back().is_none_or(|&(at, _)| now - at > micros(WINDOW)) {
            self.observed_at = Some(now);
        }
        while self.delays.back().is_some_and(|&(_, other)| other >= delay) {
            self.delays.pop_back();
        }
        self.delays.push_back((now, delay));
        let oldest = now - micros(WINDOW);
        while self.delays.front().is_some_and(|&(at, _)| at < oldest) {
            self.delays.pop_front();
        }
    }

    /// Whether too little was seen of it, or nothing, where something may still come.
    fn is_settling(&self, began: i64, now: i64) -> bool {
        match self.observed_at {
            Some(at) => now - at < micros(SETTLING),
            None => now - began < micros(LONGEST_SETTLING),
        }
    }

    /// `None` where nothing has come of late.
    fn least_delay(&self, now: i64) -> Option<i64> {
        self.observed_at.filter(|at| now - at >= micros(SETTLING))?;
        self.delays.front().map(|&(_, delay)| delay)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn timeline() -> Timeline {
        let video =
            TrackClock { clock_rate: 90_000, rtp_timestamp: u32::MAX - 10, captured_us: 5_000_000 };
        let audio = TrackClock { clock_rate: 48_000, rtp_timestamp: 7, captured_us: 5_000_000 };
        Timeline::new(&[video, audio], ms(5_010), ms(15), ms(120_000))
    }

    #[test]
    fn history_is_placed_in_the_past() {
        let mut timeline = timeline();
        // Captured 10 ms before the admission was written, 15 ms lag: 5 ms from now.
        assert_eq!(timeline.place(0, u32::MAX - 10), Some(ms(120_005)));
        assert_eq!(timeline.place(0, (u32::MAX - 10).wrapping_sub(7 * 90_000)), Some(ms(113_005)));
        assert_eq!(timeline.place(0, (u32::MAX - 10).wrapping_add(90)), Some(ms(120_006)));
        assert_eq!(timeline.place(1, 7 + 48), Some(ms(120_006)));
        assert_eq!(timeline.place(2, 0), None);
    }

    #[test]
    fn a_track_that_begins_later_begins_when_it_comes() {
        let video = TrackClock { clock_rate: 90_000, rtp_timestamp: 0, captured_us: 5_000_000 };
        let captured_us = crate::control::UNKNOWN_CAPTURE;
        let audio = TrackClock { clock_rate: 48_000, rtp_timestamp: 0, captured_us };
        let mut timeline = Timeline::new(&[video, audio], ms(5_010), ms(0), ms(120_000));
        timeline.learn(0, 90_000, ms(500_000));
        timeline.learn(1, 3_000_000_000, ms(130_000));
        timeline.learn(1, 3_000_048_000, ms(140_000));
        assert_eq!(timeline.place(0, 0), Some(ms(119_990)));
        assert_eq!(timeline.place(1, 3_000_000_000), Some(ms(130_000)));
        assert_eq!(timeline.place(1, 3_000_480_000), Some(ms(140_000)));
    }

    #[test]
    fn timestamps_wrap_for_days() {
        let mut timeline = timeline();
        for second in 0..200_000u64 {
            let timestamp = (u32::MAX - 10).wrapping_add((second * 90_000) as u32);
            assert_eq!(timeline.place(0, timestamp), Some(ms(120_005 + second * 1000)));
        }
    }

    #[test]
    fn the_first_track_that_is_known_moves_nothing_without_the_others() {
        // Sound comes half a second after the first picture, and 200 ms later than pictures, as admission has told.
        let mut timeline = timeline();
        let place = |timeline: &mut Timeline| timeline.place(0, u32::MAX - 10).expect("there");
        for at in (0..10_000).step_by(40) {
            timeline.observe(0, (u32::MAX - 10).wrapping_add(at * 90), ms(119_805 + u64::from(at)));
            if at >= 500 {
                timeline.observe(1, 7 + at * 48, ms(120_005 + u64::from(at)));
            }
            assert_eq!(place(&mut timeline), ms(120_005), "after {at} ms");
        }
        // Where no sound comes at all, pictures are followed.
        let mut timeline = self::timeline();
        for at in (0..4_000).step_by(40) {
            timeline.observe(0, (u32::MAX - 10).wrapping_add(at * 90), ms(119_805 + u64::from(at)));
        }
        assert_eq!(timeline.offset_us(), 114_805_000);
    }

    #[test]
    fn what_is_late_after_a_silence_moves_nothing() {
        let mut timeline = timeline();
        for at in (0..60_000_u32).step_by(40).filter(|at| !(20_000..30_000).contains(at)) {
            // A source that is back catches up within a fraction of a second.
            let late = u64::from(30_300_u32.saturating_sub(at).min(300)) * u64::from(at >= 30_000);
            let now = ms(120_005 + u64::from(at) + late);
            timeline.observe(0, (u32::MAX - 10).wrapping_add(at * 90), now);
            timeline.observe(1, 7 + at * 48, now);
            assert_eq!(timeline.offset_us(), 115_005_000, "after {at} ms");
        }
    }

    #[test]
    fn a_path_that_grows_longer_than_there_is_room_for_is_followed_with_a_jump() {
        for (room, jumps) in [(None, false), (Some(ms(50)), true), (Some(ms(120)), false)] {
            let mut timeline = timeline();
            if let Some(room) = room {
                timeline.set_room(room);
            }
            for frame in 0..250u64 {
                let at = frame * 40;
                let longer = if frame < 25 { 0 } else { 100 };
                let timestamp = (u32::MAX - 10).wrapping_add((at * 90) as u32);
                timeline.observe(0, timestamp, ms(120_005 + at + longer));
            }
            let place = timeline.place(0, (u32::MAX - 10).wrapping_add(10 * 90_000));
            let later = place.expect("there") - ms(130_005);
            assert_eq!(later >= ms(98), jumps, "{room:?}: {later:?}");
            assert!(later >= ms(20), "{room:?}: {later:?}");
        }
    }

    #[test]
    fn both_tracks_keep_one_offset_and_it_follows_the_slower() {
        let mut timeline = timeline();
        for second in 0..60u64 {
            for part in 0..25u64 {
                let at = second * 1000 + part * 40;
                let jitter = (at * 7919) % 23;
                let video = (u32::MAX - 10).wrapping_add((at * 90) as u32);
                let audio = 7u32.wrapping_add((at * 48) as u32);
                timeline.observe(0, video, ms(120_000 + at + 30 + jitter));
                timeline.observe(1, audio, ms(120_000 + at + 12 + jitter));
            }
        }
        let video = timeline.place(0, (u32::MAX - 10).wrapping_add(60 * 90_000)).expect("there");
        let audio = timeline.place(1, 7u32.wrapping_add(60 * 48_000)).expect("there");
        assert_eq!(video, audio, "lip sync");
        let error = video.as_secs_f64() - 180.030;
        assert!(error.abs() < 0.004, "{error}");
    }

    #[test]
    fn sound_that_comes_in_pieces_moves_nothing() {
        let mut timeline = timeline();
        for at in (0..10_000u64).step_by(20) {
            let video = (u32::MAX - 10).wrapping_add((at * 90) as u32);
            timeline.observe(0, video, ms(120_005 + at));
            // Of 400 ms each, sent when the last of it is there.
            let audio = 7u32.wrapping_add((at * 48) as u32);
            timeline.observe(1, audio, ms(120_005 + at / 400 * 400 + 380));
            assert_eq!(timeline.place(0, video), Some(ms(120_005 + at)));
        }
    }

    #[test]
    fn clocks_that_drift_for_ten_minutes_keep_tracks_and_latency_together() {
        for ppm in [-200i64, 200] {
            let mut timeline = timeline();
            let mut worst: (f64, f64) = (0.0, 0.0);
            for at in (0..600_000u64).step_by(20) {
                let video = (u32::MAX - 10).wrapping_add((at * 90) as u32);
                let audio = 7u32.wrapping_add((at * 48) as u32);
                // What the viewer's clock shows when a packet without jitter arrives.
                let drifted = (at as i64 * 1_000 + at as i64 * ppm / 1_000) as u64;
                let due = ms(120_030) + Duration::from_micros(drifted);
                let jitter = ms((at * 7919) % 23);
                timeline.observe(0, video, due + jitter);
                timeline.observe(1, audio, due + jitter);
                let places = [timeline.place(0, video), timeline.place(1, audio)];
                let [video, audio] = places.map(|place| place.expect("there").as_secs_f64());
                worst.0 = worst.0.max((video - audio).abs());
                if at > 10_000 {
                    worst.1 = worst.1.max((video - due.as_secs_f64()).abs());
                }
            }
            assert!(worst.0 < 0.001 && worst.1 < 0.01, "{ppm}: {worst:?}");
        }
    }

    #[test]
    fn an_absurd_admission_is_no_crash() {
        for capture_now in [Duration::ZERO, Duration::MAX] {
            let far = TrackClock { clock_rate: 1, rtp_timestamp: 0, captured_us: u64::MAX };
            let mut timeline = Timeline::new(&[far], capture_now, Duration::MAX, ms(1));
            for timestamp in [0, 1, u32::MAX / 2, u32::MAX] {
                timeline.observe(0, timestamp, ms(2));
                assert!(timeline.place(0, timestamp).is_some());
            }
        }
    }

    #[test]
    fn a_changed_path_is_followed_at_once() {
        let mut timeline = timeline();
        for at in (0..5_000u64).step_by(40) {
            let timestamp = (u32::MAX - 10).wrapping_add((at * 90) as u32);
            timeline.observe(0, timestamp, ms(120_000 + at + 300));
        }
        assert_eq!(timeline.place(0, u32::MAX - 10), Some(ms(120_300)));
    }
}
