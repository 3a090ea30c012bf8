//! The usual network: a public rendezvous, a broadcaster behind its router, and viewers each behind
//! one of their own, with the real programs in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::{self, Host, Lab, Link, Nat, Process, Result, Router, Signal};

/// How long a program may take to come up on a busy machine.
pub const START: Duration = Duration::from_secs(20);

/// The rendezvous's port.
pub const RENDEZVOUS_PORT: u16 = 3478;

/// The broadcaster's metrics port, on its own loopback.
pub const METRICS: &str = "127.0.0.1:9402";

/// What a viewer logs that is watched closely.
const CLOSELY: &str = "info,viewer::media::present=trace";

/// The real clip: 132 frames of 1280×720 H.264, 25 a second, with AAC sound.
pub fn clip() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("media/bigbuckbunny.mp4")
}

/// The network with its hosts.
#[derive(Debug)]
pub struct Stage {
    /// The lab all of it is in. Dropping it ends every program.
    pub lab: Lab,
    /// Where the rendezvous runs.
    pub rendezvous: Host,
    /// The broadcaster's router.
    pub home: Router,
    /// Where the broadcaster runs, behind `home`.
    pub cam: Host,
    /// The viewers' routers, and the host behind each.
    pub viewers: Vec<(Router, Host)>,
}

/// A running broadcaster.
#[derive(Debug)]
pub struct Broadcast {
    /// The program.
    pub process: Process,
    /// Its channel's link.
    pub link: String,
    /// The folder with its state, key log and link.
    pub folder: PathBuf,
}

/// A broadcaster whose source may not have begun.
#[derive(Debug)]
pub struct Beginning {
    /// The program.
    pub process: Process,
    folder: PathBuf,
}

impl Beginning {
    /// Waits until the source has begun.
    pub fn link(self) -> Result<Broadcast> {
        let Self { process, folder } = self;
        let link = process.wait_for_line(START, |line| line.starts_with("punchcast://"))?;
        Ok(Broadcast { process, link, folder })
    }
}

impl Broadcast {
    /// What captures and encodes.
    ///
    /// # Panics
    ///
    /// Where nothing does.
    pub fn source(&self) -> Pid {
        let children = self.process.children();
        children.first().copied().unwrap_or_else(|| panic!("nothing encodes: {children:?}"))
    }
}

/// A running viewer.
#[derive(Debug)]
pub struct Watching {
    /// The program.
    pub process: Process,
}

impl Stage {
    /// Port-restricted NAPT everywhere, no impairment.
    pub fn new(viewers: usize) -> Result<Self> {
        Self::with_links(&vec![None; viewers])
    }

    /// Port-restricted NAPT everywhere; each viewer's router on the link given for it.
    pub fn with_links(links: &[Option<Link>]) -> Result<Self> {
        let viewers: Vec<_> =
            links.iter().map(|link| (Nat::PortRestricted, link.clone())).collect();
        Self::build(Lab::new()?, (Nat::PortRestricted, None), &viewers)
    }

    /// Routers of these kinds, each with so much delay one way: the round trip between the two sides
    /// takes four times that.
    pub fn with_kinds(home: Nat, viewers: &[Nat], one_way: Duration) -> Result<Self> {
        let link = || Some(Link::delay(one_way));
        let viewers: Vec<_> = viewers.iter().map(|nat| (*nat, link())).collect();
        Self::build(Lab::new()?, (home, link()), &viewers)
    }

    /// In a lab of one's own making: the broadcaster's router and the viewers', with their links.
    pub fn build(
        mut lab: Lab,
        home: (Nat, Option<Link>),
        viewers: &[(Nat, Option<Link>)],
    ) -> Result<Self> {
        let rendezvous = lab.public_host("rendezvous")?;
        let mut router = |name: &str, (nat, link): &(Nat, Option<Link>)| match link {
            Some(link) => lab.router_with(name, *nat, link.clone()),
            None => lab.router(name, *nat),
        };
        let home = router("home", &home)?;
        let routers: Vec<Router> = viewers
            .iter()
            .enumerate()
            .map(|(at, kind)| router(&format!("router{at}"), kind))
            .collect::<Result<_>>()?;
        let cam = lab.host_behind(&home, "cam")?;
        let mut viewers = Vec::new();
        for (at, router) in routers.into_iter().enumerate() {
            let host = lab.host_behind(&router, &format!("viewer{at}"))?;
            viewers.push((router, host));
        }
        Ok(Self { lab, rendezvous, home, cam, viewers })
    }

