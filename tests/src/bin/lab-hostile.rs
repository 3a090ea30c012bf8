//! Viewers that are let in and then say whatever the protocol has words for: requests of all kinds in any order, wishes
//! for packets that never were, reports of impossible reception. Each message is well-formed.
//!
//! `lab-hostile LINK FILE MESSAGES...`: the link of a live channel, a stored file beside it, and how many messages are
//! sent in each round. Prints `round 1` and so on when all were sent and everybody is gone, and is then quiet for some
//! seconds. Whom the broadcaster ends, connects again.
//!
//! `lab-hostile --stay LINK MESSAGES...`: the same with what is live alone, and all of them are still there when a round
//! is over.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use protocol::control::{Request, Response};
use protocol::feedback::{Ask, Block, MOST_ASKS, MOST_NAMED, Times, Totals, What, Wish};
use protocol::library::Digest;
use protocol::link::{Link, Target as Named};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use service::log::LogFormat;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use viewer::config::Target;
use viewer::opener::{Happening, Opener, Options};

/// How many there are at once, and how much each says in a second: twice as much as is heard of it.
const AT_ONCE: u64 = 8;
const RATE: u64 = 500;

/// What is said at once.
const LOT: u64 = 10;

/// Messages of one connection, at most.
const OF_ONE: u64 = 4_000;

/// Of so many messages one is a request.
const REQUESTS: u32 = 25;

/// How long nothing is said behind each round.
const QUIET: Duration = Duration::from_secs(18);

/// Connections that fail, one after the other, before it is given up.
const MOST_FAILURES: u32 = 50;

/// Whom all of them annoy.
struct Victim {
    live: Link,
    /// A stored file, for those that come and go.
    file: Option<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    service::log::init(LogFormat::Text);
    let (link, file, rounds) = match &arguments[..] {
        [stay, link, rounds @ ..] if stay == "--stay" => (link, None, rounds),
        [link, file, rounds @ ..] => (link, Some(file.clone()), rounds),
        _ => bail!("expected LINK FILE MESSAGES... or --stay LINK MESSAGES..., got {arguments:?}"),
    };
    let victim = Arc::new(Victim { live: link.parse()?, file });
    let left = Arc::new(AtomicU64::new(0));
    let hostile = |at| Hostile {
        victim: Arc::clone(&victim),
        left: Arc::clone(&left),
        rng: SmallRng::seed_from_u64(at),
        opener: None,
    };
    let mut all: Vec<Hostile> = (0..AT_ONCE).map(hostile).collect();
    for (at, count) in rounds.iter().enumerate() {
        left.store(count.parse()?, Ordering::Relaxed);
        let mut annoying = JoinSet::new();
        for (at, mut hostile) in (0..).zip(all.drain(..)) {
            annoying.spawn(async move { hostile.annoy(at).await.map(|()| hostile) });
        }
        let annoyed: Result<Vec<_>> = annoying.join_all().await.into_iter().collect();
        writeln!(std::io::stdout(), "round {}", at + 1)?;
        let mut quiet = JoinSet::new();
        for mut hostile in annoyed? {
            quiet.spawn(async move {
                let _ = tokio::time::timeout(QUIET, hostile.is_quiet()).await;
                hostile
            });
        }
        all = quiet.join_all().await;
    }
    Ok(())
}

struct Hostile {
    victim: Arc<Victim>,
    /// Messages that all of them together are still to send.
    left: Arc<AtomicU64>,
    rng: SmallRng,
    /// Of one that stays.
    opener: Option<Opener>,
}

impl Hostile {
    async fn annoy(&mut self, at: u64) -> Result<()> {
        match self.victim.file.is_some() {
            true => self.come_and_go(at).await,
            false => self.stay().await,
        }
    }

