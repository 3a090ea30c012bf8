//! Flags and configuration file: flags win over file, file over defaults.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use protocol::units::Bitrate;
use serde::{Deserialize, Serialize};
use service::config::ConfigError;
use service::log::LogFormat;

use crate::permits::Broadcasters;
use crate::second::Second;

/// STUN's port (RFC 8489): plain STUN clients look there, and firewalls know it.
pub const DEFAULT_PORT: u16 = 3478;

/// Tells broadcasters and viewers each other's external address. No media passes through it.
#[derive(Debug, Default, clap::Parser)]
#[command(name = "punchcast-rendezvous", version)]
pub struct Args {
    /// Configuration file (YAML); see configs/rendezvous.yaml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// UDP address to listen on `[default: [::]:3478, both IP versions]`.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Serve /metrics, /healthz and /readyz on this TCP address.
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
    /// How log lines look.
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

/// All settings of a rendezvous.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// UDP address to listen on.
    pub listen: SocketAddr,
    /// UDP port at which STUN alone is answered too, for who finds out what a NAT does. `Auto` is the
    /// one after that of `listen`; any free one where that is 0.
    pub second_port: Second<u16>,
    /// Address at which STUN is answered too. `Auto` is another IPv4 address of the same interface, if
    /// it has one.
    pub second_address: Second<IpAddr>,
    /// TCP address of the metrics listener.
    pub metrics: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Who may broadcast.
    pub broadcasters: Broadcasters,
    /// Bounds on what strangers can make the server hold.
    pub limits: Limits,
    /// Carrying media where no direct path opens.
    pub relay: Relay,
}

/// Bounds on what strangers can make the server hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at once, broadcasters and viewers together.
    pub connections: usize,
    /// Registered broadcasters at once.
    pub broadcasters: usize,
    /// Introductions that one viewer connection may ask for.
    pub introductions_per_connection: u32,
    /// Introductions that viewers of one IPv4 address or IPv6 /56 may ask for at once; a tenth of them come back each
    /// second.
    pub introductions_per_household: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            broadcasters: 5_000,
            introductions_per_connection: 32,
            introductions_per_household: 300,
        }
    }
}

/// Carrying media where no direct path opens (TURN, RFC 8656).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Relay {
    /// Whether there is a relay, and which.
    pub mode: RelayMode,
    /// UDP port of the embedded relay; by default the one two above the rendezvous's.
    pub port: Option<u16>,
    /// IP address that relayed addresses are told with; by default the one that a client reaches us
    /// at.
    pub external_address: Option<IpAddr>,
    /// First UDP port of relayed addresses.
    pub first_port: u16,
    /// Last UDP port of relayed addresses.
    pub last_port: u16,
    /// The external relay, as HOST:PORT.
    pub server: Option<String>,
    /// Secret shared with the external relay.
    pub secret: Option<RelaySecret>,
    /// How long credentials may be used to allocate a relayed address.
    #[serde(with = "humantime_serde")]
    pub credential_lifetime: Duration,
    /// Relayed addresses that one viewer may hold at once.
    pub allocations_per_viewer: usize,
    /// Relayed addresses at once.
    pub allocations: usize,
    /// Most that is relayed for one viewer, both directions together.
    pub rate_per_viewer: Bitrate,
    /// Most that is relayed in all, both directions together.
    pub rate: Bitrate,
    /// Whether private addresses may be relayed to.
    pub allow_private_peers: bool,
}

/// Whether there is a relay, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayMode {
    /// In this process.
    #[default]
    Embedded,
    /// A TURN server elsewhere that shares a secret with us.
    External,
    /// None: media takes a direct path or none.
    Off,
}

/// A secret shared with an external relay. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RelaySecret(String);

impl RelaySecret {
    /// The secret itself.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for RelaySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelaySecret(…)")
    }
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            mode: RelayMode::default(),
            port: None,
            external_address: None,
            // RFC 8656, section 7.2: the dynamic ports.
            first_port: 49152,
            last_port: 65535,
            server: None,
            secret: None,
            credential_lifetime: Duration::from_secs(600),
            allocations_per_viewer: 4,
            allocations: 200,
            rate_per_viewer: Bitrate::bits_per_second(20_000_000),
            rate: Bitrate::bits_per_second(200_000_000),
            allow_private_peers: false,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), DEFAULT_PORT),
            second_port: Second::Auto,
            second_address: Second::Auto,
            metrics: None,
            log_format: LogFormat::default(),
            broadcasters: Broadcasters::default(),
            limits: Limits::default(),
            relay: Relay::default(),
        }
    }
}

impl Config {
    /// The settings that these flags ask for.
    pub fn load(args: Args) -> Result<Self, ConfigError> {
        let mut config: Self = service::config::load(args.config.as_deref())?;
        config.listen = args.listen.unwrap_or(config.listen);
        config.metrics = args.metrics.or(config.metrics);
        config.log_format = args.log_format.unwrap_or(config.log_format);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_equals_the_defaults() {
        let text = include_str!("../../configs/rendezvous.yaml");
        let config: Config = service::config::parse(text).expect("parses");
        assert_eq!(config, Config::default());
        let keys = serde_yaml::to_value(Config::default()).expect("serializes");
        let mut mappings = vec![&keys];
        while let Some(mapping) = mappings.pop() {
            for (key, value) in mapping.as_mapping().expect("a mapping") {
                let key = key.as_str().expect("a name");
                assert!(text.contains(&format!("{key}:")), "configs/rendezvous.yaml lacks {key}");
                mappings.extend(value.is_mapping().then_some(value));
            }
        }
    }

    #[test]
    fn one_line_switches_the_relay_off() {
        let config: Config = service::config::parse("relay: {mode: off}").expect("parses");
        assert_eq!(config.relay.mode, RelayMode::Off);
        assert_eq!(config.relay, Relay { mode: RelayMode::Off, ..Relay::default() });
    }

    #[test]
    fn the_secret_is_not_printed() {
        let config: Config = service::config::parse("relay: {secret: hush-hush}").expect("parses");
        assert_eq!(
            config.relay.secret.as_ref().map(RelaySecret::as_bytes),
            Some(&b"hush-hush"[..])
        );
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn second_places_are_found_given_or_off() {
        for (text, port, address) in [
            ("second_port: auto", Second::Auto, Second::Auto),
            ("second_port: off\nsecond_address: off", Second::Off, Second::Off),
            (
                "second_port: 9\nsecond_address: 192.0.2.1",
                Second::At(9),
                Second::At(IpAddr::from([192, 0, 2, 1])),
            ),
            ("second_address: \"2001:db8::1\"", Second::Auto, {
                Second::At("2001:db8::1".parse().expect("an address"))
            }),
        ] {
            let config: Config = service::config::parse(text).expect(text);
            assert_eq!((config.second_port, config.second_address), (port, address), "{text}");
        }
        for text in ["second_port: 70000", "second_address: here", "second_port: [1]"] {
            let error = service::config::parse::<Config>(text).expect_err(text).to_string();
            assert!(error.contains("auto, off or"), "{error}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 9));
        let args = Args { listen: Some(listen), ..Args::default() };
        assert_eq!(Config::load(args).expect("loads").listen, listen);
    }
}
