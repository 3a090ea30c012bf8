//! Datagrams of media, of one packet or several.

use punchcast_protocol::volley::{BUNDLE_MARK, MOST_BUNDLED, packets};

/// Takes a datagram apart; its packets must be pieces of it, in order, and none longer than it.
pub fn run(data: &[u8]) {
    let mut datagram = data.to_vec();
    let parts: Vec<Vec<u8>> = packets(&mut datagram).map(|packet| packet.to_vec()).collect();
    assert!((1..=MOST_BUNDLED).contains(&parts.len()));
    let joined = parts.concat();
    assert_eq!(joined, data[..joined.len()]);
    if let [only] = &parts[..] {
        assert_eq!(only, data, "what is no bundle is left whole");
    } else {
        let trailer = &data[joined.len()..];
        let lengths =
            parts[..parts.len() - 1].iter().flat_map(|part| (part.len() as u16).to_be_bytes());
        let mark = [BUNDLE_MARK, parts.len() as u8, 0, 0];
        assert_eq!(trailer, lengths.chain(mark).collect::<Vec<u8>>());
        assert!(parts.iter().all(|part| !part.is_empty()));
    }
}
