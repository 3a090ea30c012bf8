//! One cell of the grid: three contenders, each on a link of its own.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::lab::{self, Host, Impairment, Lab, Link, Process};
use tests::load::Clip;
use tests::stage::{self, RENDEZVOUS_PORT, count};

use crate::numbered::{Came, LENGTH};

const BITS_PER_SECOND: u64 = 4_000_000;

/// For a contender to end once it was told to, or has nothing more to do.
const ENDING: Duration = Duration::from_secs(60);

/// What SRT and RIST add to a datagram: SRT's header; RTP's, and that of RIST's main profile.
const SRT_HEADER: usize = 16;
const RIST_HEADER: usize = 12 + 16;

/// Ethernet, IPv4 and UDP headers, which interfaces count.
const HEADERS: u64 = 14 + 20 + 8;

/// Loss, round trip and latency.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) loss: f64,
    pub(crate) rtt: Duration,
    pub(crate) latency: Duration,
    pub(crate) seconds: u64,
}

/// What one contender achieved.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) contender: &'static str,
    /// Packets, or datagrams, of media.
    pub(crate) sent: u64,
    /// Of these, how many were missing at their deadline.
    pub(crate) missing: u64,
    /// Bytes of repair and retransmission, as a share of the media's.
    pub(crate) overhead: f64,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { loss, rtt, latency, .. } = self;
        write!(f, "loss {loss}, round trip {rtt:?}, latency {latency:?}")
    }
}

impl Cell {
    /// Lets all three run, at the same time.
    pub(crate) fn measure(&self) -> Result<Vec<Measured>> {
        let mut lab = Lab::new()?;
        let lossy = || {
            let impairment = Impairment { delay: self.rtt / 2, ..Impairment::loss(self.loss) };
            Link::both(impairment)
        };
        let rendezvous = lab.public_host("rendezvous")?;
        let mut pair = |name: &str| -> Result<(Host, Host)> {
            let sender = lab.public_host(&format!("{name}-sender"))?;
            Ok((sender, lab.public_host_with(&format!("{name}-receiver"), lossy())?))
        };
        let (ours, srt, rist) = (pair("ours")?, pair("srt")?, pair("rist")?);
        let folder = lab.folder().to_owned();

        let config = folder.join("rendezvous.yaml");
        std::fs::write(&config, "relay:\n  mode: off\n")?;
        let _rendezvous = stage::start_rendezvous(&rendezvous, &config)?;
        let server = format!("{}:{RENDEZVOUS_PORT}", rendezvous.address());
        let (broadcaster, link) = self.broadcast(&ours.0, &server, &folder)?;
        let viewer = self.watch(&ours.1, &link)?;
        let srt_run = Carried::start(&srt, self, "srt")?;
        let rist_run = Carried::start(&rist, self, "rist")?;

        let status = viewer.wait(Duration::from_secs(self.seconds) + ENDING)?;
        ensure!(status.success(), "the viewer ended with {status}");
        let lines = viewer.stdout().lines();
        let last =
            lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()).next_back();
        let last = last.context("the viewer printed no statistics")?;
        let repair = metric(&ours.0, "punchcast_repair_bytes_sent_total")?;
        let all = metric(&ours.0, "punchcast_bytes_sent_total")?;
        let join = metric(&ours.0, "punchcast_join_bytes_sent_total")?;
        drop(broadcaster);
        let unrecovered = count(&last, "packets_unrecovered");
        let ours = Measured {
            contender: "punchcast",
            sent: count(&last, "packets_received") + unrecovered,
            missing: unrecovered,
            overhead: repair / (all - repair - join).max(1.0),
        };
        let srt = srt_run.end("srt", &srt.0, LENGTH + SRT_HEADER)?;
        let rist = rist_run.end("rist", &rist.0, LENGTH + RIST_HEADER)?;
        Ok(vec![ours, srt, rist])
    }

    fn broadcast(
        &self,
        host: &Host,
        server: &str,
        folder: &std::path::Path,
    ) -> Result<(Process, String)> {
        let clip = Clip::default().make(folder)?;
        let config = folder.join("broadcaster.yaml");
        std::fs::write(&config, "port_mapping: false\n")?;
        let mut command = Command::new(lab::binary("punchcast-broadcaster")?);
        command.args(["--rendezvous", server, "--metrics", stage::METRICS]);
        command.args(["--source", &format!("file:{}", clip.display())]);
        command.arg("--config").arg(config).arg("--state").arg(folder.join("state"));
        let process = host.spawn("broadcaster", &command)?;
        let link = process.wait_for_line(stage::START, |line| line.starts_with("punchcast://"))?;
        Ok((process, link))
    }

    fn watch(&self, host: &Host, link: &str) -> Result<Process> {
        let mut command = Command::new(lab::binary("punchcast-viewer")?);
        command.args(["watch", link, "--stats", "json", "--output", "null"]);
        command.args(["--latency", &format!("{}ms", self.latency.as_millis())]);
        command.args(["--for", &format!("{}s", self.seconds)]);
        Ok(host.spawn("viewer", &command)?)
    }
}

