//! Flags and configuration file: flags win over file, file over defaults.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use service::config::ConfigError;
use service::log::LogFormat;

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
    /// TCP address of the metrics listener.
    pub metrics: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Bounds on what strangers can make the server hold.
    pub limits: Limits,
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
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 20_000, broadcasters: 5_000, introductions_per_connection: 32 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), DEFAULT_PORT),
            metrics: None,
            log_format: LogFormat::default(),
            limits: Limits::default(),
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
        for key in keys.as_mapping().expect("a mapping").keys() {
            let key = key.as_str().expect("a name");
            assert!(text.contains(&format!("{key}:")), "configs/rendezvous.yaml lacks {key}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 9));
        let args = Args { listen: Some(listen), ..Args::default() };
        assert_eq!(Config::load(args).expect("loads").listen, listen);
    }
}