    /// Says its part on one connection, for as long as the broadcaster bears it, and keeps that.
    async fn stay(&mut self) -> Result<()> {
        let mut failures = 0;
        while self.left.load(Ordering::Relaxed) > 0 || self.opener.is_none() {
            let mut opener = match self.opener.take() {
                Some(opener) => opener,
                None => match self.connect(false).await {
                    Ok(opener) => opener,
                    Err(error) if failures < MOST_FAILURES => {
                        tracing::debug!("{error:#}");
                        failures += 1;
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            failures = 0;
            self.opener = self.talk(&mut opener, u64::MAX).await.then_some(opener);
        }
        Ok(())
    }

    /// Keeps its connection, and waits for ever.
    async fn is_quiet(&mut self) {
        while let Some(opener) = &mut self.opener {
            if matches!(opener.next().await, Ok(Happening::Ended) | Err(_)) {
                self.opener = None;
            }
        }
        std::future::pending().await
    }

    async fn come_and_go(&mut self, at: u64) -> Result<()> {
        let mut failures = 0;
        let mut is_file = at % 2 == 1;
        while self.left.load(Ordering::Relaxed) > 0 {
            match self.connect(is_file).await {
                Ok(mut opener) => {
                    failures = 0;
                    self.talk(&mut opener, OF_ONE).await;
                    // Half of them go without a word.
                    if self.rng.random_bool(0.5) {
                        opener.close().await;
                    }
                }
                Err(error) if failures < MOST_FAILURES => {
                    tracing::debug!("{error:#}");
                    failures += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
            }
            is_file = !is_file;
        }
        Ok(())
    }

    async fn connect(&self, is_file: bool) -> Result<Opener> {
        let mut link = self.victim.live.clone();
        if let (true, Some(file)) = (is_file, &self.victim.file) {
            link.target = Named::File(file.clone());
        }
        let target = Target {
            by_hand: None,
            receive_port: None,
            link,
            allow_private: false,
            port_mapping: false,
            use_relay: false,
            relay: None,
            log_format: LogFormat::Text,
        };
        let options = Options { looks_at_nat: false, ..Options::default() };
        let mut opener = Opener::meet(&target, options).await.context("meeting")?;
        opener.watch(&target).await.context("watching")?;
        Ok(opener)
    }

    /// Says its part, of so much at most. False where it was ended.
    async fn talk(&mut self, opener: &mut Opener, most: u64) -> bool {
        let mut lots = tokio::time::interval(Duration::from_secs(1) * LOT as u32 / RATE as u32);
        lots.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Streams stay open for as long as the connection.
        let mut streams = Vec::new();
        let mut said = 0;
        while said < most && self.left.load(Ordering::Relaxed) > 0 {
            tokio::select! {
                happening = opener.next() => match happening {
                    Ok(Happening::Ended) | Err(_) => return false,
                    Ok(Happening::Moved(_) | Happening::Watching) => continue,
                },
                _ = lots.tick() => {}
            }
            for _ in 0..LOT {
                if self.rng.random_ratio(1, REQUESTS) {
                    let request = self.request();
                    let Ok((send, receive, response)) = opener.ask(&request).await else {
                        return false;
                    };
                    // What goes on is listened to now and then; of contents nothing is read.
                    let goes_on = matches!(response, Response::Playing { .. });
                    if goes_on && self.rng.random_bool(0.8) {
                        streams.push((send, receive));
                    }
                } else if let Some(mouth) = opener.mouth() {
                    match self.rng.random_bool(0.5) {
                        true => mouth.wish(&self.wish()),
                        false => {
                            let blocks: Vec<Block> =
                                (0..self.rng.random_range(0..40)).map(|_| self.block()).collect();
                            mouth.report(&blocks, &self.totals(), self.times());
                        }
                    }
                }
            }
            said += LOT;
            // Never below none.
            let less = |left: u64| Some(left.saturating_sub(LOT));
            let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
        true
    }

    /// Nothing, everything, the ends of smaller numbers, and some between.
    fn number(&mut self) -> u64 {
        let ends =
            [0, 1, 255, 256, 65_535, 65_536, u64::from(u32::MAX), 1 << 40, 1 << 48, u64::MAX];
        match self.rng.random_range(0..3) {
            0 => ends[self.rng.random_range(0..ends.len())],
            1 => self.rng.random_range(0..2_000),
            _ => self.rng.random(),
        }
    }

    fn small(&mut self) -> u32 {
        self.number() as u32
    }

    fn path(&mut self) -> String {
        match self.rng.random_range(0..20) {
            0 => "../../etc/passwd".into(),
            1 => "x".repeat(self.rng.random_range(1_000..1_100)),
            2 => "a/\u{1b}[2J\u{202e}\0".into(),
            _ => self.victim.file.clone().unwrap_or_else(|| "none.mp4".into()),
        }
    }

    fn request(&mut self) -> Request {
        let secret = None;
        match self.rng.random_range(0..100) {
            0..20 => Request::List { secret },
            20..40 => {
                let after = self.rng.random_bool(0.5).then(|| self.path());
                Request::Files { secret, after }
            }
            40..60 => Request::Clock,
            60..75 => Request::Thumbnail { path: self.path(), secret },
            75..85 => Request::Pause { ssrc: self.small() },
            85..91 => {
                let mut digest = [0; 32];
                self.rng.fill_bytes(&mut digest);
                let digest = self.rng.random_bool(0.5).then_some(Digest(digest));
                Request::Fetch { path: self.path(), secret, offset: self.number(), digest }
            }
            91..98 => Request::Play {
                path: self.path(),
                secret,
                latency_ms: self.small(),
                position_us: self.number(),
                rate_percent: if self.rng.random_bool(0.7) { 100 } else { self.small() },
                sound: self.rng.random_range(0..3),
                pace_bps: self.rng.random_bool(0.5).then(|| self.number()),
            },
            _ => Request::Watch { channel: self.path(), secret, latency_ms: self.small() },
        }
    }

    fn wish(&mut self) -> Wish {
        let asks = (0..self.rng.random_range(0..=MOST_ASKS + 4)).map(|_| self.ask()).collect();
        Wish { loss: self.small() as u8, takes_repair: self.rng.random(), asks }
    }

    fn ask(&mut self) -> Ask {
        let what = match self.rng.random_range(0..3) {
            0 => What::Packets {
                first: self.number(),
                others: (0..self.rng.random_range(0..MOST_NAMED / 8))
                    .map(|_| self.small() as u16)
                    .collect(),
            },
            1 => What::Block { base: self.number(), lacks: self.small() as u8 },
            _ => What::Behind {
                index: self.number(),
                newest: self.number(),
                silence_us: self.small(),
            },
        };
        let (serial, ssrc) = (self.small(), self.small());
        Ask { serial, ssrc, rounds_left: self.small() as u8, what }
    }

    fn block(&mut self) -> Block {
        Block {
            ssrc: self.small(),
            fraction_lost: self.small() as u8,
            cumulative_lost: self.small(),
            highest_index: self.small(),
            jitter: self.small(),
        }
    }

    fn totals(&mut self) -> Totals {
        Totals {
            received: self.number(),
            lost: self.number(),
            recovered_nack: self.number(),
            recovered_fec: self.number(),
            unrecovered: self.number(),
            duplicates: self.number(),
            late: self.number(),
            corrupt: self.number(),
            bytes: self.number(),
        }
    }

    fn times(&mut self) -> Times {
        let time = |hostile: &mut Self| {
            hostile.rng.random_bool(0.8).then(|| Duration::from_micros(hostile.number()))
        };
        Times { rtt: time(self), latency: time(self), shown: time(self), carried: None }
    }
}