/// Numbered datagrams carried by SRT or RIST.
struct Carried {
    /// Ends by itself once nothing comes any more.
    receiver: Process,
    _programs: [Process; 3],
}

impl Carried {
    fn start((from, to): &(Host, Host), cell: &Cell, protocol: &str) -> Result<Self> {
        let own = std::env::current_exe().context("finding this program")?;
        let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string();
        let latency = cell.latency.as_millis();
        let mut receive = Command::new(&own);
        receive.args(["receive", &local(7000)]);
        let receiver = to.spawn("numbers", &receive)?;
        let remote = to.address();
        let (out, back) = if protocol == "srt" {
            let mut out = Command::new("srt-live-transmit");
            let caller = format!("srt://{remote}:6000?latency={latency}&conntimeo=20000");
            out.args(["-q", &format!("udp://{}", local(5000)), &caller]);
            let mut back = Command::new("srt-live-transmit");
            let listener = format!("srt://:6000?mode=listener&latency={latency}");
            back.args(["-q", &listener, &format!("udp://{}", local(7000))]);
            (out, back)
        } else {
            let mut out = Command::new("ristsender");
            out.args(["-v", "3"]);
            out.args(["-i", &format!("udp://@{}", local(5000))]);
            out.args(["-o", &format!("rist://{remote}:6000?buffer={latency}")]);
            let mut back = Command::new("ristreceiver");
            back.args(["-v", "3"]);
            back.args(["-i", &format!("rist://@0.0.0.0:6000?buffer={latency}")]);
            back.args(["-o", &format!("udp://{}", local(7000))]);
            (out, back)
        };
        let back = to.spawn("receiver", &back)?;
        let out = from.spawn("sender", &out)?;
        let mut send = Command::new(&own);
        send.args(["send", &local(5000), &BITS_PER_SECOND.to_string(), &cell.seconds.to_string()]);
        let numbers = from.spawn("numbers", &send)?;
        Ok(Self { receiver, _programs: [numbers, out, back] })
    }

    fn end(self, contender: &'static str, sender: &Host, length: usize) -> Result<Measured> {
        let status = self.receiver.wait(ENDING * 2)?;
        ensure!(status.success(), "{contender}: the receiver ended with {status}");
        let counters = sender.counters()?;
        let said = self.receiver.stdout().lines();
        let came: Came = said
            .iter()
            .find_map(|line| serde_json::from_str(line).ok())
            .with_context(|| format!("{contender}: the receiver said {said:?}"))?;
        ensure!(came.different > 0, "{contender}: nothing came");
        let bytes = counters.bytes_sent.saturating_sub(HEADERS * counters.packets_sent);
        let media = came.span() * length as u64;
        let overhead = bytes as f64 / media as f64 - 1.0;
        let sent = came.span();
        Ok(Measured { contender, sent, missing: sent - came.different, overhead })
    }
}

/// The sum of one of the broadcaster's metrics.
fn metric(host: &Host, name: &str) -> Result<f64> {
    let mut get = Command::new("curl");
    get.args(["--silent", "--fail", &format!("http://{}/metrics", stage::METRICS)]);
    let text = host.run(&get)?;
    let values: Vec<f64> = text
        .lines()
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next()? == name).then(|| value.parse().ok()).flatten()
        })
        .collect();
    ensure!(!values.is_empty(), "there is no metric {name}");
    Ok(values.iter().sum())
}
