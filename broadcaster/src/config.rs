//! Flags and configuration file: flags win over file, file over defaults.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::link::{MAX_SECRET, MAX_SERVERS, Secret, parse_host_port};
use protocol::signalling::Token;
use protocol::units::Bitrate;
use serde::{Deserialize, Serialize};
use service::exit::Failure;
use service::log::LogFormat;

use crate::media::{AudioConfig, SourceSpec, VideoConfig};
use crate::operator::{self, NewBitrate, NewLink};
use crate::{apart, devices};

mod channels;

pub(crate) use channels::LiveConfig;
pub use channels::{ChannelConfig, MOST_CHANNELS};

/// UDP port of an embedded rendezvous where none is named: STUN's.
pub const EMBEDDED_PORT: u16 = 3478;

/// Keys change no more often: viewers hold those of the last 32 only.
const LEAST_KEY_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of a channel's secret, at least: who asks a million times a second guesses 8 in 300,000 years.
const LEAST_SECRET: usize = 8;

/// How one is made, by Debian's own tools.
const MAKE_SECRET: &str = "make one with: head -c 16 /dev/urandom | basenc --base64url | tr -d =";

/// Streams a camera, a test picture, a file or a GStreamer pipeline straight to many viewers. Without any flag it
/// streams the first camera to this network.
#[derive(Debug, Default, clap::Parser)]
#[command(name = "punchcast-broadcaster", version)]
pub struct Args {
    /// What to ask of a broadcaster that runs, or of this machine; without it, a broadcaster is started.
    #[command(subcommand)]
    pub action: Option<Action>,
    /// Configuration file (YAML); see configs/broadcaster.yaml.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// The rendezvous that introduces viewers. May be given several times: any one of them suffices.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "embedded_rendezvous")]
    pub rendezvous: Vec<String>,
    /// Run a rendezvous in this process, for a machine with a public address or on a LAN.
    #[arg(long, value_name = "ADDR:PORT", num_args = 0..=1, default_missing_value = "[::]:3478")]
    pub embedded_rendezvous: Option<SocketAddr>,
    /// Print an offer for viewers to answer by hand, and need no rendezvous.
    #[arg(long, conflicts_with_all = ["rendezvous", "embedded_rendezvous"])]
    pub offer: bool,
    /// STUN server that tells our external address for --offer. May be given several times.
    #[arg(long, value_name = "HOST:PORT")]
    pub stun: Vec<String>,
    /// What to stream: test, `camera[:DEVICE]` (a device, name or number of the list that `devices` shows),
    /// `screen[:DISPLAY][,WIDTHxHEIGHT+X+Y][,sound]` (screen:portal on a Wayland desktop), file:PATH (a file, folder or playlist, looped),
    /// rtsp://…, srt://…, rtmp://…, rtp://… or pipeline:GST-LAUNCH-FRAGMENT.
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<SourceSpec>,
    /// Name of the channel, the last part of its link.
    #[arg(long, value_name = "NAME")]
    pub channel: Option<String>,
    /// Offer the stored files of this folder, to be played or copied on demand.
    #[arg(long, value_name = "DIR")]
    pub library: Option<PathBuf>,
    /// What the uplink carries, as in 20M: bounds viewers and joining bursts.
    #[arg(long, value_name = "RATE")]
    pub uplink: Option<Bitrate>,
    /// UDP address for media and control [default: any port, both IP versions].
    #[arg(long, value_name = "ADDR:PORT")]
    pub bind: Option<SocketAddr>,
    /// Serve a status page, /metrics, /healthz and /readyz on this TCP address.
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Write the watch links to this file, one a line.
    #[arg(long, value_name = "FILE")]
    pub link_file: Option<PathBuf>,
    /// Folder of the broadcaster's key [default: $XDG_STATE_HOME/punchcast].
    #[arg(long, value_name = "DIR", global = true)]
    pub state: Option<PathBuf>,
    /// How log lines look.
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

impl Args {
    /// Whether nothing is said of what to broadcast and how to be found, as on a first run: then it is a camera,
    /// on this network.
    fn asks_for_nothing(&self) -> bool {
        self.config.is_none()
            && self.source.is_none()
            && self.library.is_none()
            && self.rendezvous.is_empty()
            && self.embedded_rendezvous.is_none()
            && !self.offer
    }
}

/// What is asked of a broadcaster that runs, or of this machine.
#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
pub enum Action {
    /// Show who watches or knocks, let a viewer in that knocks, or send one away.
    Viewers {
        /// Which of the three.
        #[command(subcommand)]
        what: Viewers,
    },
    /// Show the cameras, microphones and screens of this machine, and what to write for each.
    Devices {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Mint links with a name, and perhaps an end and a number of viewers; show and revoke them.
    Link {
        /// Which of the three.
        #[command(subcommand)]
        what: Links,
    },
    /// Have pictures encoded at another bitrate from now on, until the broadcaster ends; without one, show what they are
    /// encoded at, and what of it is sent.
    Bitrate {
        /// Bits a second, as in 1500k or 4M.
        rate: Option<Bitrate>,
        /// Of this rendition [default: the picture itself].
        #[arg(long, value_name = "NAME", requires = "rate")]
        rendition: Option<String>,
        /// Of this channel, where there are several.
        #[arg(long, value_name = "NAME")]
        channel: Option<String>,
        /// Show it as one JSON object.
        #[arg(long, conflicts_with = "rate")]
        json: bool,
    },
    /// What a broadcaster has a process of its own do: capture and encode, as it says over a socket on standard input.
    #[command(hide = true)]
    Source,
}

/// What is asked about links.
#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
pub enum Links {
    /// Mint a link, and print it.
    New {
        /// What the list calls it [default: a number].
        #[arg(long)]
        name: Option<String>,
        /// For how long it opens, as in 2h or 7days.
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        lasts: Option<Duration>,
        /// For how many viewers it opens.
        #[arg(long, value_name = "NUMBER")]
        uses: Option<u32>,
        /// Have it lead to this stored file, in place of a channel.
        #[arg(long, value_name = "PATH", conflicts_with = "channel")]
        file: Option<String>,
        /// Have it lead to this channel, where there are several.
        #[arg(long, value_name = "NAME")]
        channel: Option<String>,
    },
    /// Show the links that there are; never their secrets.
    List {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Let nobody in by a link any more, and send away who came by it.
    Revoke {
        /// Its name.
        name: String,
    },
}

/// What is asked about viewers.
#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
pub enum Viewers {
    /// Show who watches, and who knocks.
    List {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Let a viewer in that knocks, and whoever comes from its address later.
    Admit {
        /// Its number, as the list and the log have it.
        viewer: u32,
    },
    /// Send a viewer away: it gets nothing more, and nobody from its address is let in until a restart.
    Remove {
        /// Its number, as the list and the log have it.
        viewer: u32,
    },
}

impl Action {
    /// Asks, and says what is to be printed.
    ///
    /// # Errors
    ///
    /// Where no broadcaster answers, or it refuses; or where GStreamer does not start.
    pub fn run(&self, args: &Args) -> Result<String, Failure> {
        let state = || Config::state_of(args);
        match self {
            Self::Devices { json } => devices::show(*json),
            Self::Source => {
                service::log::init(args.log_format.unwrap_or_default());
                apart::run().map(|()| String::new())
            }
            Self::Viewers { what: Viewers::List { json } } => {
                operator::list_viewers(&state()?, *json)
            }
            Self::Viewers { what: Viewers::Admit { viewer } } => {
                operator::admit_viewer(&state()?, *viewer)
            }
            Self::Viewers { what: Viewers::Remove { viewer } } => {
                operator::remove_viewer(&state()?, *viewer)
            }
            Self::Link { what: Links::New { name, lasts, uses, file, channel } } => {
                let (name, file, channel) = (name.clone(), file.clone(), channel.clone());
                let lasts = lasts.map(|lasts| lasts.as_secs().max(1));
                operator::new_link(&state()?, NewLink { name, lasts, uses: *uses, file, channel })
            }
            Self::Link { what: Links::List { json } } => operator::list_links(&state()?, *json),
            Self::Bitrate { rate: None, json, channel, .. } => {
                operator::list_bitrates(&state()?, channel.clone(), *json)
            }
            Self::Bitrate { rate: Some(rate), rendition, channel, .. } => {
                let (rendition, channel) = (rendition.clone(), channel.clone());
                let wanted = NewBitrate { rate: *rate, rendition, channel };
                operator::set_bitrate(&state()?, wanted)
            }
            Self::Link { what: Links::Revoke { name } } => operator::revoke_link(&state()?, name),
        }
    }
}

/// All settings of a broadcaster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The rendezvous, as HOST:PORT; a list of several, of which any one suffices.
    #[serde(with = "one_or_more")]
    pub rendezvous: Vec<String>,
    /// UDP address of a rendezvous within this process.
    pub embedded_rendezvous: Option<SocketAddr>,
    /// Whether an embedded rendezvous has a relay, whose traffic this machine's uplink carries.
    pub embedded_relay: bool,
    /// Print an offer for viewers to answer by hand, in place of registering at a rendezvous.
    pub offer: bool,
    /// STUN servers that tell our external address for an offer.
    pub stun: Vec<String>,
    /// Host that links name for an embedded rendezvous, where it is not this machine's own address.
    pub advertise: Option<String>,
    /// What the rendezvous is shown, where it takes not everybody.
    pub rendezvous_token: Option<String>,
    /// What to stream.
    pub source: SourceSpec,
    /// Name of the channel.
    pub channel: String,
    /// Several channels, in place of one, each with a source of its own.
    pub channels: Vec<ChannelConfig>,
    /// Folder of the stored files that are offered.
    pub library: Option<PathBuf>,
    /// Who does not show this secret is refused: base64url text of 8–64 bytes. None: open to all.
    pub secret: Option<String>,
    /// Only who shows the secret, or a link that was minted, is let in.
    pub links_only: bool,
    /// The operator admits each viewer.
    pub knock: bool,
    /// How raw pictures are encoded.
    pub video: VideoConfig,
    /// How raw sound is encoded.
    pub audio: AudioConfig,
    /// How long packets are sealed with one key.
    #[serde(with = "crate::media::duration")]
    pub key_interval: Duration,
    /// What the uplink carries.
    pub uplink: Option<Bitrate>,
    /// How fast one joining viewer gets the GOP so far, at most.
    pub join_rate: Bitrate,
    /// Most viewers at once.
    pub max_viewers: usize,
    /// Private addresses named by viewers of other networks are tried too.
    pub allow_private: bool,
    /// The router is asked to map an external port to ours (PCP, NAT-PMP, UPnP).
    pub port_mapping: bool,
    /// UDP address for media and control.
    pub bind: Option<SocketAddr>,
    /// The metrics listener: its TCP address, or what more there is to set.
    pub metrics: MetricsConfig,
    /// Where the watch links are written to.
    pub link_file: Option<PathBuf>,
    /// Folder of the broadcaster's key.
    pub state: Option<PathBuf>,
    /// Where the channel's keys are written to, for decrypting captures. For tests only.
    pub key_log: Option<PathBuf>,
    /// How log lines look.
    pub log_format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rendezvous: Vec::new(),
            embedded_rendezvous: None,
            embedded_relay: true,
            offer: false,
            stun: Vec::new(),
            advertise: None,
            rendezvous_token: None,
            source: SourceSpec::default(),
            channel: "live".into(),
            channels: Vec::new(),
            library: None,
            secret: None,
            links_only: false,
            knock: false,
            video: VideoConfig::default(),
            audio: AudioConfig::default(),
            key_interval: Duration::from_secs(3600),
            uplink: None,
            join_rate: Bitrate::bits_per_second(40_000_000),
            max_viewers: 10_000,
            allow_private: false,
            port_mapping: true,
            bind: None,
            metrics: MetricsConfig::default(),
            link_file: None,
            state: None,
            key_log: None,
            log_format: LogFormat::default(),
        }
    }
}

/// Viewers with series of their own in the metrics, and on the status page, where nothing else is said.
pub const VIEWER_SERIES: usize = 100;

/// What the metrics listener shows, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Its TCP address; without one there is none.
    pub listen: Option<SocketAddr>,
    /// Viewers with series of their own, the worst loss first.
    pub viewer_series: usize,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { listen: None, viewer_series: VIEWER_SERIES }
    }
}

