//! What sealing costs, which the fan-out pays once for all viewers.

use std::time::Instant;

use anyhow::Result;
use protocol::seal::Sealer;

use super::{Cost, Task};
use crate::stream;

pub(super) fn run(task: &Task) -> Result<Cost> {
    let units = (0..task.all_units()).map(stream::plain).collect::<Result<Vec<_>>>()?;
    let mut sealer = Sealer::new(&stream::key(), &[stream::SSRC]);
    let mut sealed = Vec::with_capacity(units.len());
    let captured_at = Instant::now();
    let began = task.play(units, |unit, packets| {
        // Kept, so that what freeing them costs is not taken for sealing.
        sealed.push(sealer.seal(0, stream::is_keyframe(unit), captured_at, packets)?);
        Ok(())
    })?;
    task.cost_since(began)
}
