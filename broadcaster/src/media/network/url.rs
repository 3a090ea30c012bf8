//! Network sources as they are written, and their secrets kept out of what is shown.

use std::fmt;
use std::str::FromStr;

use super::super::spec::ParseSourceError;

/// A source that other machines send, or are asked for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NetworkUrl {
    written: String,
    pub(super) kind: Kind,
}

/// What such a source is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Rtsp(Rtsp),
    Srt(Srt),
    Rtp(Rtp),
}

/// A camera or server that is asked by RTSP (RFC 2326).
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Rtsp {
    /// The URL without login and without our own options.
    pub(super) location: String,
    pub(super) login: Option<Login>,
    /// Whether media comes in datagrams of its own; otherwise within the connection.
    pub(super) over_udp: bool,
    /// Whether any certificate will do, as cameras make their own.
    pub(super) any_certificate: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

/// A transport stream by SRT.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Srt {
    /// Where to listen, or whom to call.
    pub(super) host: String,
    pub(super) port: u16,
    /// Whether senders come to us.
    pub(super) listens: bool,
    pub(super) passphrase: Option<String>,
    pub(super) stream_id: Option<String>,
    /// In milliseconds.
    pub(super) latency: Option<u16>,
}

/// RTP packets that are sent to a port here.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Rtp {
    /// The address to listen on; empty for all.
    pub(super) host: String,
    pub(super) port: u16,
    /// What each payload type is; without any, it is a transport stream.
    pub(super) payloads: Vec<Payload>,
}

/// What the packets of one payload type are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Payload {
    pub(super) payload_type: u8,
    pub(super) encoding: Encoding,
}

/// Encodings that are known by name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Encoding {
    H264,
    H265,
    Vp8,
    Vp9,
    Opus,
    Pcma,
    Pcmu,
}

impl Encoding {
    const ALL: [Self; 7] =
        [Self::H264, Self::H265, Self::Vp8, Self::Vp9, Self::Opus, Self::Pcma, Self::Pcmu];

    /// Its name in RTP, and its clock's rate in Hz.
    pub(super) fn name_and_rate(self) -> (&'static str, i32) {
        match self {
            Self::H264 => ("H264", 90_000),
            Self::H265 => ("H265", 90_000),
            Self::Vp8 => ("VP8", 90_000),
            Self::Vp9 => ("VP9", 90_000),
            Self::Opus => ("OPUS", 48_000),
            Self::Pcma => ("PCMA", 8_000),
            Self::Pcmu => ("PCMU", 8_000),
        }
    }

    pub(super) fn is_video(self) -> bool {
        matches!(self, Self::H264 | Self::H265 | Self::Vp8 | Self::Vp9)
    }
}

impl NetworkUrl {
    /// Whether it waits for others to send, for as long as it takes.
    pub(in super::super) fn listens(&self) -> bool {
        match &self.kind {
            Kind::Rtsp(_) => false,
            Kind::Srt(srt) => srt.listens,
            Kind::Rtp(_) => true,
        }
    }
}

/// How these sources are written.
const RTSP: &str =
    "rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH, with #transport=udp or #tls=unverified at the end";
const SRT: &str = "srt://:PORT to be called or srt://HOST:PORT to call, with \
                   ?mode=, passphrase=, latency= (milliseconds), streamid=";
const RTP: &str = "rtp://:PORT for a transport stream, or rtp://:PORT?96=H264&97=OPUS, a name for each payload type";

impl NetworkUrl {
    /// As it was written, with its secrets.
    pub(in super::super) fn in_full(&self) -> &str {
        &self.written
    }
}

impl FromStr for NetworkUrl {
    type Err = ParseSourceError;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = written.split_once(':').unwrap_or((written, ""));
        let rest = rest.strip_prefix("//").unwrap_or("");
        let (parsed, expected) = match scheme {
            "rtsp" | "rtsps" => (rtsp(scheme, rest).map(Kind::Rtsp), RTSP),
            "srt" => (srt(rest).map(Kind::Srt), SRT),
            _ => (rtp(rest).map(Kind::Rtp), RTP),
        };
        match parsed {
            Some(kind) => Ok(Self { written: written.to_owned(), kind }),
            None => Err(ParseSourceError::Network { given: redacted(written), expected }),
        }
    }
}

impl fmt::Display for NetworkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.written))
    }
}

