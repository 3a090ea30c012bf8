//! Flags and configuration file: flags win over file, file over defaults.

use std::io::{BufRead, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::link::{Link, parse_host_port};
use protocol::offer::Offer;
use protocol::signalling::{RelayOffer, RelayServer};
use serde::{Deserialize, Serialize};
use service::exit::Failure;
use service::log::LogFormat;
use zeroize::Zeroizing;

use crate::apart::OUTPUTS;
pub use crate::latency::Latency;
use crate::media::Output;

/// Watches a broadcast over a direct path through firewalls.
#[derive(Debug, clap::Parser)]
#[command(name = "punchcast-viewer", version)]
pub struct Args {
    /// Configuration file (YAML); see configs/viewer.yaml.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How log lines look.
    #[arg(long, global = true, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What a viewer does.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Watch a link.
    Watch(WatchArgs),
    /// Watch a broadcaster's offer: needs no rendezvous, but an answer carried to it by hand.
    Answer {
        /// The offer, as the broadcaster printed it.
        offer: String,
        /// How to watch.
        #[command(flatten)]
        flags: WatchFlags,
        /// STUN server that tells our external address [default: those of the offer].
        #[arg(long, value_name = "HOST:PORT")]
        stun: Vec<String>,
        /// How long to wait for the broadcaster to take the answer [default: 10m].
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        wait: Option<Duration>,
    },
    /// Show what a link's broadcaster offers: channels and stored files.
    List {
        /// The link, as the broadcaster printed it, or - for standard input.
        link: String,
        /// Print one JSON object instead of tables.
        #[arg(long)]
        json: bool,
        /// Write the stored files' pictures into this folder.
        #[arg(long, value_name = "DIR")]
        thumbnails: Option<PathBuf>,
    },
    /// Copy stored files' contents; goes on where an earlier copy broke off.
    Fetch {
        /// A link of the broadcaster: of a channel, or of the file itself; or - for standard input.
        link: String,
        /// The files, by their paths as list shows them.
        files: Vec<String>,
        /// Write to this file, or into this folder [default: the file's own name, here].
        #[arg(short, long, value_name = "NAME")]
        output: Option<PathBuf>,
        /// Overwrite what is there.
        #[arg(long)]
        force: bool,
    },
    /// Say what kind of NAT or firewall is here, and what will work through it.
    Check {
        /// A rendezvous, or another STUN server (RFC 5780).
        #[arg(value_name = "HOST:PORT")]
        server: String,
        /// Print one JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
    /// What a viewer has its own processes do: play what comes over a socket on standard input.
    #[command(hide = true)]
    Play {
        /// Where picture and sound go.
        #[arg(long, value_name = "OUTPUT", required = true)]
        output: Vec<Output>,
    },
}

/// Flags of `watch`.
#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    /// The link, as the broadcaster printed it; - reads it from standard input, where others do not see it.
    pub link: String,
    /// How to watch.
    #[command(flatten)]
    pub flags: WatchFlags,
}

/// Flags of all that watches.
#[derive(Debug, clap::Args)]
pub struct WatchFlags {
    /// Where picture and sound go; may be given several times: window (the default where a display
    /// exists), null, record:PATH (.mkv, .mp4, .ts), udp://HOST:PORT, srt://HOST:PORT, srt://:PORT, rtmp://HOST/APP/KEY, hls:DIR, snapshot:PATH.jpg,
    /// v4l2:DEVICE, stdout.
    #[arg(long, value_name = "OUTPUT")]
    pub output: Vec<Output>,
    /// Time in which lost packets are repaired and jitter is evened out, as in 200ms; auto takes what the
    /// path needs.
    #[arg(long, value_name = "DURATION")]
    pub latency: Option<Latency>,
    /// End after this time, counted from the start of the process.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// Where in a stored file to begin, as in 1m30s or 1:30.
    #[arg(long, value_name = "POSITION", value_parser = crate::commands::parse_position)]
    pub start: Option<Duration>,
    /// Which of a stored file's sound tracks to play, from 1.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub sound_track: Option<u32>,
    /// UDP port to receive media on, where it is not to be the one that everything is sent from.
    #[arg(long, value_name = "PORT")]
    pub receive_port: Option<u16>,
    /// Serve a status page, /metrics, /healthz and /readyz on this TCP address.
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Print statistics on standard output, one object a second.
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub stats: Option<StatsFormat>,
}

/// How statistics are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum StatsFormat {
    /// One JSON object a line.
    Json,
}