/// As the mapping is written.
#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MetricsMapping {
    listen: Option<SocketAddr>,
    viewer_series: usize,
}

impl Default for MetricsMapping {
    fn default() -> Self {
        let MetricsConfig { listen, viewer_series } = MetricsConfig::default();
        Self { listen, viewer_series }
    }
}

impl Serialize for MetricsConfig {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let Self { listen, viewer_series } = *self;
        if viewer_series == VIEWER_SERIES {
            return listen.serialize(s);
        }
        MetricsMapping { listen, viewer_series }.serialize(s)
    }
}

/// Nothing, an address, or a mapping.
impl<'de> Deserialize<'de> for MetricsConfig {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> serde::de::Visitor<'de> for Form {
            type Value = MetricsConfig;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("ADDR:PORT, or a mapping with listen and viewer_series")
            }

            fn visit_unit<E>(self) -> Result<MetricsConfig, E> {
                Ok(MetricsConfig::default())
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MetricsConfig, E> {
                let unlike = || E::invalid_value(serde::de::Unexpected::Str(text), &self);
                let listen = Some(text.parse().map_err(|_| unlike())?);
                Ok(MetricsConfig { listen, ..MetricsConfig::default() })
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                map: A,
            ) -> Result<MetricsConfig, A::Error> {
                let mapping = serde::de::value::MapAccessDeserializer::new(map);
                let MetricsMapping { listen, viewer_series } = Deserialize::deserialize(mapping)?;
                Ok(MetricsConfig { listen, viewer_series })
            }
        }

        d.deserialize_any(Form)
    }
}

