//! Links: `punchcast://HOST:PORT/BROADCASTER-ID/CHANNEL#SECRET`. The id is the broadcaster's public
//! key, so a viewer that holds a link can tell the broadcaster from anybody who poses as it. What is
//! behind `#` is never sent to the rendezvous. A broadcaster with several rendezvous names them all,
//! with commas between: `HOST:PORT,HOST:PORT`.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minicbor::{Decode, Decoder, Encode, decode};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

const SCHEME: &str = "punchcast://";

/// First path segment of a stored file's link.
const LIBRARY: &str = "library/";

/// What must be written as `%XX` in a channel's name or a file's path. The slash stays.
const ESCAPED: &AsciiSet =
    &CONTROLS.add(b' ').add(b'#').add(b'%').add(b'?').add(b'"').add(b'<').add(b'>').add(b'`');

/// Longest secret, in bytes: more than any key needs, and a bound for what is compared.
pub const MAX_SECRET: usize = 64;

/// Most rendezvous in one link.
pub const MAX_SERVERS: usize = 4;

/// A broadcaster's Ed25519 public key, which is its id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct BroadcasterId(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl BroadcasterId {
    /// The id that a public key is.
    pub const fn new(public_key: [u8; 32]) -> Self {
        Self(public_key)
    }

    /// The public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for BroadcasterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for BroadcasterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BroadcasterId({self})")
    }
}

impl FromStr for BroadcasterId {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| LinkError::Id(text.to_owned()))?;
        Ok(Self(bytes.try_into().map_err(|_| LinkError::Id(text.to_owned()))?))
    }
}

/// What a link's holder shows to be admitted. Compared in constant time, never printed by `Debug`.
#[derive(Clone, Encode, Zeroize, ZeroizeOnDrop)]
#[cbor(transparent)]
pub struct Secret(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>);

impl<'b, C> Decode<'b, C> for Secret {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let bytes = decoder.bytes()?;
        Self::new(bytes.to_vec()).ok_or_else(|| {
            let length = bytes.len();
            decode::Error::message(format_args!("a secret has 1–{MAX_SECRET} bytes, not {length}"))
        })
    }
}

impl Secret {
    /// A secret of these bytes, at most [`MAX_SECRET`].
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (!bytes.is_empty() && bytes.len() <= MAX_SECRET).then_some(Self(bytes))
    }

    /// How many bytes it has.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// The secret as a link shows it.
    pub fn reveal(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.0)
    }

    /// A secret from its form in a link.
    pub fn parse(text: &str) -> Result<Self, LinkError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| LinkError::Secret)?;
        Self::new(bytes).ok_or(LinkError::Secret)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a link leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A live channel, by name.
    Channel(String),
    /// A stored file, by its path in the library.
    File(String),
}

/// A parsed link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its rendezvous, each a name or address with a UDP port: one, or up to [`MAX_SERVERS`] of which
    /// any one suffices.
    pub servers: Vec<(String, u16)>,
    /// Whose broadcast it is.
    pub broadcaster: BroadcasterId,
    /// Channel or file.
    pub target: Target,
    /// What admits the holder; `None` for an open channel.
    pub secret: Option<Secret>,
}

/// Why a text is no link.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LinkError {
    /// Another scheme or none.
    #[error("a link begins with {SCHEME} (got '{0}')")]
    Scheme(String),
    /// No host and port in front.
    #[error("a link names its rendezvous as HOST:PORT (got '{0}')")]
    Authority(String),
    /// The id is no public key.
    #[error("'{0}' is no broadcaster id: 43 letters and digits, '-' and '_' were expected")]
    Id(String),
    /// Channel or file missing or not UTF-8.
    #[error("a link ends with a channel's name or library/PATH (got '{0}')")]
    Target(String),
    /// The part behind `#` is not base64url of 1–64 bytes. It is not repeated here.
    #[error("the secret behind '#' is damaged: copy the whole link again")]
    Secret,
}

/// Splits `HOST:PORT`, where an IPv6 address stands in brackets.
pub fn parse_host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|&port| port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(inner) => {
            let inner = inner.strip_suffix(']')?;
            inner.parse::<std::net::Ipv6Addr>().ok()?;
            inner
        }
        None if host.contains(':') => return None,
        None => host,
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    (!host.is_empty() && host.bytes().all(legal)).then(|| (host.to_owned(), port))
}