/// Settings that a file may give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where picture and sound go; empty for the default.
    #[serde(with = "outputs")]
    pub output: Vec<Output>,
    /// Time for repair and evening out.
    pub latency: Latency,
    /// End after this time.
    #[serde(rename = "for", with = "humantime_serde")]
    pub duration: Option<Duration>,
    /// Where in a stored file to begin.
    #[serde(with = "humantime_serde")]
    pub start: Duration,
    /// Which of a stored file's sound tracks to play, from 1.
    pub sound_track: u32,
    /// Print statistics.
    pub stats: Option<StatsFormat>,
    /// TCP address of the metrics listener.
    pub metrics: Option<SocketAddr>,
    /// `check` and `list` print one JSON object.
    pub json: bool,
    /// UDP port to receive media on.
    pub receive_port: Option<u16>,
    /// STUN servers that `answer` asks; empty for those of the offer.
    pub stun: Vec<String>,
    /// How long `answer` waits for the broadcaster to take the answer.
    #[serde(with = "humantime_serde")]
    pub wait: Duration,
    /// Private addresses named by broadcasters of other networks are tried too.
    pub allow_private: bool,
    /// The router is asked to map an external port to ours where no direct path opens by itself.
    pub port_mapping: bool,
    /// The relay that is used where no direct path opens.
    pub relay: RelaySettings,
    /// How log lines look.
    pub log_format: LogFormat,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            output: Vec::new(),
            latency: Latency::Fixed(DEFAULT_LATENCY),
            duration: None,
            start: Duration::ZERO,
            sound_track: 1,
            stats: None,
            metrics: None,
            json: false,
            receive_port: None,
            stun: Vec::new(),
            wait: Duration::from_secs(600),
            allow_private: false,
            port_mapping: true,
            relay: RelaySettings::default(),
            log_format: LogFormat::default(),
        }
    }
}

/// The relay that is used where no direct path opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelaySettings {
    /// Whether one is used at all.
    pub enabled: bool,
    /// A TURN server of the viewer's own, as HOST:PORT, used before what the rendezvous offers.
    pub server: Option<String>,
    /// Username there.
    pub username: Option<String>,
    /// Password there.
    pub password: Option<String>,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self { enabled: true, server: None, username: None, password: None }
    }
}

/// Stands for a link on standard input: arguments are seen by everybody on a machine.
const ON_STDIN: &str = "-";

fn parse_link(link: &str) -> Result<Link, Failure> {
    if link == ON_STDIN {
        return read_link(&mut std::io::stdin().lock());
    }
    link.parse().map_err(|error| Failure::usage(format!("bad link: {error}")))
}

/// The first line of an input as a link. What follows stays to be read.
fn read_link(input: &mut impl BufRead) -> Result<Link, Failure> {
    let mut line = String::new();
    input
        .take(LONGEST_LINK)
        .read_line(&mut line)
        .map_err(|error| Failure::usage(format!("no link on standard input: {error}")))?;
    let line = Zeroizing::new(line);
    line.trim()
        .parse()
        .map_err(|error| Failure::usage(format!("bad link on standard input: {error}")))
}

/// Bytes of a link on standard input, at most.
const LONGEST_LINK: u64 = 8 * 1024;

