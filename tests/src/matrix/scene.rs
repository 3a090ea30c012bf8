//! The network of the matrix, with its programs, and one try in it.

use std::collections::HashMap;
use std::process::Command;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use super::expect::{DIRECT_WITHIN, Expect};
use super::kind::Kind;
use super::record::{Profile, Record};
use super::tail::Tail;
use crate::lab::{
    self, Host, Impairment, Lab, Link, Loss, Output, Process, Result, Router, Signal,
};
use crate::stage::{RENDEZVOUS_PORT, START};

/// Small, so that many can run at once.
const SOURCE: &str =
    "pipeline:videotestsrc is-live=true ! video/x-raw,width=160,height=120,framerate=5/1";

/// From each party to the core: 40 ms there and back between two parties.
const ONE_WAY: Duration = Duration::from_millis(10);

/// The longest that one side begins later than the other, where a router takes ports.
const LONGEST_SKEW_MS: i64 = 300;

/// Longer than a viewer looks for a path before it gives up.
const PATIENCE: Duration = Duration::from_secs(25);

/// How long the broadcaster's proof may come after the viewer's.
const PROOF: Duration = Duration::from_secs(2);

/// How long a registered broadcaster may take until the rendezvous knows of it.
const REGISTERING: Duration = Duration::from_secs(10);

/// How long a router remembers where something was sent that was not answered: shorter than it takes
/// until its peer, which has five addresses in turn, has the same address again.
const FORGETS_AFTER: Duration = Duration::from_secs(10);

/// Flows that others open each second in [`Profile::Competing`], and how many in all.
const COMPETING: (u32, u16) = (20, 20_000);

/// A party's place.
#[derive(Debug, Clone)]
struct Place {
    outer: Router,
    host: Host,
}

/// A running broadcaster.
#[derive(Debug)]
struct Broadcast {
    kind: &'static Kind,
    process: Process,
    link: String,
}

/// One lab, with routers of all kinds that were asked for.
#[derive(Debug)]
pub struct Scene {
    lab: Lab,
    rendezvous: Host,
    server: Process,
    profile: Profile,
    rng: StdRng,
    places: HashMap<String, Place>,
    broadcast: Option<Broadcast>,
    serial: usize,
    viewer_log: Option<Output>,
}

impl Scene {
    /// A lab with a rendezvous.
    pub fn new(seed: u64, profile: Profile) -> Result<Self> {
        let mut lab = Lab::with_seed(seed)?;
        let rendezvous = lab.public_host("rendezvous")?;
        rendezvous.add_address()?;
        let mut command = Command::new(lab::binary("punchcast-rendezvous")?);
        command.args(["--listen", &format!("0.0.0.0:{RENDEZVOUS_PORT}")]);
        command.env("RUST_LOG", "info,rendezvous=debug");
        let server = rendezvous.spawn("rendezvous", &command)?;
        server.wait_for_log_line(START, |line| line.contains("listening"))?;
        Ok(Self {
            lab,
            rendezvous,
            server,
            profile,
            rng: StdRng::seed_from_u64(seed),
            places: HashMap::new(),
            broadcast: None,
            serial: 0,
            viewer_log: None,
        })
    }

    fn link(&self) -> Link {
        let loss = match self.profile.loss() {
            share if share > 0.0 => Loss::Independent(share),
            _ => Loss::None,
        };
        Link::both(Impairment { loss, ..Impairment::delay(ONE_WAY) })
    }

