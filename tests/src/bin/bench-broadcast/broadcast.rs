//! The real rendezvous and broadcaster, as anybody would run them, and what they use.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use tests::lab;

use crate::network::NEAR;

/// How long a program may take to come up or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// The broadcaster's metrics.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(NEAR), 9402);

/// Settings of both: nobody is refused for want of a place, and the router, which is not there, is not
/// asked for a port.
const RENDEZVOUS: &str = "relay:\n  mode: off\n";
const BROADCASTER: &str = "port_mapping: false\nmax_viewers: 20000\n";

/// A broadcast under way. Dropping it ends its programs.
pub(crate) struct Broadcast {
    rendezvous: Child,
    broadcaster: Child,
    /// The channel's link.
    pub(crate) link: String,
    /// What the broadcaster logs, in JSON.
    pub(crate) log: PathBuf,
}

/// What the broadcaster had used and sent at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Processor time of all its threads.
    pub(crate) cpu: Duration,
    /// Packets that the kernel took.
    pub(crate) packets: u64,
}

impl Drop for Broadcast {
    fn drop(&mut self) {
        for child in [&mut self.broadcaster, &mut self.rendezvous] {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Broadcast {
    /// Starts both on a stored stream, with their files in `folder`. With `timing` each access unit is
    /// logged, as added latency needs it.
    pub(crate) fn start(folder: &Path, clip: &Path, timing: bool) -> Result<Self> {
        Self::start_with(folder, clip, None, timing)
    }

    /// As [`Self::start`], with the stored files of a folder beside the stream.
    pub(crate) fn start_with(
        folder: &Path,
        clip: &Path,
        library: Option<&Path>,
        timing: bool,
    ) -> Result<Self> {
        let near = |port: u16| format!("{NEAR}:{port}");
        let (rendezvous_log, log) = (folder.join("rendezvous.log"), folder.join("broadcaster.log"));
        let config = |name: &str, text: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            fs::write(&path, text)?;
            Ok(path)
        };
        let mut rendezvous = Command::new(lab::binary("punchcast-rendezvous")?)
            .args(["--listen", &near(3478), "--config"])
            .arg(config("rendezvous.yaml", RENDEZVOUS)?)
            .stdin(Stdio::null())
            .stderr(File::create(&rendezvous_log)?)
            .spawn()
            .context("starting the rendezvous")?;
        let started = wait_for(&rendezvous_log, "listening");
        if started.is_err() {
            let _ = rendezvous.kill();
            let _ = rendezvous.wait();
        }
        started?;
        let filter = if timing { "warn,punchcast::timing=trace" } else { "warn" };
        let broadcaster = Command::new(lab::binary("punchcast-broadcaster")?)
            .args(["--rendezvous", &near(3478), "--bind", &near(0), "--log-format", "json"])
            .args(["--metrics", &METRICS.to_string()])
            .arg("--source")
            .arg(format!("file:{}", clip.display()))
            .arg("--state")
            .arg(folder.join("state"))
            .arg("--config")
            .arg(config("broadcaster.yaml", BROADCASTER)?)
            .args(
                library
                    .into_iter()
                    .flat_map(|library| [OsStr::new("--library"), library.as_os_str()]),
            )
            .env("RUST_LOG", filter)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn();
        let mut broadcast = match broadcaster {
            Ok(broadcaster) => Self { rendezvous, broadcaster, link: String::new(), log },
            Err(error) => {
                let _ = rendezvous.kill();
                let _ = rendezvous.wait();
                return Err(error).context("starting the broadcaster");
            }
        };
        let stdout = broadcast.broadcaster.stdout.take().context("it has an output")?;
        // Its only line; where it ends without one, there is none to wait for.
        BufReader::new(stdout).read_line(&mut broadcast.link)?;
        broadcast.link.truncate(broadcast.link.trim_end().len());
        if broadcast.link.is_empty() {
            bail!("the broadcaster did not start: {}", fs::read_to_string(&broadcast.log)?);
        }
        Ok(broadcast)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.broadcaster.id().cast_signed())
    }

    /// Processor time of all its threads.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let clock = ClockId::pid_cpu_clock_id(self.pid()).context("the broadcaster's clock")?;
        Ok(clock_gettime(clock)?.into())
    }

    /// What it has used and sent.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let cpu = self.cpu()?;
        let packets = metric(&self.scrape()?, "punchcast_packets_sent_total")? as u64;
        Ok(Usage { cpu, packets })
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes: Option<u64> =
            line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Ok(kibibytes.context("no VmRSS")? * 1024)
    }

    /// Lets time pass, with the metrics scraped each second, as Prometheus would be told to.
    pub(crate) fn scraped_for(&self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(Duration::from_secs(1)));
            self.scrape()?;
        }
        Ok(())
    }

    /// Waits until no viewer is behind the live edge any more.
    pub(crate) fn wait_until_joined(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while metric(&self.scrape()?, "punchcast_viewers_joining")? > 0.0 {
            ensure!(Instant::now() < deadline, "viewers do not catch up");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn scrape(&self) -> Result<String> {
        self.fetch("/metrics")
    }

    /// What the metrics listener says there.
    pub(crate) fn fetch(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(METRICS).context("the metrics listener")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Ends the broadcast as its operator would. The rendezvous ends with it.
    pub(crate) fn stop(mut self) -> Result<()> {
        kill(self.pid(), Signal::SIGINT)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.broadcaster.try_wait()? {
                ensure!(status.success(), "the broadcaster ended with {status}");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the broadcaster does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The sum of a metric's series.
fn metric(text: &str, name: &str) -> Result<f64> {
    let mut values = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let found = series.split('{').next()?;
        (found == name).then(|| value.trim().parse::<f64>().ok()).flatten()
    });
    let first = values.next().with_context(|| format!("there is no metric {name}"))?;
    Ok(first + values.sum::<f64>())
}

fn wait_for(log: &Path, words: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        if text.contains(words) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no \"{words}\" in: {text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