impl Settings {
    fn target(&self, link: Link) -> Result<Target, Failure> {
        Ok(Target {
            link,
            by_hand: None,
            receive_port: self.receive_port,
            allow_private: self.allow_private,
            port_mapping: self.port_mapping,
            use_relay: self.relay.enabled,
            relay: self.relay.offer()?,
            log_format: self.log_format,
        })
    }

    fn watch(self, mut target: Target, flags: WatchFlags) -> Result<Command, Failure> {
        let mut outputs = if flags.output.is_empty() { self.output } else { flags.output };
        if outputs.is_empty() {
            outputs.push(Output::default_here());
        }
        let stats = flags.stats.or(self.stats);
        if stats.is_some() && outputs.contains(&Output::Stdout) {
            return Err(Failure::usage(
                "--stats and --output stdout both write to standard output; drop one",
            ));
        }
        let latency = flags.latency.unwrap_or(self.latency);
        if let Latency::Fixed(latency) = latency
            && !LATENCIES.contains(&latency)
        {
            return Err(Failure::usage(format!(
                "latency {latency:?} is not between {:?} and {:?}",
                LATENCIES.start(),
                LATENCIES.end()
            )));
        }
        let duration = flags.duration.or(self.duration);
        let metrics = flags.metrics.or(self.metrics);
        let start = flags.start.unwrap_or(self.start);
        let sound = flags.sound_track.unwrap_or(self.sound_track).saturating_sub(1);
        target.receive_port = flags.receive_port.or(target.receive_port);
        if target.receive_port == Some(0) {
            return Err(Failure::usage("--receive-port 0 is no port; leave it out for any port"));
        }
        Ok(Command::Watch(Box::new(Watch {
            target,
            outputs,
            latency,
            duration,
            start,
            sound,
            stats,
            metrics,
        })))
    }
}

impl RelaySettings {
    /// The viewer's own relay.
    fn offer(&self) -> Result<Option<RelayOffer>, Failure> {
        let Some(server) = &self.server else { return Ok(None) };
        let (host, port) = parse_host_port(server)
            .ok_or_else(|| Failure::usage(format!("relay.server: '{server}' is no HOST:PORT")))?;
        match (&self.username, &self.password) {
            (Some(username), Some(password)) => Ok(Some(RelayOffer {
                server: RelayServer::At { host, port },
                username: username.clone(),
                password: password.clone(),
            })),
            _ => Err(Failure::usage("relay.server needs relay.username and relay.password")),
        }
    }
}

/// A command with all its settings.
#[derive(Debug)]
pub enum Command {
    /// Watch.
    Watch(Box<Watch>),
    /// List.
    List(Box<List>),
    /// Copy files.
    Fetch(Box<Fetch>),
    /// Check.
    Check(Check),
    /// Play for another process.
    Play {
        /// Where to.
        outputs: Vec<Output>,
        /// How log lines look.
        log_format: LogFormat,
    },
}

/// What `list` does.
#[derive(Debug, Clone)]
pub struct List {
    /// Whom to reach.
    pub target: Target,
    /// Whether to print JSON.
    pub json: bool,
    /// Where pictures go.
    pub thumbnails: Option<PathBuf>,
}

/// What `fetch` does.
#[derive(Debug, Clone)]
pub struct Fetch {
    /// Whom to reach.
    pub target: Target,
    /// The files' paths in the library; none for that of the link.
    pub files: Vec<String>,
    /// Where to; without it the file's own name.
    pub output: Option<PathBuf>,
    /// Whether to overwrite.
    pub force: bool,
}

/// What `check` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The server's name or address.
    pub host: String,
    /// Its UDP port.
    pub port: u16,
    /// Whether to print JSON.
    pub json: bool,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// Whom to reach, and how.