    /// The place behind routers of this kind, made when it is asked for first.
    fn place(&mut self, side: &str, kind: &'static Kind) -> Result<Place> {
        let name = format!("{side}-{}", kind.name);
        if let Some(place) = self.places.get(&name) {
            return Ok(place.clone());
        }
        let link = self.link();
        let outer = self.lab.router_with(&name, kind.outer, link)?;
        outer.set_udp_timeouts(FORGETS_AFTER, Duration::from_secs(120))?;
        let host_name = format!("{name}-in");
        let host = match kind.inner {
            None => self.lab.host_behind(&outer, &host_name)?,
            Some(nat) => {
                let inner = self.lab.router_behind(&outer, &format!("{name}-home"), nat)?;
                self.lab.host_behind(&inner, &host_name)?
            }
        };
        let place = Place { outer, host };
        self.places.insert(name, place.clone());
        Ok(place)
    }

    /// Starts a broadcaster behind this kind, in place of the one before.
    pub fn broadcast(&mut self, kind: &'static Kind) -> Result<()> {
        self.end()?;
        let place = self.place("b", kind)?;
        let folder = self.lab.folder().join(format!("{}-state", kind.name));
        std::fs::create_dir_all(&folder).expect("the lab's folder can be written");
        let mut command = Command::new(lab::binary("punchcast-broadcaster")?);
        let rendezvous = format!("{}:{RENDEZVOUS_PORT}", self.rendezvous.address());
        command.args(["--source", SOURCE, "--rendezvous", &rendezvous]);
        command.arg("--state").arg(&folder);
        command.env("RUST_LOG", "info,broadcaster=debug,transport=debug");
        let mut registered = Tail::new(self.server.stderr());
        let process = place.host.spawn("broadcaster", &command)?;
        let link = process.wait_for_line(START, |line| line.starts_with("punchcast://"))?;
        let known = registered.wait(REGISTERING, "broadcaster registered");
        assert!(known.is_some(), "{} did not register", kind.name);
        // Until then viewers cannot be told what to spare.
        process.wait_for_log_line(START, |line| {
            line.contains("external=") && line.contains("kind=")
        })?;
        self.broadcast = Some(Broadcast { kind, process, link });
        Ok(())
    }

    /// Ends the broadcaster.
    pub fn end(&mut self) -> Result<()> {
        if let Some(broadcast) = self.broadcast.take() {
            broadcast.process.kill(Signal::SIGINT)?;
            broadcast.process.wait(PATIENCE)?;
        }
        Ok(())
    }

    /// One viewer behind this kind. It has a port that nothing used before, so its router has seen
    /// nothing of it; where the router chooses ports at random, its address is another one too, as the
    /// broadcaster's router still lets in what earlier searches sent to.
    pub fn attempt(&mut self, kind: &'static Kind, number: usize) -> Result<Record> {
        let place = self.place("v", kind)?;
        if kind.is_random() {
            place.outer.change_external_address()?;
        }
        self.serial += 1;
        let broadcast = self.broadcast.as_ref().expect("a broadcaster was started");
        let expect = Expect::of(broadcast.kind, kind);
        let takes_ports = broadcast.kind.takes_ports() || kind.takes_ports();
        let skew_ms = match takes_ports && expect != Expect::Nothing {
            true => self.rng.random_range(-LONGEST_SKEW_MS..=LONGEST_SKEW_MS),
            false => 0,
        };
        let others = match self.profile {
            Profile::Competing => {
                let target = (self.rendezvous.address(), 9).into();
                let (per_second, count) = COMPETING;
                Some(place.host.open_flows(target, per_second, count)?)
            }
            _ => None,
        };
        let mut at_server = Tail::new(self.server.stderr());
        let mut at_broadcaster = Tail::new(broadcast.process.stderr());
        let mut command = Command::new(lab::binary("lab-opener")?);
        command.args([&broadcast.link, "--hold", "30"]);
        command.env("RUST_LOG", "info,viewer=debug,transport=debug");
        let viewer = place.host.spawn(&format!("opener{}", self.serial), &command)?;
        self.viewer_log = Some(viewer.stderr().clone());
        if skew_ms != 0 {
            let late = if skew_ms > 0 { &broadcast.process } else { &viewer };
            hold_back(&mut at_server, late, skew_ms)?;
        }
        let mut record = Record {
            profile: self.profile,
            broadcaster: broadcast.kind.name.into(),
            viewer: kind.name.into(),
            number,
            seed: self.lab.seed(),
            skew_ms,
            first: None,
            open_ms: None,
            direct_ms: None,
            proved_ms: None,
            total_ms: None,
            exit: None,
            ended_ms: None,
            message: None,
        };
        watch(&viewer, expect, &mut record)?;
        if record.open_ms.is_some() {
            let proof = at_broadcaster.wait(PROOF, "path_opened");
            record.proved_ms = proof.and_then(|line| took(&line));
        }
        if let Some(others) = others {
            others.kill(Signal::SIGTERM)?;
            others.wait(PATIENCE)?;
        }
        Ok(record)
    }

