//! The viewer's timeline, fed with what an admission and packets might say.

use std::time::Duration;

use arbitrary::{Result, Unstructured};
use punchcast_protocol::timeline::{Timeline, TrackClock};

use super::choose::{Input, goes_on, several};

/// Places and observes packets with any timestamps at any times.
pub fn run(data: &[u8]) {
    // An error means that the input ran out.
    let _ = driven(&mut Unstructured::new(data));
}

fn driven(input: &mut Input<'_>) -> Result<()> {
    let clock = |input: &mut Input<'_>| {
        Ok(TrackClock {
            clock_rate: input.arbitrary()?,
            rtp_timestamp: input.arbitrary()?,
            captured_us: input.arbitrary()?,
        })
    };
    let tracks = several(input, 3, clock)?;
    let [capture_now, send_lag] = input.arbitrary::<[u64; 2]>()?.map(Duration::from_micros);
    let mut local_now = Duration::from_micros(input.arbitrary::<u64>()? >> 8);
    let mut timeline = Timeline::new(&tracks, capture_now, send_lag, local_now);
    while goes_on(input) {
        let track = input.int_in_range(0..=3usize)?;
        let timestamp = input.arbitrary()?;
        if input.arbitrary()? {
            local_now += Duration::from_micros(u64::from(input.arbitrary::<u32>()?));
            timeline.observe(track, timestamp, local_now);
        }
        let place = timeline.place(track, timestamp);
        assert_eq!(place.is_some(), track < tracks.len());
        assert_eq!(timeline.place(track, timestamp), place, "placing changes nothing");
        let _ = timeline.offset_us();
    }
    Ok(())
}
