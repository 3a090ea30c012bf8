//! `rtmp://HOST[:PORT]/APP/KEY`: H.264 and AAC to an RTMP server, as it is published to from OBS.

use std::fmt;

use super::output::{host_and_port, print_host_and_port};

/// RTMP's port.
const PORT: u16 = 1935;

/// Stands for the stream key where others may read it. It parses as one.
const HIDDEN: &str = "**********";

/// A server that is published to.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Rtmp {
    host: String,
    port: u16,
    application: String,
    key: String,
}

impl Rtmp {
    /// Name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where on the server; it may have slashes within.
    pub fn application(&self) -> &str {
        &self.application
    }

    /// Which stream: a secret, for many servers.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// `HOST[:PORT]/APP/KEY`. `None` where that is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, path) = text.split_once('/')?;
        let (application, key) = path.rsplit_once('/')?;
        let is_whole = |part: &str| !part.is_empty() && !part.contains(['\0', ' ']);
        if !is_whole(application) || !is_whole(key) {
            return None;
        }
        let has_port = address.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let (host, port) = if has_port {
            host_and_port(address)?
        } else {
            host_and_port(&format!("{address}:{PORT}"))?
        };
        let (application, key) = (application.to_owned(), key.to_owned());
        is_whole(&host).then_some(Self { host, port, application, key })
    }

    /// As it was asked for, the key included.
    pub(super) fn in_full(&self) -> String {
        InFull(self).to_string()
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, key: &str) -> fmt::Result {
        f.write_str("rtmp://")?;
        print_host_and_port(f, &self.host, self.port)?;
        write!(f, "/{}/{key}", self.application)
    }
}

struct InFull<'a>(&'a Rtmp);

impl fmt::Display for InFull<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, &self.0.key)
    }
}

/// Without the key, as it goes into logs.
impl fmt::Display for Rtmp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, HIDDEN)
    }
}

impl fmt::Debug for Rtmp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_written_as_in_obs_and_keys_stay_secret() {
        let whole = |text: &str| Rtmp::parse(text).map(|rtmp| rtmp.in_full());
        for (text, expected) in [
            ("live.example/app/key", "rtmp://live.example:1935/app/key"),
            ("live.example:1936/app/key", "rtmp://live.example:1936/app/key"),
            ("192.0.2.1/a/b/c?x=1", "rtmp://192.0.2.1:1935/a/b/c?x=1"),
            ("[2001:db8::1]/app/key", "rtmp://[2001:db8::1]:1935/app/key"),
            ("[2001:db8::1]:99/app/key", "rtmp://[2001:db8::1]:99/app/key"),
        ] {
            assert_eq!(whole(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "live.example",
            "live.example/app",
            "live.example//key",
            "/app/key",
            "h:0/a/k",
            "h/a/",
        ] {
            assert_eq!(whole(text), None, "{text}");
        }
        let rtmp = Rtmp::parse("live.example/app/secret-key").expect("whole");
        assert!(!format!("{rtmp} {rtmp:?}").contains("secret"), "{rtmp}");
        assert_eq!((rtmp.application(), rtmp.key()), ("app", "secret-key"));
    }
}
