//! What the status page shows: `/api/status` of the metrics listener. It tells no addresses, links or keys.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use protocol::units::Bitrate;
use serde_json::{Map, Value, json};

use crate::shared::Shared;

/// Shows a broadcaster's state, once it has one. It holds nothing alive.
#[derive(Default)]
pub(crate) struct Status(OnceLock<(Weak<Shared>, String)>);

impl Status {
    /// From now on there is something to show.
    pub(crate) fn tell_of(&self, shared: &Arc<Shared>, source: &str) {
        // The kind alone: what follows may hold a password.
        let kind = source.split(':').next().unwrap_or_default().to_owned();
        // Nothing else sets it.
        let _ = self.0.set((Arc::downgrade(shared), kind));
    }

    /// The broadcaster's part of the page.
    pub(crate) fn show(&self) -> Map<String, Value> {
        let (shared, source) =
            self.0.get().map_or((None, ""), |(shared, source)| (shared.upgrade(), source.as_str()));
        let Some(shared) = shared else {
            return object(json!({ "source": null, "channels": [], "viewers": [], "events": [] }));
        };
        let metrics = &shared.metrics;
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
    let channel = shared.channel.borrow().clone();
    let metrics = &shared.metrics.channel;
    let show = |channel: crate::shared::LiveChannel| {
        let tracks: Vec<Value> = channel
            .formats
            .iter()
            .map(|format| json!({ "kind": format.kind.to_string(), "encoding": format.encoding_name }))
            .collect();
        let (gop, age) = metrics.gop(Instant::now());
        json!({
            "name": &*channel.name,
            "tracks": tracks,
            "bitrate_bps": metrics.stream().as_bits_per_second(),
            "viewers": shared.audience.len(),
            "joining": metrics.joining.get(),
            "gop_seconds": gop,
            "keyframe_age_seconds": age,
        })
    };
    channel.map(show).into_iter().collect()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
