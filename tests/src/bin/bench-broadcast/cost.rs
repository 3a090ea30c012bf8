//! What 1,000 viewers cost: the whole broadcaster against a bare loop.

use std::collections::BTreeMap;
use std::path::Path;

use tests::bench::{Samples, Spread};
use tests::load::Clip;

use crate::network::Network;
use crate::report::CostRow;
use crate::round::Round;
use crate::{Extent, progress};

const VIEWERS: u32 = 1000;

/// Interface with and without segmentation offload, stream without and with sound.
const KINDS: [(bool, bool); 4] = [(true, false), (true, true), (false, false), (false, true)];

/// What could be measured; the rest is entered in `missing`.
pub(crate) fn measure(
    network: &Network,
    folder: &Path,
    extent: Extent,
    missing: &mut Vec<String>,
) -> Vec<CostRow> {
    let viewers = extent.viewers(VIEWERS);
    let mut samples: BTreeMap<usize, ([Samples; 3], u32)> = BTreeMap::new();
    for repetition in 1..=extent.repetitions {
        for (at, (offload, has_sound)) in KINDS.into_iter().enumerate() {
            progress(&format!(
                "cost, {repetition} of {}: offload {offload}, sound {has_sound}",
                extent.repetitions
            ));
            let clip = Clip { has_sound, ..Clip::default() };
            let seconds = extent.seconds;
            let round = Round { viewers, clip, offload, drops_media: false, seconds };
            let measured = match round.measure(network, folder) {
                Ok(measured) => measured,
                Err(error) => {
                    missing.push(format!("{error:#}"));
                    continue;
                }
            };
            let ([broadcaster, bare, ratio], void) = samples.entry(at).or_default();
            *void += measured.void;
            broadcaster.add(measured.broadcaster_us);
            bare.add(measured.bare_us);
            ratio.add(measured.broadcaster_us / measured.bare_us);
        }
    }
    let rows = samples.into_iter().flat_map(|(at, ([broadcaster, bare, ratio], void_runs))| {
        let (offload, has_sound) = KINDS[at];
        let one = |sender: &'static str, samples: &Samples, to_bare: &Samples| CostRow {
            sender,
            viewers,
            offload,
            has_sound,
            cpu_us_per_packet: Spread::from(samples),
            to_bare: Spread::from(to_bare),
            void_runs,
        };
        let mut unit = Samples::default();
        unit.add(1.0);
        [one("broadcaster", &broadcaster, &ratio), one("bare sendmmsg+GSO", &bare, &unit)]
    });
    rows.collect()
}
