//! Transport streams by SRT, from senders that call or from those that are called.

use std::sync::Arc;

use gstreamer::prelude::*;

use super::super::elements::make;
use super::super::error::MediaError;
use super::super::fragment;
use super::super::track::{Live, Timing, cannot_build};
use super::steady;
use super::url::Srt;

/// Waits for a sender, or calls one, and takes its stream apart.
pub(super) fn attach(live: &Arc<Live>, srt: &Srt) -> Result<(), MediaError> {
    // Whoever is away is called again by starting anew.
    let source = make("srtsrc", &[("auto-reconnect", "false")])?;
    let host = match srt.host.contains(':') {
        true => format!("[{}]", srt.host),
        false => srt.host.clone(),
    };
    let mode = if srt.listens { "listener" } else { "caller" };
    source.set_property("uri", format!("srt://{host}:{}?mode={mode}", srt.port));
    if let Some(latency) = srt.latency {
        source.set_property("latency", i32::from(latency));
    }
    if let Some(stream_id) = &srt.stream_id {
        source.set_property("streamid", stream_id);
    }
    if let Some(passphrase) = &srt.passphrase {
        source.set_property("passphrase", passphrase);
    }
    let demultiplexer = make("tsdemux", &[])?;
    live.add(&source)?;
    live.add(&demultiplexer)?;
    source.link(&demultiplexer).map_err(cannot_build)?;
    steady::steady(live, &demultiplexer)?;
    fragment::attach_late(live, &[&demultiplexer], Timing::Interleaved);
    Ok(())
}