    /// Starts the rendezvous, and waits until it listens.
    pub fn start_rendezvous(&self) -> Result<Process> {
        self.start_rendezvous_with("")
    }

    /// Starts the rendezvous with further settings in YAML, and waits until it listens.
    pub fn start_rendezvous_with(&self, settings: &str) -> Result<Process> {
        let config = self.path("rendezvous.yaml");
        fs::write(&config, settings).expect("the lab's folder can be written");
        start_rendezvous(&self.rendezvous, &config)
    }

    /// Where the rendezvous is, as flags name it.
    pub fn rendezvous_address(&self) -> String {
        format!("{}:{RENDEZVOUS_PORT}", self.rendezvous.address())
    }

    /// Starts a broadcaster with further settings in YAML, and waits for its link. Two with the same
    /// `name` are the same broadcaster: they share its key.
    pub fn broadcast(&self, name: &str, source: &str, settings: &str) -> Result<Broadcast> {
        self.broadcast_by(&[self.rendezvous_address()], name, source, settings)
    }

    /// As [`Self::broadcast`], introduced by these rendezvous.
    pub fn broadcast_by(
        &self,
        rendezvous: &[String],
        name: &str,
        source: &str,
        settings: &str,
    ) -> Result<Broadcast> {
        self.begin_broadcast(rendezvous, name, source, settings)?.link()
    }

    /// As [`Self::broadcast_by`], without waiting for the link, which comes once the source begins.
    pub fn begin_broadcast(
        &self,
        rendezvous: &[String],
        name: &str,
        source: &str,
        settings: &str,
    ) -> Result<Beginning> {
        let folder = self.lab.folder().join(format!("{name}-state"));
        fs::create_dir_all(&folder).expect("the lab's folder can be written");
        let config = folder.join("broadcaster.yaml");
        let key_log = folder.join("keys");
        let yaml = format!("key_log: {}\n{settings}", key_log.display());
        fs::write(&config, yaml).expect("the lab's folder can be written");
        let link_file = folder.join("link");
        let _ = fs::remove_file(&link_file);
        let mut command = Command::new(lab::binary("punchcast-broadcaster")?);
        command.args(["--source", source, "--metrics", METRICS]);
        rendezvous.iter().for_each(|server| {
            command.args(["--rendezvous", server]);
        });
        command.arg("--config").arg(&config).arg("--state").arg(&folder);
        command.arg("--link-file").arg(&link_file);
        let process = self.cam.spawn(name, &command)?;
        Ok(Beginning { process, folder })
    }

    /// Starts a viewer with these flags on the host of that number.
    pub fn watch(&self, viewer: usize, link: &str, flags: &[&str]) -> Result<Watching> {
        let mut command = Command::new(lab::binary("punchcast-viewer")?);
        command.args(["watch", link, "--stats", "json"]).args(flags);
        let process = self.viewers[viewer].1.spawn(&format!("watch{viewer}"), &command)?;
        Ok(Watching { process })
    }

    /// As [`Self::watch`], and the viewer's log says when it shows each picture: see [`Watching::shown`].
    pub fn watch_closely(&self, viewer: usize, link: &str, flags: &[&str]) -> Result<Watching> {
        let mut command = Command::new(lab::binary("punchcast-viewer")?);
        command.args(["watch", link, "--stats", "json"]).args(flags).env("RUST_LOG", CLOSELY);
        let process = self.viewers[viewer].1.spawn(&format!("watch{viewer}"), &command)?;
        Ok(Watching { process })
    }

    /// As [`Self::watch`], with an empty disk of 1 MiB in `folder` that nobody else sees.
    pub fn watch_on_a_small_disk(
        &self,
        viewer: usize,
        link: &str,
        folder: &Path,
        flags: &[&str],
    ) -> Result<Watching> {
        let mut command = Command::new("sh");
        let mount = "mount -t tmpfs -o size=1m tmpfs \"$0\" && exec \"$@\"";
        command.args(["-c", mount]).arg(folder).arg(lab::binary("punchcast-viewer")?);
        command.args(["watch", link, "--stats", "json"]).args(flags);
        let process = self.viewers[viewer].1.spawn(&format!("full{viewer}"), &command)?;
        Ok(Watching { process })
    }

