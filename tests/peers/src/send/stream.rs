//! The stream: read once, then played again and again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSrc};

/// Access units, ready to be sent.
#[derive(Debug)]
pub(super) struct Stream {
    caps: gst::Caps,
    units: Vec<gst::Buffer>,
}

impl Stream {
    /// Reads an elementary stream and cuts it into access units.
    pub(super) fn read(path: &Path) -> Result<Self> {
        std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let pipeline = gst::Pipeline::new();
        let path = path.to_str().context("the stream's path is not UTF-8")?;
        let source = gst::ElementFactory::make("filesrc").property("location", path).build()?;
        let parse = gst::ElementFactory::make("h264parse").build()?;
        let caps = gst::Caps::builder("video/x-h264")
            .field("stream-format", "byte-stream")
            .field("alignment", "au")
            .build();
        let sink = AppSink::builder().caps(&caps).sync(false).build();
        pipeline.add_many([&source, &parse, sink.upcast_ref()])?;
        gst::Element::link_many([&source, &parse, sink.upcast_ref()])?;
        pipeline.set_state(gst::State::Playing)?;
        let mut stream = Self { caps, units: Vec::new() };
        while let Ok(sample) = sink.pull_sample() {
            let mut buffer = sample.buffer_owned().context("a sample without a buffer")?;
            // Stamped again when it is sent.
            let unit = buffer.make_mut();
            unit.set_pts(None);
            unit.set_dts(None);
            stream.caps = sample.caps_owned().context("a sample without caps")?;
            stream.units.push(buffer);
        }
        pipeline.set_state(gst::State::Null)?;
        ensure!(!stream.units.is_empty(), "no H.264 stream in {path}");
        Ok(stream)
    }

    pub(super) fn caps(&self) -> &gst::Caps {
        &self.caps
    }

    /// Pushes an access unit each `interval` from a thread of its own.
    pub(super) fn play(self, source: AppSrc, interval: Duration) -> Player {
        let frames = Arc::new(AtomicU64::new(0));
        let stopped = Arc::new(AtomicBool::new(false));
        let (counted, stop) = (Arc::clone(&frames), Arc::clone(&stopped));
        let thread = thread::spawn(move || {
            let mut due_at = Instant::now();
            for unit in self.units.iter().cycle() {
                thread::sleep(due_at.saturating_duration_since(Instant::now()));
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                if let Err(error) = source.push_buffer(unit.copy()) {
                    bail!("the peer takes no more: {error}");
                }
                counted.fetch_add(1, Ordering::Relaxed);
                // A peer that is too slow for real time gets what it can take, and no pile of frames behind it.
                due_at = (due_at + interval).max(Instant::now());
            }
            Ok(())
        });
        Player { frames, stopped, thread }
    }
}

/// The thread that plays.
#[derive(Debug)]
pub(super) struct Player {
    frames: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Player {
    /// Access units pushed so far.
    pub(super) fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    pub(super) fn stop(self) -> Result<()> {
        self.stopped.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the playing thread panicked"))?
    }
}
