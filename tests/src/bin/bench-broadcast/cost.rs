//! What 1,000 viewers cost: the whole broadcaster against a bare loop.

use std::collections::BTreeMap;
use std::path::Path;

use tests::bench::{Samples, Spread};
use tests::load::Clip;

use crate::network::Network;
use crate::report::CostRow;
use crate::round::{Measured, Round};
use crate::{Extent, progress};

const VIEWERS: u32 = 1000;

/// What one row measures.
#[derive(Clone, Copy)]
struct Kind {
    /// Whether the interface takes messages of several datagrams whole.
    offload: bool,
    has_sound: bool,
    /// Whether packets come to viewers, which costs the sender on this machine, or end at the far interface.
    is_delivered: bool,
}

/// Without offload, a thousand viewers that take every datagram by itself are more than two processors carry
/// beside the sender.
const KINDS: [Kind; 5] = [
    Kind { offload: true, has_sound: false, is_delivered: true },
    Kind { offload: true, has_sound: true, is_delivered: true },
    Kind { offload: true, has_sound: false, is_delivered: false },
    Kind { offload: false, has_sound: false, is_delivered: false },
    Kind { offload: false, has_sound: true, is_delivered: false },
];

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
        for (at, Kind { offload, has_sound, is_delivered }) in KINDS.into_iter().enumerate() {
            progress(&format!(
                "cost, {repetition} of {}: offload {offload}, sound {has_sound}, delivered {is_delivered}",
                extent.repetitions
            ));
            let clip = Clip { has_sound, ..Clip::default() };
            let seconds = extent.seconds;
            let drops_media = !is_delivered;
            let round = Round { viewers, clip, offload, drops_media, seconds };
            let measured = match round.measure(network, folder) {
                Ok(measured) => measured,
                Err(error) => {
                    progress(&format!("… {error:#}"));
                    missing.push(format!("{error:#}"));
                    continue;
                }
            };
            let Measured { broadcaster_us, bare_us, .. } = measured;
            progress(&format!("… {broadcaster_us:.3} µs a packet, bare loop {bare_us:.3} µs"));
            let ([broadcaster, bare, ratio], void) = samples.entry(at).or_default();
            *void += measured.void;
            broadcaster.add(measured.broadcaster_us);
            bare.add(measured.bare_us);
            ratio.add(measured.broadcaster_us / measured.bare_us);
        }
    }
    let rows = samples.into_iter().flat_map(|(at, ([broadcaster, bare, ratio], void_runs))| {
        let Kind { offload, has_sound, is_delivered } = KINDS[at];
        let one = |sender: &'static str, samples: &Samples, to_bare: &Samples| CostRow {
            sender,
            viewers,
            offload,
            has_sound,
            is_delivered,
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