#[derive(Debug, Clone)]
pub struct Target {
    /// The link. One made of an offer names no rendezvous.
    pub link: Link,
    /// The offer, where there is no rendezvous.
    pub by_hand: Option<ByHand>,
    /// UDP port to receive media on, where that is not the port that everything else uses.
    pub receive_port: Option<u16>,
    /// Private addresses are tried in other networks too.
    pub allow_private: bool,
    /// Whether the router may be asked for a port.
    pub port_mapping: bool,
    /// Whether a relay is used where no direct path opens.
    pub use_relay: bool,
    /// A relay to use before what the rendezvous offers.
    pub relay: Option<RelayOffer>,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// An introduction carried by people.
#[derive(Debug, Clone)]
pub struct ByHand {
    /// What the broadcaster offers.
    pub offer: Offer,
    /// STUN servers to ask, each HOST:PORT.
    pub stun: Vec<String>,
    /// How long to wait for the broadcaster.
    pub wait: Duration,
}

/// What `watch` does.
#[derive(Debug)]
pub struct Watch {
    /// Whom to reach.
    pub target: Target,
    /// Where picture and sound go: at least one.
    pub outputs: Vec<Output>,
    /// From capture to release, beyond the one-way delay.
    pub latency: Latency,
    /// When to end.
    pub duration: Option<Duration>,
    /// Where in a stored file to begin.
    pub start: Duration,
    /// Which of its sound tracks to play, from 0.
    pub sound: u32,
    /// Whether to print statistics.
    pub stats: Option<StatsFormat>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
}

/// The latency where none is given.
pub const DEFAULT_LATENCY: Duration = Duration::from_millis(200);

/// Latency that makes sense: below, no packet is ever in time; above, it is no live stream.
const LATENCIES: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(30);

impl Command {
    /// The command that these flags ask for.
    pub fn load(args: Args) -> Result<Self, Failure> {
        let mut settings = load_settings(args.config.as_deref())?;
        settings.log_format = args.log_format.unwrap_or(settings.log_format);
        match args.action {
            Action::List { link, json, thumbnails } => {
                let json = json || settings.json;
                let target = settings.target(parse_link(&link)?)?;
                Ok(Self::List(Box::new(List { target, json, thumbnails })))
            }
            Action::Fetch { link, files, output, force } => {
                let target = settings.target(parse_link(&link)?)?;
                Ok(Self::Fetch(Box::new(Fetch { target, files, output, force })))
            }
            Action::Check { server, json } => {
                let (host, port) = parse_host_port(&server).ok_or_else(|| {
                    Failure::usage(format!("'{server}' is no HOST:PORT of a rendezvous"))
                })?;
                let json = json || settings.json;
                Ok(Self::Check(Check { host, port, json, log_format: settings.log_format }))
            }
            Action::Play { output } => {
                let outputs = in_full().unwrap_or(output);
                Ok(Self::Play { outputs, log_format: settings.log_format })
            }
            Action::Watch(WatchArgs { link, flags }) => {
                let target = settings.target(parse_link(&link)?)?;
                settings.watch(target, flags)
            }
            Action::Answer { offer, flags, stun, wait } => {
                let offer: Offer = offer
                    .parse()
                    .map_err(|error| Failure::usage(format!("that is no offer: {error}")))?;
                let link = Link {
                    servers: Vec::new(),
                    broadcaster: offer.broadcaster,
                    target: protocol::link::Target::Channel(offer.channel.clone()),
                    secret: offer.secret.clone(),
                };
                let stun = [stun, settings.stun.clone(), offer.stun.clone()];
                let stun = stun.into_iter().find(|named| !named.is_empty()).unwrap_or_default();
                let wait = wait.unwrap_or(settings.wait);
                if wait.is_zero() {
                    return Err(Failure::usage("--wait 0s leaves no time to carry the answer"));
                }
                let mut target = settings.target(link)?;
                target.by_hand = Some(ByHand { offer, stun, wait });
                let command = settings.watch(target, flags)?;
                match &command {
                    Self::Watch(watch) if watch.outputs.contains(&Output::Stdout) => {
                        Err(Failure::usage(
                            "the answer is printed on standard output; choose another --output",
                        ))
                    }
                    _ => Ok(command),
                }
            }
        }
    }

