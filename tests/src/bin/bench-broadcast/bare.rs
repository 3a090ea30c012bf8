//! The limit: a loop that sends the same messages as the broadcaster, of the same sizes, at the same
//! times, to the same sockets. They are live, and drop what comes as a stranger's.

use std::fs;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ::tests::bench::MessageLoop;
use ::tests::load::Addresses;
use anyhow::{Context, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use transport::kernel::MAX_SEGMENTS;

use crate::network::NEAR;

/// What could have been one message is one, if its parts arrived within this time.
const TOGETHER: Duration = Duration::from_millis(2);

/// Any byte that begins an RTP packet: the far end takes it for media.
const MEDIA: u8 = 0x80;

/// One message to each viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Message {
    /// When it arrived, in microseconds since 1970.
    pub(crate) at_us: u64,
    /// All its bytes.
    pub(crate) bytes: usize,
    /// Bytes of each datagram; the last may be shorter.
    pub(crate) segment: usize,
    /// Packets in it: more than datagrams where there are bundles.
    pub(crate) packets: u64,
}

/// What the loop used.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Processor time, in microseconds.
    pub(crate) cpu_us: f64,
    /// Packets to all viewers together.
    pub(crate) packets: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

impl Message {
    fn datagrams(&self) -> usize {
        self.bytes.div_ceil(self.segment.max(1))
    }

    /// The two as one message, if the kernel could send it.
    fn with(&self, next: &Self) -> Option<Self> {
        let gap = next.at_us.saturating_sub(self.at_us);
        let fits = self.bytes.is_multiple_of(self.segment.max(1))
            && next.segment <= self.segment
            && (next.segment == self.segment || next.datagrams() == 1)
            && self.datagrams() + next.datagrams() <= MAX_SEGMENTS
            && u128::from(gap) <= TOGETHER.as_micros();
        let (bytes, packets) = (self.bytes + next.bytes, self.packets + next.packets);
        fits.then_some(Self { bytes, packets, ..*self })
    }
}

/// What a viewer recorded between two times, in microseconds since 1970. Where the interface cuts the
/// messages, they are put together again as the sender must have had them.
pub(crate) fn messages(record: &Path, from_us: u64, to_us: u64, cut: bool) -> Result<Vec<Message>> {
    let text = fs::read_to_string(record)?;
    let parse = |line: &str| -> Option<Message> {
        let numbers: Vec<u64> = line.split(' ').map_while(|number| number.parse().ok()).collect();
        let [at_us, bytes, segment, packets] = numbers[..] else { return None };
        Some(Message { at_us, bytes: bytes as usize, segment: segment as usize, packets })
    };
    let mut messages: Vec<Message> = Vec::new();
    for line in text.lines() {
        let message = parse(line).with_context(|| format!("a record of \"{line}\""))?;
        if !(from_us..to_us).contains(&message.at_us) {
            continue;
        }
        let joined = messages.last().filter(|_| cut).and_then(|last| last.with(&message));
        match (joined, messages.last_mut()) {
            (Some(joined), Some(last)) => *last = joined,
            _ => messages.push(message),
        }
    }
    ensure!(!messages.is_empty(), "the first viewer recorded nothing");
    Ok(messages)
}

/// Runs the loop in a process of its own.
pub(crate) fn run(
    folder: &Path,
    messages: &[Message],
    viewers: u32,
    network: &str,
) -> Result<Cost> {
    let list = folder.join("messages.json");
    fs::write(&list, serde_json::to_vec(messages)?)?;
    let output = Command::new(std::env::current_exe().context("finding this program")?)
        .arg("--bare")
        .arg(&list)
        .args(["--viewers", &viewers.to_string(), "--network", network])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting the bare loop")?;
    if !output.status.success() {
        bail!("the bare loop ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("reading the bare loop's cost")
}

/// Is the loop.
pub(crate) fn be(list: &Path, viewers: u32, network: &str) -> Result<Cost> {
    let messages: Vec<Message> = serde_json::from_slice(&fs::read(list)?)?;
    let network: Addresses = network.parse()?;
    let viewers = (0..viewers).filter_map(|at| match network.at(at) {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    });
    let viewers: Vec<_> = viewers.collect();
    let (mut packets, mut total) = (0, 0);
    let longest = messages.iter().map(|message| message.bytes).max().unwrap_or(0);
    let bytes = vec![MEDIA; longest];
    let audience = viewers.len();
    let mut messages_out = MessageLoop::new(SocketAddrV4::new(NEAR, 0), viewers)?;
    let first_us = messages.first().map_or(0, |message| message.at_us);
    let cpu = || clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from);
    let (began, used) = (Instant::now(), cpu()?);
    for message in &messages {
        let due_at = began + Duration::from_micros(message.at_us.saturating_sub(first_us));
        thread::sleep(due_at.saturating_duration_since(Instant::now()));
        messages_out.send(&bytes[..message.bytes], u16::try_from(message.segment)?)?;
        packets += message.packets;
        total += message.bytes as u64;
    }
    let used = cpu()?.saturating_sub(used);
    let audience = audience as u64;
    let cpu_us = used.as_secs_f64() * 1e6;
    Ok(Cost { cpu_us, packets: packets * audience, bytes: total * audience })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_is_one_message_again() {
        let folder = std::env::temp_dir();
        let record = folder.join(format!("record-{}", std::process::id()));
        let lines = "10 1150 1150 1\n11 1150 1150 1\n12 300 300 2\n13 160 160 1\n40000 1150 1150 1\n\
                     99999 1 1 1\n";
        fs::write(&record, lines).expect("a folder to write in");
        let read = |cut| messages(&record, 10, 99_999, cut).expect("lines");
        let (cut, whole) = (read(true), read(false));
        fs::remove_file(&record).expect("just written");
        assert_eq!(whole.len(), 5);
        let message = |at_us, bytes, segment, packets| Message { at_us, bytes, segment, packets };
        assert_eq!(
            cut,
            [message(10, 2600, 1150, 4), message(13, 160, 160, 1), message(40_000, 1150, 1150, 1)]
        );
        assert_eq!(cut[0].datagrams(), 3);
    }
}
