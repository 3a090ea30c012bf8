//! The peers, and what sender and receivers agree on.

use std::net::{Ipv4Addr, SocketAddrV4};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// RTP to each of a list of addresses; no protocol beside it.
    Multiudpsink,
    /// SRT listener without encryption, MPEG-TS in messages of 1,316 bytes.
    Srtsink,
    /// The same with AES-128.
    SrtsinkEncrypted,
    /// WebRTC, without congestion control, repair packets and retransmission.
    Webrtcsink,
}

impl Kind {
    /// As it is called on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Multiudpsink => "multiudpsink",
            Self::Srtsink => "srtsink",
            Self::SrtsinkEncrypted => "srtsink-encrypted",
            Self::Webrtcsink => "webrtcsink",
        }
    }

    /// What SRT encrypts with.
    pub(crate) fn passphrase(self) -> Option<&'static str> {
        // Nothing is secret here. SRT asks for ten characters at least.
        (self == Self::SrtsinkEncrypted).then_some("0123456789abcdef")
    }
}

/// Port of viewer number 0 of those that are sent to without a handshake.
const FIRST_PORT: u16 = 40_000;

/// Address of viewer number `at`: one of its own, as viewers at home have. `first` is number 0's.
pub(crate) fn viewer(first: Ipv4Addr, at: usize) -> SocketAddrV4 {
    let address = Ipv4Addr::from(u32::from(first).wrapping_add(at as u32));
    SocketAddrV4::new(address, FIRST_PORT + (at % 20_000) as u16)
}