impl fmt::Debug for NetworkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn rtsp(scheme: &str, rest: &str) -> Option<Rtsp> {
    let (rest, options) = rest.split_once('#').unwrap_or((rest, ""));
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (login, host) = match authority.rsplit_once('@') {
        Some((login, host)) => {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            (Some(Login { user: decoded(user)?, password: decoded(password)? }), host)
        }
        None => (None, authority),
    };
    let (name, port) = host_and_port(host)?;
    if name.is_empty() || port == Some(0) {
        return None;
    }
    let (mut over_udp, mut any_certificate) = (false, false);
    for option in options.split('&').filter(|option| !option.is_empty()) {
        match option {
            "transport=udp" => over_udp = true,
            "transport=tcp" => over_udp = false,
            "tls=unverified" => any_certificate = true,
            _ => return None,
        }
    }
    let location = format!("{scheme}://{host}{path}");
    Some(Rtsp { location, login, over_udp, any_certificate })
}

fn srt(rest: &str) -> Option<Srt> {
    let (host, port, query) = listener(rest)?;
    let mut srt = Srt {
        listens: host.is_empty(),
        host,
        port,
        passphrase: None,
        stream_id: None,
        latency: None,
    };
    for (key, value) in query {
        match key {
            "mode" if value == "listener" => srt.listens = true,
            "mode" if value == "caller" && !srt.host.is_empty() => srt.listens = false,
            "passphrase" => srt.passphrase = Some(decoded(value).filter(is_passphrase)?),
            "streamid" => srt.stream_id = Some(decoded(value)?),
            "latency" => srt.latency = Some(value.parse().ok()?),
            _ => return None,
        }
    }
    Some(srt)
}

/// Whether SRT allows this length, or the argument that is seen by others is read.
fn is_passphrase(text: &String) -> bool {
    (10..=79).contains(&text.len()) || text == HIDDEN
}

fn rtp(rest: &str) -> Option<Rtp> {
    let (host, port, query) = listener(rest)?;
    let mut payloads = Vec::new();
    for (payload_type, name) in query {
        let is_named = |encoding: &Encoding| encoding.name_and_rate().0.eq_ignore_ascii_case(name);
        let encoding = Encoding::ALL.into_iter().find(is_named)?;
        let payload_type = payload_type.parse().ok().filter(|number| *number < 128)?;
        payloads.push(Payload { payload_type, encoding });
    }
    Some(Rtp { host, port, payloads })
}

/// Keys of a query and their values.
type Query<'a> = Vec<(&'a str, &'a str)>;

/// Host, port and query of an URL that has no path.
fn listener(rest: &str) -> Option<(String, u16, Query<'_>)> {
    let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, port) = host_and_port(authority.trim_end_matches('/'))?;
    let query = query.split('&').filter(|pair| !pair.is_empty());
    let query = query.map(|pair| pair.split_once('=')).collect::<Option<_>>()?;
    Some((host.to_owned(), port.filter(|port| *port > 0)?, query))
}

/// IPv6 addresses are in brackets, and given without.
fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, behind)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let unfit = |c: char| c.is_whitespace() || c.is_control() || c == '@';
    let port = match port.strip_prefix(':') {
        Some(port) => Some(port.parse().ok()?),
        None if port.is_empty() => None,
        None => return None,
    };
    (!host.contains(unfit)).then_some((host, port))
}

