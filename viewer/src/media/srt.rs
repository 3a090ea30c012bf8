//! `srt://HOST:PORT` and `srt://:PORT`: MPEG-TS over SRT, called or waited for, as people write it.

use std::fmt;
use std::time::Duration;

use super::options::{OptionError, Options, print, words};
use super::output::{host_and_port, print_host_and_port};

/// What SRT takes as the time for repairing losses where nothing else is said.
const LATENCY: Duration = Duration::from_millis(125);
const LATENCIES: std::ops::RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30);

/// How long a passphrase may be, in bytes, for SRT.
const PASSPHRASES: std::ops::RangeInclusive<usize> = 10..=79;

/// The longest stream id that SRT takes, in bytes.
const LONGEST_STREAM_ID: usize = 512;

/// Stands for a passphrase where others may read it. It parses as one.
const HIDDEN: &str = "**********";

/// The other side of an SRT connection.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Srt {
    host: String,
    port: u16,
    latency: Duration,
    passphrase: Option<String>,
    stream_id: Option<String>,
}

impl Srt {
    /// Who is called: name or address without brackets; `None` where callers are waited for.
    pub fn host(&self) -> Option<&str> {
        Some(self.host.as_str()).filter(|host| !host.is_empty())
    }

    /// Its UDP port, or ours where callers are waited for.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Within which losses are repaired.
    pub fn latency(&self) -> Duration {
        self.latency
    }

    /// What both sides know, for encryption.
    pub fn passphrase(&self) -> Option<&str> {
        self.passphrase.as_deref()
    }

    /// What the server is told the stream is.
    pub fn stream_id(&self) -> Option<&str> {
        self.stream_id.as_deref()
    }

    /// `HOST:PORT` or `:PORT`, perhaps with `?passphrase=…&latency=200ms&streamid=…`. `None` where that is no address.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, OptionError> {
        let (address, mut options) = Options::split(text)?;
        let latency = options.take_duration("latency", LATENCIES)?.unwrap_or(LATENCY);
        let passphrase = options.take("passphrase");
        let stream_id = options.take("streamid");
        options.end("passphrase, latency and streamid")?;
        if let Some(passphrase) = &passphrase
            && (!PASSPHRASES.contains(&passphrase.len()) || passphrase.contains('\0'))
        {
            let expected = "10 to 79 bytes long".to_owned();
            let value = format!("{} bytes", passphrase.len());
            return Err(OptionError::Value { key: "passphrase", expected, value });
        }
        if let Some(stream_id) = &stream_id
            && (!(1..=LONGEST_STREAM_ID).contains(&stream_id.len()) || stream_id.contains('\0'))
        {
            let expected = format!("1 to {LONGEST_STREAM_ID} bytes long");
            return Err(OptionError::Value { key: "streamid", expected, value: stream_id.clone() });
        }
        let of_address = match address.strip_prefix(':') {
            Some(port) => {
                port.parse().ok().filter(|&port| port != 0).map(|port| (String::new(), port))
            }
            None => host_and_port(address),
        };
        let of_address =
            of_address.map(|(host, port)| Self { host, port, latency, passphrase, stream_id });
        Ok(of_address)
    }

    /// As it was asked for, the passphrase included.
    pub(super) fn in_full(&self) -> String {
        InFull(self).to_string()
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, passphrase: Option<String>) -> fmt::Result {
        f.write_str("srt://")?;
        print_host_and_port(f, &self.host, self.port)?;
        let latency = (self.latency != LATENCY).then(|| words(self.latency));
        let stream_id = self.stream_id.clone();
        print(f, &[("passphrase", passphrase), ("latency", latency), ("streamid", stream_id)])
    }
}

struct InFull<'a>(&'a Srt);

impl fmt::Display for InFull<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, self.0.passphrase.clone())
    }
}

/// Without the passphrase, as it goes into logs.
impl fmt::Display for Srt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, self.passphrase.as_ref().map(|_| HIDDEN.to_owned()))
    }
}

impl fmt::Debug for Srt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