    /// A path in the lab's folder, for recordings.
    pub fn path(&self, name: &str) -> PathBuf {
        self.lab.folder().join(name)
    }

    /// What one of the broadcaster's metrics says now. Series with labels are added up, unless one is named with them.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let mut get = Command::new("curl");
        get.args(["--silent", "--fail", &format!("http://{METRICS}/metrics")]);
        let text = self.cam.run(&get)?;
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let found = if name.contains('{') { series } else { series.split('{').next()? };
            (found == name).then(|| value.parse::<f64>().ok()).flatten()
        });
        let values: Vec<f64> = values.collect();
        assert!(!values.is_empty(), "there is no metric {name} in:\n{text}");
        Ok(values.iter().sum())
    }
}

impl Watching {
    /// When each picture was shown so far, of a viewer that is watched closely.
    pub fn shown(&self) -> Vec<SystemTime> {
        let text = self.process.stderr().text();
        let lines =
            text.lines().filter(|line| line.contains(" released ") && line.contains("kind=Video"));
        let words = lines.filter_map(|line| line.split_whitespace().next());
        words.filter_map(|time| humantime::parse_rfc3339(time).ok()).collect()
    }

    /// Its process that shows with output `null`, or one that only records.
    pub fn player(&self, shows: bool) -> Pid {
        let is_it = |pid: &Pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> =
                line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            let has = |wanted| words.iter().any(|word| word == wanted);
            has("play") && has("null") == shows
        };
        let found = self.process.children().into_iter().find(is_it);
        found.unwrap_or_else(|| panic!("nothing plays: {:?}", self.process.children()))
    }

    /// All statistics printed so far.
    pub fn stats(&self) -> Vec<Value> {
        let lines = self.process.stdout().lines();
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The latest statistics; null before the first.
    pub fn latest(&self) -> Value {
        self.stats().pop().unwrap_or(Value::Null)
    }

    /// Waits until the latest statistics are as wanted, and gives them.
    pub fn wait_for(&self, timeout: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + timeout;
        loop {
            let latest = self.latest();
            if wanted(&latest) {
                return latest;
            }
            let ended = self.process.try_wait().ok().flatten();
            assert!(ended.is_none(), "the viewer ended ({ended:?}); its last words: {latest}");
            assert!(Instant::now() < deadline, "not within {timeout:?}; the latest is {latest}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks the viewer to end as a user would, and checks that it ends well.
    pub fn stop(&self) -> Result<()> {
        self.process.kill(Signal::SIGINT)?;
        let status = self.process.wait(Duration::from_secs(5))?;
        assert!(status.success(), "the viewer ended with {status}");
        Ok(())
    }
}

/// Starts a rendezvous with this configuration on a host, and waits until it listens.
pub fn start_rendezvous(host: &Host, config: &Path) -> Result<Process> {
    let mut command = Command::new(lab::binary("punchcast-rendezvous")?);
    let any = if host.ipv6_address().is_some() { "[::]" } else { "0.0.0.0" };
    command.args(["--listen", &format!("{any}:{RENDEZVOUS_PORT}")]).arg("--config").arg(config);
    let process = host.spawn("rendezvous", &command)?;
    process.wait_for_log_line(START, |line| line.contains("listening"))?;
    Ok(process)
}

/// Asks the broadcaster named `cam` as its operator.
pub fn operator(stage: &Stage, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(lab::binary("punchcast-broadcaster")?);
    command.args(arguments).arg("--state").arg(stage.path("cam-state"));
    stage.cam.run(&command)
}

/// A counter in statistics, 0 where there is none yet.
pub fn count_of(stats: &Value, key: &str) -> u64 {
    stats[key].as_u64().unwrap_or(0)
}

/// A counter in statistics.
pub fn count(stats: &Value, key: &str) -> u64 {
    stats[key].as_u64().unwrap_or_else(|| panic!("no {key} in {stats}"))
}

/// A time in statistics, in milliseconds.
pub fn ms(stats: &Value, key: &str) -> f64 {
    stats[key].as_f64().unwrap_or_else(|| panic!("no {key} in {stats}"))
}