/// Text with its percent signs taken for what they stand for (RFC 3986, section 2.1).
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        let digit = |digit: u8| char::from(digit).to_digit(16);
        bytes.push(u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

/// What stands in a secret's place.
const HIDDEN: &str = "***";

/// Queries whose values are secrets.
const SECRETS: [&str; 1] = ["passphrase="];

/// Text with the logins and passphrases of all URLs in it made unreadable.
pub fn redacted(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    // Blanks part words, and each may hold an URL: the whole of a pipeline is shown as well.
    for word in text.split_inclusive(char::is_whitespace) {
        let word = match word.split_once("://").map(|(_, rest)| rest) {
            // Whoever forgets to encode a slash or an @ shall not see half of a password.
            Some(rest) if rest.contains('@') => {
                let begin = word.len() - rest.len();
                let end = begin + rest.rfind('@').unwrap_or(0);
                format!("{}{HIDDEN}{}", &word[..begin], &word[end..])
            }
            _ => word.to_owned(),
        };
        let mut rest = word.as_str();
        while let Some(end) =
            SECRETS.iter().filter_map(|key| Some(rest.find(key)? + key.len())).min()
        {
            let (before, behind) = rest.split_at(end);
            let length = behind
                .find(|c: char| c == '&' || c == '#' || c.is_whitespace())
                .unwrap_or(behind.len());
            shown.push_str(before);
            shown.push_str(HIDDEN);
            rest = &behind[length..];
        }
        shown.push_str(rest);
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(written: &str) -> Kind {
        written.parse::<NetworkUrl>().expect(written).kind
    }

    #[test]
    fn cameras_are_read() {
        let login = |user: &str, password: &str| {
            Some(Login { user: user.to_owned(), password: password.to_owned() })
        };
        for (written, location, expected, over_udp, any_certificate) in [
            ("rtsp://cam/live", "rtsp://cam/live", None, false, false),
            ("rtsp://cam", "rtsp://cam", None, false, false),
            (
                "rtsp://admin:a%40b%2f:c@10.0.0.5:8554/s?ch=1&x=@#transport=udp",
                "rtsp://10.0.0.5:8554/s?ch=1&x=@",
                login("admin", "a@b/:c"),
                true,
                false,
            ),
            (
                "rtsps://u@[fe80::1]:322/x#transport=tcp&tls=unverified",
                "rtsps://[fe80::1]:322/x",
                login("u", ""),
                false,
                true,
            ),
        ] {
            let Kind::Rtsp(rtsp) = parsed(written) else { panic!("{written}") };
            assert_eq!(rtsp.location, location);
            assert!(rtsp.login == expected, "{written}");
            assert_eq!((rtsp.over_udp, rtsp.any_certificate), (over_udp, any_certificate));
        }
    }

    #[test]
    fn senders_are_read() {
        let listens = |written: &str| written.parse::<NetworkUrl>().expect(written).listens();
        let Kind::Srt(srt) = parsed("srt://:7001?passphrase=ten%20letters&latency=200") else {
            panic!("not SRT")
        };
        assert_eq!((srt.host.as_str(), srt.port, srt.latency), ("", 7001, Some(200)));
        assert_eq!(srt.passphrase.as_deref(), Some("ten letters"));
        assert!(listens("srt://:7001") && listens("srt://10.0.0.1:7001?mode=listener"));
        assert!(!listens("srt://host:7001?streamid=a") && listens("rtp://:5004"));
        assert!(!listens("rtsp://cam/"));
        let Kind::Rtp(rtp) = parsed("rtp://127.0.0.1:5004?96=h264&97=OPUS") else {
            panic!("not RTP")
        };
        let payload = |payload_type, encoding| Payload { payload_type, encoding };
        assert_eq!(rtp.payloads, [payload(96, Encoding::H264), payload(97, Encoding::Opus)]);
        assert_eq!((rtp.host.as_str(), rtp.port), ("127.0.0.1", 5004));
    }

    #[test]
    fn wrong_ones_are_refused_without_their_secrets() {
        for written in [
            "rtsp:x",
            "rtsp://",
            "rtsp://:554/x",
            "rtsp://u:hush@/x",
            "rtsp://u:hu/sh@cam/x",
            "rtsp://u:hush@cam:99999/x",
            "rtsp://u:hush%4@cam/x",
            "rtsp://u:hush@cam/x#transport=pigeon",
            "rtsp://[cam]/x",
            "srt://",
            "srt://host",
            "srt://:0",
            "srt://:7001?mode=caller",
            "srt://:7001?passphrase=hush",
            "srt://:7001?passfrase=x",
            "rtp://:x",
            "rtp://:5004?96=H266",
            "rtp://:5004?200=H264",
        ] {
            let error = written.parse::<NetworkUrl>().expect_err(written).to_string();
            assert!(error.contains("write ") && !error.contains('\n'), "{error}");
            assert!(!error.contains("hu"), "{error}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        for (written, shown) in [
            ("rtsp://u:p@h/x", "rtsp://***@h/x"),
            ("srt://:1?passphrase=hush+hush&latency=1", "srt://:1?passphrase=***&latency=1"),
            ("--source=rtsp://u:p@h", "--source=rtsp://***@h"),
            (
                "pipeline:rtspsrc location=rtsp://u:p@h ! fakesink",
                "pipeline:rtspsrc location=rtsp://***@h ! fakesink",
            ),
            ("file:a@b", "file:a@b"),
            ("rtsp://h/x", "rtsp://h/x"),
        ] {
            assert_eq!(redacted(written), shown);
            assert_eq!(redacted(shown), shown, "once is enough");
        }
        for shown in ["srt://:1?passphrase=***", "rtsp://***@h/x"] {
            assert!(shown.parse::<NetworkUrl>().is_ok(), "what is shown can be read: {shown}");
        }
        let url: NetworkUrl = "rtsp://u:hush@h/x".parse().expect("an URL");
        assert_eq!(
            (format!("{url:?}"), url.to_string()),
            (redacted(&url.written), url.to_string())
        );
    }

    proptest! {
        #[test]
        fn no_login_is_ever_shown(login in "[!-~]{1,20}", host in "[a-z]{1,9}") {
            let shown = redacted(&format!("rtsp://{login}@{host}/x"));
            prop_assert_eq!(shown, format!("rtsp://***@{host}/x"));
        }

        #[test]
        fn any_text_is_survived(text in ".{0,60}") {
            for scheme in ["rtsp", "srt", "rtp"] {
                let _ = format!("{scheme}://{text}").parse::<NetworkUrl>();
            }
            let _ = redacted(&text);
        }
    }
}