    /// The logs of the last try and of the broadcaster: to find out why.
    pub fn logs(&self) -> String {
        let broadcast = self.broadcast.as_ref().map(|b| b.process.stderr().text());
        let tail: Vec<String> = broadcast.unwrap_or_default().lines().map(str::to_owned).collect();
        let tail = tail[tail.len().saturating_sub(60)..].join("\n");
        let viewer = self.viewer_log.as_ref().map(Output::text).unwrap_or_default();
        format!("--- viewer\n{viewer}\n--- broadcaster\n{tail}\n")
    }
}

/// Stops a party just as it is introduced, so that it begins so much later than the other.
fn hold_back(at_server: &mut Tail, late: &Process, skew_ms: i64) -> Result<()> {
    if at_server.wait(PATIENCE, "introduced").is_none() {
        return Ok(());
    }
    late.kill(Signal::SIGSTOP)?;
    std::thread::sleep(Duration::from_millis(skew_ms.unsigned_abs()));
    late.kill(Signal::SIGCONT)
}

/// Follows a viewer until the outcome is certain, and ends it.
fn watch(viewer: &Process, expect: Expect, record: &mut Record) -> Result<()> {
    let began = Instant::now();
    let mut status = None;
    let _ended = lab::eventually(PATIENCE, || {
        // Asked before reading, so that the last lines of a viewer that ends are seen.
        status = viewer.try_wait().ok().flatten();
        for line in viewer.stdout().lines() {
            note(record, &serde_json::from_str(&line).unwrap_or_default());
        }
        let waited = began.elapsed() > DIRECT_WITHIN + Duration::from_secs(2);
        let certain = match record.open_ms {
            Some(_) => record.direct_ms.is_some() || expect == Expect::Relayed || waited,
            None => false,
        };
        certain || status.is_some()
    });
    match status {
        Some(status) if record.open_ms.is_none() => {
            record.exit = status.code();
            record.ended_ms = Some((began.elapsed().as_secs_f64() * 1000.0).round());
            record.message = viewer.stderr().text().lines().last().map(str::to_owned);
        }
        Some(_) => {}
        None => {
            viewer.kill(Signal::SIGINT)?;
            viewer.wait(PATIENCE)?;
        }
    }
    Ok(())
}

/// Takes one line of a viewer's.
fn note(record: &mut Record, line: &Value) {
    let (Some(kind), Some(after)) = (line["kind"].as_str(), line["after_ms"].as_f64()) else {
        return;
    };
    if line["event"] == "open" && record.open_ms.is_none() {
        record.first = Some(kind.into());
        record.open_ms = Some(after);
        record.total_ms = line["total_ms"].as_f64();
    }
    if kind != "relayed" && record.direct_ms.is_none() {
        record.direct_ms = Some(after);
    }
}

/// The `took_ms` of a log line.
fn took(line: &str) -> Option<f64> {
    line.split("took_ms=").nth(1)?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_logs_are_read() {
        let read = took("a path opened event=\"path_opened\" took_ms=12.5 path=\"x\"");
        assert_eq!(read, Some(12.5));
        assert_eq!(took("a path opened"), None);
    }
}
