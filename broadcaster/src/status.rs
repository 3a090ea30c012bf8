//! What the status page shows: `/api/status` of the metrics listener. It tells no addresses, links or keys.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use protocol::units::Bitrate;
use serde_json::{Map, Value, json};

use crate::live::Live;
use crate::shared::Shared;

/// Shows a broadcaster's state, once it has one. It holds nothing alive.
#[derive(Default)]
pub(crate) struct Status(OnceLock<Weak<Shared>>);

impl Status {
    /// From now on there is something to show.
    pub(crate) fn tell_of(&self, shared: &Arc<Shared>) {
        // Nothing else sets it.
        let _ = self.0.set(Arc::downgrade(shared));
    }

    /// The broadcaster's part of the page.
    pub(crate) fn show(&self) -> Map<String, Value> {
        let Some(shared) = self.0.get().and_then(Weak::upgrade) else {
            return object(json!({ "source": null, "channels": [], "viewers": [], "events": [] }));
        };
        let metrics = &shared.metrics;
        let kinds: BTreeSet<&str> = shared.live.iter().map(|live| &*live.kind).collect();
        let kinds: Vec<&str> = kinds.into_iter().collect();
        let source = if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") };
        let budget = shared.uplink.carried().map(Bitrate::as_bits_per_second);
        object(json!({
            "nat": shared.surroundings.behaviour().kind().as_str(),
            "source": source,
            "uplink": {
                "used_bps": metrics.uplink_used().as_bits_per_second(),
                "budget_bps": budget,
                "is_full": shared.audience.is_uplink_full(),
            },
            "channels": channels(&shared),
            "viewers_total": shared.audience.len(),
            "viewers_lossy": metrics.lossy.get(),
            "viewers": shared.audience.shown(),
            "totals": metrics.totals(),
            "events": metrics.events.latest(),
        }))
    }
}

fn channels(shared: &Shared) -> Vec<Value> {
    let show = |live: &Arc<Live>| {
        let channel = live.channel.borrow().clone().filter(|_| !live.is_over())?;
        let metrics = &live.metrics;
        let tracks: Vec<Value> = channel
            .formats
            .iter()
            .map(|format| json!({ "kind": format.kind.to_string(), "encoding": format.encoding_name }))
            .collect();
        let (gop, age) = metrics.gop(Instant::now());
        Some(json!({
            "name": &*channel.name,
            "tracks": tracks,
            "bitrate_bps": metrics.stream().as_bits_per_second(),
            "viewers": live.places.taken(),
            "joining": metrics.joining.get(),
            "gop_seconds": gop,
            "keyframe_age_seconds": age,
        }))
    };
    shared.live.iter().filter_map(show).collect()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
