//! Small things that people write on command lines and in configurations.

use punchcast_protocol::link::{BroadcasterId, MAX_SECRET, Secret, parse_host_port};
use punchcast_protocol::units::Bitrate;

/// Reads text as a rate, a host with port, a broadcaster's id and a secret.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(rate) = text.parse::<Bitrate>() {
        assert!((1..=1_000_000_000_000_000).contains(&rate.as_bits_per_second()));
        assert_eq!(rate.to_string().parse(), Ok(rate));
        let _ = rate.time_for(1 << 30);
    }
    if let Some((host, port)) = parse_host_port(&text) {
        let written =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        assert_eq!(parse_host_port(&written), Some((host, port)));
    }
    if let Ok(id) = text.parse::<BroadcasterId>() {
        assert_eq!(id.to_string(), text);
        assert_eq!(BroadcasterId::new(*id.as_bytes()), id);
    }
    if let Ok(secret) = Secret::parse(&text) {
        assert_eq!(secret.reveal(), text);
    }
    assert_eq!(Secret::new(data.to_vec()).is_some(), (1..=MAX_SECRET).contains(&data.len()));
}