impl FromStr for Link {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let text = text.trim();
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| {
            let shown: String = text.chars().take(24).take_while(|&c| c != '#').collect();
            LinkError::Scheme(shown)
        })?;
        let (rest, secret) = match rest.split_once('#') {
            Some((rest, "")) => (rest, None),
            Some((rest, secret)) => (rest, Some(Secret::parse(secret)?)),
            None => (rest, None),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let servers: Option<Vec<_>> = authority.split(',').map(parse_host_port).collect();
        let servers = servers
            .filter(|servers| servers.len() <= MAX_SERVERS)
            .ok_or_else(|| LinkError::Authority(authority.to_owned()))?;
        let (id, target) = path.split_once('/').unwrap_or((path, ""));
        let broadcaster = id.parse()?;
        let bad_target = || LinkError::Target(target.to_owned());
        let name = percent_decode_str(target).decode_utf8().map_err(|_| bad_target())?;
        let target = match name.strip_prefix(LIBRARY) {
            Some("") => return Err(bad_target()),
            Some(path) => Target::File(path.to_owned()),
            None if name.is_empty() || name.contains('/') => return Err(bad_target()),
            None => Target::Channel(name.into_owned()),
        };
        Ok(Self { servers, broadcaster, target, secret })
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        for (at, (host, port)) in self.servers.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
            write!(f, "{comma}{open}{host}{close}:{port}")?;
        }
        write!(f, "/{}/", self.broadcaster)?;
        match &self.target {
            Target::Channel(name) => write!(f, "{}", utf8_percent_encode(name, ESCAPED))?,
            Target::File(path) => write!(f, "{LIBRARY}{}", utf8_percent_encode(path, ESCAPED))?,
        }
        match &self.secret {
            Some(secret) => write!(f, "#{}", secret.reveal()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";

    #[test]
    fn bad_links_say_what_is_wrong() {
        let table = [
            ("http://a:1/x/y".to_owned(), "begins with punchcast://"),
            (format!("punchcast://a/{ID}/c"), "HOST:PORT"),
            (format!("punchcast://a:0/{ID}/c"), "HOST:PORT"),
            (format!("punchcast://a:1,/{ID}/c"), "HOST:PORT"),
            (format!("punchcast://a:1,b:1,c:1,d:1,e:1/{ID}/c"), "HOST:PORT"),
            (format!("punchcast://::1:5/{ID}/c"), "HOST:PORT"),
            ("punchcast://a:1/short/c".to_owned(), "broadcaster id"),
            (format!("punchcast://a:1/{ID}"), "channel"),
            (format!("punchcast://a:1/{ID}/a/b"), "channel"),
            (format!("punchcast://a:1/{ID}/library/"), "channel"),
            (format!("punchcast://a:1/{ID}/c#!"), "secret"),
        ];
        for (text, expected) in table {
            let error = text.parse::<Link>().expect_err(&text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn secrets_stay_out_of_errors_and_debug() {
        let link: Link = format!("punchcast://a:1/{ID}/c#c2VjcmV0").parse().expect("legal");
        assert!(!format!("{link:?}").contains("c2VjcmV0"));
        let error = "nonsense#c2VjcmV0".parse::<Link>().expect_err("no scheme").to_string();
        assert!(!error.contains("c2VjcmV0"), "{error}");
    }

    #[test]
    fn secrets_in_messages_have_the_length_of_those_in_links() {
        for length in [0, 1, MAX_SECRET, MAX_SECRET + 1] {
            let bytes = minicbor::to_vec(minicbor::bytes::ByteVec::from(vec![7; length]));
            let decoded = minicbor::decode::<Secret>(&bytes.expect("a vector has room"));
            assert_eq!(decoded.ok(), Secret::new(vec![7; length]), "{length}");
        }
    }

    proptest! {
        #[test]
        fn printed_links_parse_to_the_same(
            servers in proptest::collection::vec(
                ("[a-z][a-z0-9.-]{0,20}|2001:db8::[0-9a-f]{1,4}", 1u16..),
                1..=MAX_SERVERS,
            ),
            id: [u8; 32],
            name in "[^/]{1,12}",
            file: bool,
            secret in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..MAX_SECRET)),
        ) {
            let link = Link {
                servers,
                broadcaster: BroadcasterId::new(id),
                target: if file { Target::File(format!("{name}/b")) } else { Target::Channel(name) },
                secret: secret.and_then(Secret::new),
            };
            prop_assert_eq!(link.to_string().parse::<Link>(), Ok(link));
        }

        #[test]
        fn any_text_parses_or_fails(text in ".{0,80}") {
            let _ = text.parse::<Link>();
            let _ = format!("punchcast://{text}").parse::<Link>();
        }
    }
}
