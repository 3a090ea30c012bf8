//! Routers that forget or change mid-stream, and how long the picture stays away.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::demux::{Class, classify};
use serde_json::Value;

use crate::lab::{Capture, Datagram, Nat, Result, Router, eventually};
use crate::stage::{Broadcast, Stage, Watching, count};

/// Delay of each side's link: 40 ms for the round trip between the two sides.
const ONE_WAY: Duration = Duration::from_millis(10);

/// Small, so that many can run at once, and with a packet in each picture.
const SOURCE: &str =
    "pipeline:videotestsrc is-live=true ! video/x-raw,width=320,height=180,framerate=30/1";
const PICTURES_A_SECOND: u64 = 30;

/// How long a stream is looked at after a mishap, in objects of statistics, one a second: the longest
/// outage allowed, and as long again in which it must go on.
const LOOKED_AT: usize = 5;

/// Where a port is kept, the next packet of either side opens the path again. So short a silence is no
/// outage to a viewer.
const NOT_NOTICED: Duration = Duration::from_millis(300);

/// How long a viewer may take to begin, on a busy machine.
const BEGINNING: Duration = Duration::from_secs(20);

/// What happens to a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mishap {
    /// Its table is empty, as after a restart.
    Flush,
    /// Its provider gives it another address.
    NewAddress,
}

/// Whose router it happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The broadcaster's: all viewers are cut off.
    Broadcaster,
    /// Each viewer's, all at once.
    Viewers,
}

/// All mishaps on both sides.
pub const MISHAPS: [(Side, Mishap); 4] = [
    (Side::Viewers, Mishap::Flush),
    (Side::Broadcaster, Mishap::Flush),
    (Side::Viewers, Mishap::NewAddress),
    (Side::Broadcaster, Mishap::NewAddress),
];

/// What one mishap cost one viewer.
#[derive(Debug, Clone)]
pub struct Outage {
    /// The broadcaster's NAT.
    pub home: Nat,
    /// The viewer's.
    pub viewer: Nat,
    /// Where it happened.
    pub side: Side,
    /// What happened.
    pub mishap: Mishap,
    /// From the last media datagram that came to the next.
    pub lasted: Duration,
    /// Pictures that were not decoded.
    pub missing: i64,
    /// Reconnects that the viewer counted.
    pub reconnects: u64,
    /// The path that it took then.
    pub path: String,
}

impl Outage {
    /// The longest allowed: more where a router may have taken the port for itself, which only another
    /// socket helps against.
    pub fn limit(&self) -> Duration {
        let rebinds = [self.home, self.viewer].contains(&Nat::NoDrop);
        Duration::from_secs(if rebinds { 2 } else { 1 })
    }

    /// Whether it was short enough, and counted as a reconnect unless it was over before a viewer
    /// could tell it from jitter.
    pub fn is_well(&self) -> bool {
        self.lasted <= self.limit() && (self.reconnects > 0 || self.lasted <= NOT_NOTICED)
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { home, viewer, side, mishap, lasted, missing, reconnects, path } = self;
        write!(
            f,
            "{mishap:?} at {side:?}, home {home:?}, viewer {viewer:?}: {} ms, {missing} pictures, \
             {reconnects} reconnects, then {path}",
            lasted.as_millis()
        )
    }
}

/// A broadcast that is being watched, and mishaps for it.
#[derive(Debug)]
pub struct Scene {
    stage: Stage,
    home: Nat,
    viewers: Vec<Nat>,
    broadcast: Broadcast,
    watching: Vec<(Watching, Capture)>,
}

impl Scene {
    /// A broadcaster behind a router of one kind, and a viewer behind one of each of the others.
    pub fn start(home: Nat, viewers: &[Nat]) -> Result<Self> {
        let stage = Stage::with_kinds(home, viewers, ONE_WAY)?;
        // It ends with the lab.
        let _rendezvous = stage.start_rendezvous()?;
        let broadcast = stage.broadcast("cam", SOURCE, "")?;
        let mut watching = Vec::new();
        for (at, (_, host)) in stage.viewers.iter().enumerate() {
            let capture = host.capture()?;
            watching.push((stage.watch(at, &broadcast.link, &["--output", "null"])?, capture));
        }
        for (viewer, _) in &watching {
            viewer.wait_for(BEGINNING, |stats| {
                stats["frames_decoded"].as_u64() > Some(3 * PICTURES_A_SECOND)
            });
        }
        Ok(Self { stage, home, viewers: viewers.to_vec(), broadcast, watching })
    }

