//! What a datagram is, by its first byte (RFC 7983, updated by RFC 9443).

/// The standards that share one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// 0–3: STUN (RFC 8489).
    Stun,
    /// 20–63: DTLS, kept free for browsers.
    Dtls,
    /// 64–127 and 192–255: QUIC (RFC 9000), with the QUIC bit always set.
    Quic,
    /// 128–191: RTP and RTCP.
    Media,
    /// Anything else.
    Unknown,
}

/// Classifies a datagram. An empty one is unknown.
pub fn classify(datagram: &[u8]) -> Class {
    match datagram.first() {
        Some(0..=3) => Class::Stun,
        Some(20..=63) => Class::Dtls,
        Some(64..=127 | 192..=255) => Class::Quic,
        Some(128..=191) => Class::Media,
        _ => Class::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let table = [
            (0, Class::Stun),
            (3, Class::Stun),
            (4, Class::Unknown),
            (19, Class::Unknown),
            (20, Class::Dtls),
            (63, Class::Dtls),
            (64, Class::Quic),
            (127, Class::Quic),
            (128, Class::Media),
            (191, Class::Media),
            (192, Class::Quic),
            (255, Class::Quic),
        ];
        for (first, class) in table {
            assert_eq!(classify(&[first, 1, 2]), class, "first byte {first}");
        }
        assert_eq!(classify(&[]), Class::Unknown);
    }
}
