//! Datagrams of media, of one packet or several.

use punchcast_protocol::volley::{BUNDLE_MARK, MOST_BUNDLED, SENT_AGAIN, packets};

/// Takes a datagram apart; its packets must be pieces of it, in order, and none longer than it.
pub fn run(data: &[u8]) {
    let mut datagram = data.to_vec();
    let packets = packets(&mut datagram);
    let sent_again = packets.are_sent_again();
    let parts: Vec<Vec<u8>> = packets.map(|packet| packet.to_vec()).collect();
    assert!((1..=MOST_BUNDLED).contains(&parts.len()));
    let joined = parts.concat();
    assert_eq!(joined, data[..joined.len()]);
    if parts.len() == 1 && !sent_again {
        assert_eq!(joined, data, "what is no bundle is left whole");
        return;
    }
    let trailer = &data[joined.len()..];
    let lengths =
        parts[..parts.len() - 1].iter().flat_map(|part| (part.len() as u16).to_be_bytes());
    let flags = if sent_again { SENT_AGAIN } else { 0 };
    let mark = [BUNDLE_MARK, parts.len() as u8, flags, 0];
    assert_eq!(trailer, lengths.chain(mark).collect::<Vec<u8>>());
    assert!(parts.iter().all(|part| !part.is_empty()));
}
