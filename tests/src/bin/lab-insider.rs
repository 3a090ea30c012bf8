//! A viewer that turns against another: seals packets with the channel's group key, as every viewer could, and sends
//! them from the broadcaster's address.
//!
//! `lab-insider FROM TO KEYS COUNT RATE`: from an address that this host has been given, to a viewer's external one; with
//! the keys of a broadcaster's key log; so many datagrams, so many a second. Prints how many it sent.

use std::env;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use protocol::burst::PlainBurst;
use protocol::seal::{Epoch, MasterKey, Sealer};
use protocol::tag::TAG;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Packets sealed at once.
const BURST: usize = 16;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [from, to, keys, count, rate] = &arguments[..] else {
        bail!("expected FROM TO KEYS COUNT RATE, got {arguments:?}");
    };
    let (from, to): (SocketAddr, SocketAddr) = (from.parse()?, to.parse()?);
    let (count, rate): (u64, f64) = (count.parse()?, rate.parse()?);
    let mut sealers = sealers(&fs::read_to_string(keys)?)?;
    let socket = UdpSocket::bind(from).context("having the broadcaster's address")?;
    let mut rng = SmallRng::seed_from_u64(1);
    let began = Instant::now();
    let mut sent = 0;
    while sent < count {
        for sealer in &mut sealers {
            let mut burst = PlainBurst::default();
            for _ in 0..BURST {
                let mut packet = vec![0x80, 96];
                packet.extend([0; 10]);
                packet.extend([0xbd; 400]);
                burst.push([&packet[..]])?;
            }
            // From the first index on: what is played, and what is to come.
            let sealed = sealer.seal(0, false, Instant::now(), burst)?;
            for range in (0..sealed.len()).filter_map(|at| sealed.packet(at)) {
                let mut datagram = sealed.bytes()[range].to_vec();
                if sent % 4 > 0 {
                    let mut tag = [0; TAG];
                    rng.fill_bytes(&mut tag);
                    datagram.extend(tag);
                }
                socket.send_to(&datagram, to)?;
                sent += 1;
            }
        }
        let due = began + Duration::from_secs_f64(sent as f64 / rate);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    println!("{sent}");
    Ok(())
}

/// One for each line of a key log.
fn sealers(log: &str) -> Result<Vec<Sealer>> {
    let lines = log.lines().map(|line| -> Result<Sealer> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [ssrc, _, key] = &words[..] else { bail!("a line of {} words", words.len()) };
        let byte = |at: usize| key.get(2 * at..2 * at + 2).context("28 bytes").and_then(hex);
        let bytes = (0..28).map(byte).collect::<Result<Vec<u8>>>()?;
        let (master, salt) = bytes.split_at(16);
        let key = MasterKey::from_parts(Epoch::FIRST, master.try_into()?, salt.try_into()?);
        Ok(Sealer::new(&key, &[u32::from_str_radix(ssrc, 16)?]))
    });
    lines.collect()
}

fn hex(digits: &str) -> Result<u8> {
    Ok(u8::from_str_radix(digits, 16)?)
}