/// Where viewers find the rendezvous.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rendezvous {
    /// Elsewhere: one or more, each with host and UDP port.
    At(Vec<(String, u16)>),
    /// In this process, on this UDP address.
    Embedded(SocketAddr),
    /// None: people carry offers and answers.
    ByHand,
}

impl Config {
    /// The settings that these flags ask for.
    pub fn load(args: Args) -> Result<Self, Failure> {
        let mut config: Self = service::config::load(args.config.as_deref())?;
        if args.asks_for_nothing() {
            config.source = SourceSpec::Camera(None);
            config.embedded_rendezvous = Some(([0; 8], EMBEDDED_PORT).into());
            // Nobody becomes a relay for others unasked.
            config.embedded_relay = false;
        }
        if !args.rendezvous.is_empty() || args.embedded_rendezvous.is_some() {
            config.rendezvous = args.rendezvous;
            config.embedded_rendezvous = args.embedded_rendezvous;
            config.offer = false;
        }
        if args.offer {
            config.offer = true;
            config.rendezvous.clear();
            config.embedded_rendezvous = None;
        }
        if !args.stun.is_empty() {
            config.stun = args.stun;
        }
        if !config.channels.is_empty() && (args.source.is_some() || args.channel.is_some()) {
            return Err(Failure::usage(
                "the configuration file has several channels, which --source and --channel cannot replace",
            ));
        }
        config.source = args.source.unwrap_or(config.source);
        config.channel = args.channel.unwrap_or(config.channel);
        config.library = args.library.or(config.library);
        config.uplink = args.uplink.or(config.uplink);
        config.bind = args.bind.or(config.bind);
        config.metrics.listen = args.metrics.or(config.metrics.listen);
        config.link_file = args.link_file.or(config.link_file);
        config.state = args.state.or(config.state);
        config.log_format = args.log_format.unwrap_or(config.log_format);
        config.check()?;
        Ok(config)
    }