    /// How log lines look.
    pub fn log_format(&self) -> LogFormat {
        match self {
            Self::Watch(watch) => watch.target.log_format,
            Self::List(list) => list.target.log_format,
            Self::Fetch(fetch) => fetch.target.log_format,
            Self::Check(check) => check.log_format,
            Self::Play { log_format, .. } => *log_format,
        }
    }
}

fn load_settings(path: Option<&Path>) -> Result<Settings, Failure> {
    Ok(service::config::load(path)?)
}

/// The outputs as the viewer told them to a process of its own.
fn in_full() -> Option<Vec<Output>> {
    let texts: Vec<String> = serde_json::from_str(&std::env::var(OUTPUTS).ok()?).ok()?;
    texts.iter().map(|text| text.parse().ok()).collect()
}

/// Outputs as the text of `--output`.
mod outputs {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::media::Output;

    pub(super) fn serialize<S: Serializer>(outputs: &[Output], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(outputs.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Output>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    const LINK: &str = "punchcast://h:1/AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE/live";

    fn load(flags: &[&str]) -> Result<Command, String> {
        let args = ["punchcast-viewer", "watch", LINK].iter().chain(flags);
        let args = Args::try_parse_from(args).map_err(|error| error.to_string())?;
        Command::load(args).map_err(|failure| failure.to_string())
    }

    #[test]
    fn the_shipped_file_equals_the_defaults() {
        let text = include_str!("../../configs/viewer.yaml");
        let settings: Settings = service::config::parse(text).expect("parses");
        assert_eq!(settings, Settings::default());
        let keys = serde_yaml::to_value(Settings::default()).expect("serializes");
        for key in keys.as_mapping().expect("a mapping").keys() {
            let key = key.as_str().expect("a name");
            assert!(text.contains(&format!("{key}:")), "configs/viewer.yaml lacks {key}");
        }
    }

    #[test]
    fn flags_are_read() {
        let flags =
            ["--output", "null", "--output", "record:a.mkv", "--for", "2s", "--latency", "1s"];
        match load(&flags).expect("legal") {
            Command::Watch(watch) => {
                assert_eq!(watch.outputs.len(), 2);
                assert_eq!(watch.duration, Some(Duration::from_secs(2)));
                assert_eq!(watch.latency, Latency::Fixed(Duration::from_secs(1)));
            }
            _ => panic!("asked to watch"),
        }
    }

    #[test]
    fn a_link_may_come_by_standard_input_and_leaves_the_rest() {
        let text = format!("{LINK}#c2VjcmV0\nseek 90s\n");
        let mut input = text.as_bytes();
        let link = read_link(&mut input).expect("a link");
        assert!(link.secret.is_some() && link.to_string().starts_with(LINK));
        assert_eq!(input, b"seek 90s\n");
        for nothing in ["", "\n", "http://example.com\n"] {
            let error = read_link(&mut nothing.as_bytes()).expect_err(nothing).to_string();
            assert!(error.contains("standard input"), "{error}");
        }
    }

    #[test]
    fn a_check_needs_a_server() {
        let load = |server: &str| {
            let args = Args::try_parse_from(["punchcast-viewer", "check", server, "--json"]);
            Command::load(args.expect("legal flags")).map_err(|failure| failure.to_string())
        };
        match load("[::1]:9").expect("legal") {
            Command::Check(check) => {
                assert_eq!((check.host.as_str(), check.port, check.json), ("::1", 9, true));
            }
            other => panic!("{other:?}"),
        }
        assert!(load("rendezvous.example").expect_err("no port").contains("HOST:PORT"));
    }

    #[test]
    fn contradictions_are_refused() {
        let table: [(&[&str], &str); 4] = [
            (&["--stats", "json", "--output", "stdout"], "drop one"),
            (&["--latency", "0s"], "latency"),
            (&["--output", "avi"], "record:PATH"),
            (&["--for", "soon"], "--for"),
        ];
        for (flags, expected) in table {
            let error = load(flags).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }
}
