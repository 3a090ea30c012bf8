//! Our own: the broadcaster's fan-out as it runs there, fed with ready bursts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use broadcaster::ChannelMetrics;
use broadcaster::fanout::{Burst, FanOut, Target};
use protocol::channel::{Channel, History, JoinPacing, ViewerId};
use protocol::media::Kind;
use protocol::tag::TagKey;
use protocol::units::Bitrate;
use rand::Rng;
use transport::socket::Socket;
use zeroize::Zeroizing;

use super::{Cost, Task};
use crate::stream;

/// How fast joining viewers are served. Nothing is in the history yet when they join.
const JOIN_RATE: Bitrate = Bitrate::bits_per_second(20_000_000);

/// What viewers have by default.
const LATENCY: Duration = Duration::from_millis(200);

pub(super) fn run(task: &Task, tagged: bool) -> Result<Cost> {
    let units = (0..task.all_units()).map(stream::plain).collect::<Result<Vec<_>>>()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_io().build()?;
    let inside = runtime.enter();
    // Of both IP versions, which is what the broadcaster opens unless told otherwise.
    let socket = Arc::new(Socket::bind(None)?);
    drop(inside);
    let receiving = Arc::clone(&socket);
    runtime.spawn(async move { receiving.receive(1, |_, _, _| {}).await });
    let pacing = JoinPacing { each: JOIN_RATE, total: None };
    let channel = Channel::new(&stream::key(), &[stream::SSRC], History::default(), pacing);
    let metrics = Arc::new(ChannelMetrics::default());
    let (fan_out, worker) =
        FanOut::start(channel, &[Kind::Video], socket.sender()?, Arc::clone(&metrics), |_| {})?;
    runtime.block_on(join_all(&fan_out, task.viewers, tagged))?;
    // The last viewer is told where the tracks stand a moment before it turns live.
    thread::sleep(Duration::from_millis(50));
    ensure!(metrics.joining.get() == 0, "{} viewers are not live", metrics.joining.get());
    let began = task.play(units, |unit, packets| {
        let keyframe = stream::is_keyframe(unit);
        let now = Instant::now();
        let (captured_at, handed_over_at) = (now, now);
        fan_out.publish(Burst { track: 0, keyframe, captured_at, handed_over_at, packets });
        Ok(())
    })?;
    // Ends when all bursts are sent.
    drop(fan_out);
    worker.join().map_err(|_| anyhow!("the fan-out thread panicked"))?;
    let cost = task.cost_since(began)?;
    ensure!(metrics.bursts_dropped.get() == 0, "the fan-out dropped access units");
    Ok(cost)
}

async fn join_all(fan_out: &FanOut, viewers: usize, tagged: bool) -> Result<()> {
    for (at, address) in stream::viewers(viewers).enumerate() {
        let mut to = Target::from(SocketAddr::V4(address));
        if tagged {
            let mut key = Zeroizing::new([0; 16]);
            rand::rng().fill_bytes(&mut *key);
            to.tags = Some(Arc::new(TagKey::new(&key)));
        }
        let joined = fan_out.join(ViewerId(at as u32), to, LATENCY).await;
        joined.context("the fan-out ended")?;
    }
    Ok(())
}
