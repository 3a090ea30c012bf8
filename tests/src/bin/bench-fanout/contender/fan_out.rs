//! Our own: the broadcaster's fan-out as it runs there, fed with ready bursts.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use broadcaster::ChannelMetrics;
use broadcaster::fanout::{Burst, FanOut};
use nix::sys::socket::{setsockopt, sockopt::SndBuf};
use protocol::channel::{Channel, History, JoinPacing, ViewerId};
use protocol::units::Bitrate;
use transport::kernel;

use super::{Cost, SEND_BUFFER, Task};
use crate::stream;

/// How fast joining viewers are served. Nothing is in the history yet when they join.
const JOIN_RATE: Bitrate = Bitrate::bits_per_second(20_000_000);

/// Where the socket is bound: what the broadcaster does unless told otherwise.
const BIND: &str = "0.0.0.0:0";

pub(super) fn run(task: &Task) -> Result<Cost> {
    let units = (0..task.all_units()).map(stream::plain).collect::<Result<Vec<_>>>()?;
    let socket = UdpSocket::bind(BIND)?;
    setsockopt(&socket, SndBuf, &SEND_BUFFER)?;
    // The broadcaster's is shared with an asynchronous receiver.
    socket.set_nonblocking(true)?;
    let pacing = JoinPacing { each: JOIN_RATE, total: None };
    let channel = Channel::new(&stream::key(), &[stream::SSRC], History::default(), pacing);
    let metrics = Arc::new(ChannelMetrics::default());
    let sender = kernel::Sender::new(socket)?;
    let (fan_out, thread) = FanOut::start(channel, 1, sender, Arc::clone(&metrics), || {})?;
    join_all(&fan_out, &metrics, task.viewers)?;
    let began = task.play(units, |unit, packets| {
        let keyframe = stream::is_keyframe(unit);
        fan_out.publish(Burst { track: 0, keyframe, captured_at: Instant::now(), packets });
        Ok(())
    })?;
    // Ends when all bursts are sent.
    drop(fan_out);
    thread.join().map_err(|_| anyhow!("the fan-out thread panicked"))?;
    let cost = task.cost_since(began)?;
    ensure!(metrics.bursts_dropped.get() == 0, "the fan-out dropped access units");
    Ok(cost)
}

/// Returns when all viewers are at the live edge.
fn join_all(fan_out: &FanOut, metrics: &ChannelMetrics, viewers: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        for (at, address) in stream::viewers(viewers).enumerate() {
            let joined = fan_out.join(ViewerId(at as u32), SocketAddr::V4(address)).await;
            joined.context("the fan-out ended")?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    // The last one is told where the tracks stand a moment before it turns live.
    std::thread::sleep(Duration::from_millis(50));
    ensure!(metrics.joining.get() == 0, "{} viewers are not live", metrics.joining.get());
    Ok(())
}