    /// The state folder that these flags name: of a broadcaster that runs with the same.
    ///
    /// # Errors
    ///
    /// Where there is none, or the configuration cannot be read.
    pub fn state_of(args: &Args) -> Result<PathBuf, Failure> {
        let config: Self = service::config::load(args.config.as_deref())?;
        Self { state: args.state.clone().or(config.state.clone()), ..config }.state_folder()
    }

    fn check(&self) -> Result<(), Failure> {
        self.check_channels()?;
        if self.source == SourceSpec::None && self.library.is_none() {
            return Err(Failure::usage(
                "source none broadcasts nothing; name a folder of stored files with --library DIR",
            ));
        }
        if self.key_interval < LEAST_KEY_INTERVAL {
            return Err(Failure::usage(format!(
                "key_interval is {:?}; expected {LEAST_KEY_INTERVAL:?} or more",
                self.key_interval
            )));
        }
        self.rendezvous()?;
        self.secret()?;
        self.rendezvous_token()?;
        Ok(())
    }

    /// Where the rendezvous is.
    pub fn rendezvous(&self) -> Result<Rendezvous, Failure> {
        if self.offer {
            return match self.stun[..] {
                [] => Err(Failure::usage(
                    "an offer needs a STUN server that tells our external address: give --stun \
                     HOST:PORT",
                )),
                _ => Ok(Rendezvous::ByHand),
            };
        }
        match (&self.rendezvous[..], self.embedded_rendezvous) {
            ([_, ..], Some(_)) => Err(Failure::usage(
                "both a rendezvous and an embedded one are named; choose one of them",
            )),
            ([], Some(address)) => Ok(Rendezvous::Embedded(address)),
            ([], None) => Err(Failure::usage(
                "no rendezvous is named: give --rendezvous HOST:PORT, or --embedded-rendezvous to \
                 run one here, or --offer to do without",
            )),
            (named, None) if named.len() > MAX_SERVERS => {
                Err(Failure::usage(format!("more than {MAX_SERVERS} rendezvous are named")))
            }
            (named, None) => {
                let parse = |text: &String| {
                    parse_host_port(text).ok_or_else(|| {
                        Failure::usage(format!("'{text}' is no HOST:PORT of a rendezvous"))
                    })
                };
                named.iter().map(parse).collect::<Result<_, _>>().map(Rendezvous::At)
            }
        }
    }

