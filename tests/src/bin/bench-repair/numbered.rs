//! Numbered datagrams: what SRT and RIST carry, and what of it comes out.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Seven packets of a transport stream, which both are made for.
pub(crate) const LENGTH: usize = 1316;

/// What came.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Came {
    /// The lowest number.
    pub(crate) first: u64,
    /// The highest.
    pub(crate) last: u64,
    /// How many different ones.
    pub(crate) different: u64,
}

impl Came {
    /// How many were sent from the first to the last that came.
    pub(crate) fn span(&self) -> u64 {
        if self.different == 0 { 0 } else { self.last - self.first + 1 }
    }
}

/// Sends at an even rate, for a time.
pub(crate) fn send(to: SocketAddr, bits_per_second: u64, time: Duration) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let interval = Duration::from_secs_f64(LENGTH as f64 * 8.0 / bits_per_second as f64);
    let began = Instant::now();
    let mut datagram = [0x47; LENGTH];
    for number in 0u64.. {
        let due = interval.mul_f64(number as f64);
        if due >= time {
            break;
        }
        thread::sleep((began + due).saturating_duration_since(Instant::now()));
        datagram[..8].copy_from_slice(&number.to_be_bytes());
        // Nobody may listen yet.
        let _ = socket.send_to(&datagram, to);
    }
    Ok(())
}

/// Receives until nothing has come for a while, and prints what came.
pub(crate) fn receive(at: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(at).context("binding")?;
    let mut numbers = BTreeSet::new();
    let mut buffer = [0; 2048];
    // The first may take as long as it takes to connect.
    let mut patience = Duration::from_secs(30);
    loop {
        socket.set_read_timeout(Some(patience))?;
        let Ok((length, _)) = socket.recv_from(&mut buffer) else { break };
        if let Some(number) = buffer[..length].first_chunk::<8>().filter(|_| length == LENGTH) {
            numbers.insert(u64::from_be_bytes(*number));
            patience = Duration::from_secs(5);
        }
    }
    let came = Came {
        first: numbers.first().copied().unwrap_or(0),
        last: numbers.last().copied().unwrap_or(0),
        different: numbers.len() as u64,
    };
    println!("{}", serde_json::to_string(&came)?);
    Ok(())
}
