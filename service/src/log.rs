//! Logs on standard error: text for people, JSON for machines, filtered by `RUST_LOG`.

use std::io::{IsTerminal, Write};

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}

impl LogFormat {
    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// What is logged where `RUST_LOG` says nothing.
const DEFAULT_FILTER: &str = "info,quinn=warn,quinn_proto=warn,rustls=warn,stun_types=error,\
                              stun_proto=error,turn_types=error,turn_client_proto=error";

/// Starts logging. A second call changes nothing.
pub fn init(format: LogFormat) {
    init_to(format, std::io::stderr, None);
}

/// As [`init`], to what `writer` gives, which is standard error by some way: each line is written at once. `without` is
/// a target that is left out where `RUST_LOG` says nothing.
pub fn init_to<W: Write + 'static>(format: LogFormat, writer: fn() -> W, without: Option<&str>) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| match without {
        Some(target) => format!("{DEFAULT_FILTER},{target}=off").into(),
        None => DEFAULT_FILTER.into(),
    });
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let result = match format {
        LogFormat::Text => builder.with_ansi(colours).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    // An error means that logging has begun already.
    let _ = result;
}