    /// What the rendezvous is shown.
    pub fn rendezvous_token(&self) -> Result<Option<Token>, Failure> {
        let parse = |text: &String| {
            Token::new(text).ok_or_else(|| Failure::usage("rendezvous_token has 1 to 256 bytes"))
        };
        self.rendezvous_token.as_ref().map(parse).transpose()
    }

    /// The channel's secret.
    pub fn secret(&self) -> Result<Option<Secret>, Failure> {
        let parse = |text: &String| {
            let secret = Secret::parse(text).map_err(|_| {
                Failure::usage(format!(
                    "secret is not base64url text of {LEAST_SECRET} to {MAX_SECRET} bytes; \
                     {MAKE_SECRET}"
                ))
            })?;
            match secret.size() {
                LEAST_SECRET.. => Ok(secret),
                size => Err(Failure::usage(format!(
                    "secret stands for {size} bytes, which can be guessed; {LEAST_SECRET} or more \
                     are needed; {MAKE_SECRET}"
                ))),
            }
        };
        self.secret.as_ref().map(parse).transpose()
    }

    /// The folder of the broadcaster's key.
    pub fn state_folder(&self) -> Result<PathBuf, Failure> {
        let from =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        self.state
            .clone()
            .or_else(|| from("STATE_DIRECTORY"))
            .or_else(|| from("XDG_STATE_HOME").map(|path| path.join("punchcast")))
            .or_else(|| from("HOME").map(|home| home.join(Path::new(".local/state/punchcast"))))
            .ok_or_else(|| Failure::usage("no state folder: give one with --state DIR"))
    }
}

/// One text, several, or null for none.
mod one_or_more {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form {
        None(()),
        One(String),
        More(Vec<String>),
    }

