//! What viewers cost each, from ten of them to ten thousand.

use std::path::Path;

use anyhow::Result;
use tests::bench::{Samples, Spread};
use tests::load::Clip;

use crate::network::Network;
use crate::report::GrowthRow;
use crate::round::Round;
use crate::{Extent, progress};

/// In real time, and at five access units a second, which two processors can send to ten thousand. In
/// the second kind media ends at the far interface: the viewers would be what is measured.
const REAL_TIME: [u32; 3] = [10, 100, 1000];
const SLOW: [u32; 4] = [100, 1000, 5000, 10_000];
const SLOW_FRAMERATE: u32 = 5;

/// What could be measured; the rest is entered in `missing`.
pub(crate) fn measure(
    network: &Network,
    folder: &Path,
    extent: Extent,
    from: u32,
    missing: &mut Vec<String>,
) -> Vec<GrowthRow> {
    let usual = Clip::default();
    let slow = Clip {
        // The same access units.
        bits_per_second: usual.bits_per_second / usual.framerate * SLOW_FRAMERATE,
        framerate: SLOW_FRAMERATE,
        seconds: usual.seconds * usual.framerate / SLOW_FRAMERATE,
        ..usual
    };
    let kinds = REAL_TIME.map(|viewers| (viewers, usual, false)).into_iter();
    let kinds: Vec<_> = kinds.chain(SLOW.map(|viewers| (viewers, slow, true))).collect();
    let mut rows = Vec::new();
    for (full, clip, drops_media) in kinds.into_iter().filter(|(viewers, ..)| *viewers >= from) {
        let (viewers, seconds) = (extent.viewers(full), extent.seconds);
        let round = Round { viewers, clip, offload: true, drops_media, seconds };
        match row(network, folder, round, extent.repetitions) {
            Ok(row) => rows.push(row),
            Err(error) => missing.push(format!("{error:#}")),
        }
    }
    rows
}

fn row(network: &Network, folder: &Path, round: Round, repetitions: u32) -> Result<GrowthRow> {
    let Round { viewers, clip, .. } = round;
    let mut samples: [Samples; 5] = Default::default();
    let mut void_runs = 0;
    for repetition in 1..=repetitions {
        progress(&format!(
            "growth, {repetition} of {repetitions}: {viewers} viewers, {} pictures a second",
            clip.framerate
        ));
        let measured = round.measure(network, folder)?;
        progress(&format!(
            "… {:.3} µs a packet, {:.3} µs without what it takes by itself, bare loop {:.3} µs, \
             {:.1} KiB a viewer",
            measured.broadcaster_us,
            measured.marginal_us,
            measured.bare_us,
            measured.resident / 1024.0
        ));
        void_runs += measured.void;
        let values = [
            measured.broadcaster_us,
            measured.bare_us,
            measured.marginal_us,
            measured.marginal_us * measured.packets_per_second,
            measured.resident / 1024.0,
        ];
        samples.iter_mut().zip(values).for_each(|(samples, value)| samples.add(value));
    }
    let [
        cpu_us_per_packet,
        bare_us_per_packet,
        marginal_us_per_packet,
        per_viewer_second,
        resident_kib,
    ] = samples.each_ref().map(Spread::from);
    Ok(GrowthRow {
        viewers,
        framerate: clip.framerate,
        cpu_us_per_packet,
        bare_us_per_packet,
        marginal_us_per_packet,
        cpu_us_per_viewer_second: per_viewer_second,
        resident_kib_per_viewer: resident_kib,
        void_runs,
    })
}