    /// Lets it happen, looks on for some seconds, and gives what it cost each viewer.
    pub fn strike(&self, side: Side, mishap: Mishap) -> Result<Vec<Outage>> {
        let before: Vec<Vec<Value>> =
            self.watching.iter().map(|(viewer, _)| viewer.stats()).collect();
        let struck_at = now();
        match side {
            Side::Broadcaster => strike(&self.stage.home, mishap)?,
            Side::Viewers => {
                self.stage.viewers.iter().try_for_each(|(router, _)| strike(router, mishap))?;
            }
        }
        let mut outages = Vec::new();
        for (at, (viewer, capture)) in self.watching.iter().enumerate() {
            let wanted = before[at].len() + LOOKED_AT;
            let came = eventually(BEGINNING, || viewer.stats().len() >= wanted);
            assert!(came, "the viewer says nothing any more: {}", viewer.latest());
            let (first, last) = (before[at].last(), &viewer.stats()[wanted - 1]);
            let grown = |key| count(last, key) - first.map_or(0, |stats| count(stats, key));
            let pictures = LOOKED_AT as i64 * PICTURES_A_SECOND as i64;
            outages.push(Outage {
                home: self.home,
                viewer: self.viewers[at],
                side,
                mishap,
                lasted: longest_silence(&capture.datagrams()?, struck_at, now()),
                missing: pictures - grown("frames_decoded") as i64,
                reconnects: grown("reconnects"),
                path: last["path"].as_str().unwrap_or_default().to_owned(),
            });
        }
        Ok(outages)
    }

    /// Looks on for so long without any mishap.
    pub fn look_on(&self, time: Duration) {
        for (viewer, _) in &self.watching {
            let wanted = viewer.stats().len() + time.as_secs() as usize;
            let came = eventually(time + BEGINNING, || viewer.stats().len() >= wanted);
            assert!(came, "the viewer says nothing any more: {}", viewer.latest());
        }
    }

    /// The latest statistics of each viewer.
    pub fn latest(&self) -> Vec<Value> {
        self.watching.iter().map(|(viewer, _)| viewer.latest()).collect()
    }

    /// Makes sure that the broadcaster took no viewer for a new one, then or since.
    pub fn check_viewers(&self) -> Result<()> {
        assert_eq!(self.stage.metric("punchcast_viewers")?, self.viewers.len() as f64);
        let log = self.broadcast.process.stderr().text();
        assert_eq!(log.matches("viewer_joined").count(), self.viewers.len(), "{log}");
        Ok(())
    }
}

fn strike(router: &Router, mishap: Mishap) -> Result<()> {
    match mishap {
        Mishap::Flush => router.flush_mappings(),
        Mishap::NewAddress => router.change_external_address().map(drop),
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970")
}

/// The longest time without media that ends behind `from`, or goes on until `to`.
fn longest_silence(datagrams: &[Datagram], from: Duration, to: Duration) -> Duration {
    let times = datagrams.iter().filter(|datagram| is_media(&datagram.payload)).map(|d| d.at);
    let times: Vec<Duration> = times.chain([to]).collect();
    let pairs = times.windows(2).filter(|pair| pair[1] > from);
    pairs.map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or(to)
}

/// Whether a datagram is media, by itself or from a relay.
fn is_media(datagram: &[u8]) -> bool {
    let relayed = channel_data(datagram).or_else(|| data_indication(datagram));
    classify(relayed.unwrap_or(datagram)) == Class::Media
}

/// What a ChannelData message carries (RFC 8656, section 12.4).
fn channel_data(datagram: &[u8]) -> Option<&[u8]> {
    let (header, data) = datagram.split_at_checked(4)?;
    let is_channel = (0x40..0x50).contains(&header[0]);
    data.get(..half(header, 2)?).filter(|_| is_channel)
}

/// The DATA attribute of a Data indication (RFC 8656, section 11.6).
fn data_indication(datagram: &[u8]) -> Option<&[u8]> {
    const DATA_INDICATION: usize = 0x0017;
    const DATA: usize = 0x0013;
    if half(datagram, 0)? != DATA_INDICATION {
        return None;
    }
    let mut attributes = datagram.get(20..)?;
    loop {
        let (kind, length) = (half(attributes, 0)?, half(attributes, 2)?);
        let value = attributes.get(4..4 + length)?;
        if kind == DATA {
            return Some(value);
        }
        attributes = attributes.get(4 + length.next_multiple_of(4)..)?;
    }
}

/// A 16-bit field in network order.
fn half(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?).into())
}