    pub(super) fn serialize<S: Serializer>(texts: &[String], s: S) -> Result<S::Ok, S::Error> {
        let form = match texts {
            [] => Form::None(()),
            [one] => Form::One(one.clone()),
            more => Form::More(more.to_vec()),
        };
        form.serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
        Ok(match Form::deserialize(d)? {
            Form::None(()) => Vec::new(),
            Form::One(text) => vec![text],
            Form::More(texts) => texts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_equals_the_defaults() {
        let text = include_str!("../../configs/broadcaster.yaml");
        let config: Config = service::config::parse(text).expect("parses");
        assert_eq!(config, Config::default());
        let keys = serde_yaml::to_value(Config::default()).expect("serializes");
        for key in keys.as_mapping().expect("a mapping").keys() {
            let key = key.as_str().expect("a name");
            assert!(text.contains(&format!("{key}:")), "configs/broadcaster.yaml lacks {key}");
        }
    }

    #[test]
    fn metrics_are_an_address_or_a_mapping() {
        let metrics = |yaml: &str| {
            service::config::parse::<Config>(yaml)
                .map(|config| config.metrics)
                .map_err(|e| e.to_string())
        };
        let address = Some("127.0.0.1:9402".parse().expect("an address"));
        let table = [
            ("metrics: null", None, 100),
            ("metrics: 127.0.0.1:9402", address, 100),
            ("metrics:\n  listen: 127.0.0.1:9402\n  viewer_series: 7", address, 7),
            ("metrics:\n  viewer_series: 7", None, 7),
        ];
        for (yaml, listen, viewer_series) in table {
            assert_eq!(metrics(yaml), Ok(MetricsConfig { listen, viewer_series }), "{yaml}");
        }
        let wrong = metrics("channel: a\nmetrics: 9402").expect_err("no address");
        assert!(wrong.contains("ADDR:PORT") && wrong.contains("line 2"), "{wrong}");
        let unknown = metrics("channel: a\nmetrics:\n  viewers: 7").expect_err("no such key");
        assert!(unknown.contains("`viewers`") && unknown.contains("line 3"), "{unknown}");
    }

    #[test]
    fn a_rendezvous_must_be_named_and_only_one() {
        let test = Args { source: Some(SourceSpec::Test), ..Args::default() };
        let missing = Config::load(test).expect_err("none named");
        assert!(missing.message.contains("--embedded-rendezvous"), "{missing}");
        let first_run = Config::load(Args::default()).expect("it is a camera on this network");
        assert_eq!(first_run.source, SourceSpec::Camera(None));
        assert!(matches!(first_run.rendezvous(), Ok(Rendezvous::Embedded(_))));
        assert!(!first_run.embedded_relay, "nobody asked for it");
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        let both = Config {
            rendezvous: vec!["a:1".into()],
            embedded_rendezvous: Some(address),
            ..Config::default()
        };
        assert!(both.check().is_err());
        let embedded = Args { embedded_rendezvous: Some(address), ..Args::default() };
        let config = Config::load(embedded).expect("loads");
        assert_eq!(config.rendezvous().expect("one"), Rendezvous::Embedded(address));
        assert!(config.embedded_relay);
    }

    #[test]
    fn bad_values_say_what_was_expected() {
        let config = |channel: &str, rendezvous: &str, secret: Option<&str>| Config {
            channel: channel.into(),
            rendezvous: vec![rendezvous.into()],
            secret: secret.map(Into::into),
            ..Config::default()
        };
        let table = [
            (config("a/b", "h:1", None), "channel name"),
            (config("", "h:1", None), "channel name"),
            (config("a", "h", None), "HOST:PORT"),
            (config("a", "h:1", Some("not base64!")), "base64url"),
            (config("a", "h:1", Some("AA")), "1 bytes"),
            (config("a", "h:1", Some("AAAAAAAAAA")), "7 bytes"),
            (config("a", "h:1", Some("AAAAAAAAAA")), "basenc"),
        ];
        for (config, expected) in table {
            let failure = config.check().expect_err(expected);
            assert!(failure.message.contains(expected), "{failure}");
        }
        config("a", "h:1", Some("AAAAAAAAAAA")).check().expect("8 bytes");
    }
}
