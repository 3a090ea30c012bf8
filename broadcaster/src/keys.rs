//! The keys of a channel: which there are, and when another one takes over.
//!
//! A key is told to every viewer 0.6 s before the first packet is sealed with it, and viewers hold what
//! comes sealed with a key that they do not know yet. So nobody misses a picture for it. A viewer that is admitted
//! gets the keys of all that its joining burst may hold, and the one that is about to take over.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::control::Notice;
use protocol::seal::{Epoch, MasterKey};

use crate::fanout::FanOut;
use crate::live::Live;
use crate::shared::Shared;

/// From telling the viewers of a key to sealing with it: telling a thousand takes a third of a second.
const LEAD: Duration = Duration::from_millis(600);

/// From one key to the next, at least. With [`LEAD`] it is less than the second within which nothing is sealed any
/// more with a key that someone had who was sent away.
const APART: Duration = Duration::from_millis(200);

/// Keys that are kept for those who join: as many as viewers hold.
const MOST_KEPT: usize = 32;

/// Packets sealed with one key, at most: the limit of RFC 9001, section 6.6, for AES-GCM. SRTP's own is 2^48.
const MOST_PACKETS: u64 = 1 << 23;

/// How often it is looked whether it is time.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// A channel's keys, oldest first.
#[derive(Debug, Clone)]
pub(crate) struct Keyring(Arc<Mutex<Keys>>);

#[derive(Debug)]
struct Keys {
    keys: Vec<MasterKey>,
    /// When the newest was made, and how many packets there were.
    made_at: Instant,
    packets: u64,
    log: Option<KeyLog>,
}

/// Where keys are written to, for decrypting captures.
#[derive(Debug)]
pub(crate) struct KeyLog {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) ssrcs: Arc<[u32]>,
}

impl KeyLog {
    /// One line for each track: SSRC, epoch, and key with salt, in hexadecimal.
    fn write(&mut self, key: &MasterKey) -> std::io::Result<()> {
        let hex: String = key.export().iter().map(|byte| format!("{byte:02x}")).collect();
        let epoch = u32::from_be_bytes(key.epoch.mki());
        self.ssrcs.iter().try_for_each(|ssrc| writeln!(self.file, "{ssrc:08x} {epoch} {hex}"))
    }
}

impl Keyring {
    /// A channel that begins with this key.
    pub(crate) fn new(first: MasterKey, log: Option<KeyLog>) -> Self {
        let keys = Keys { keys: Vec::new(), made_at: Instant::now(), packets: 0, log };
        let ring = Self(Arc::new(Mutex::new(keys)));
        ring.add(first, 0);
        ring
    }

    /// The keys of an epoch and of all behind it, also of one that is about to take over.
    pub(crate) fn since(&self, epoch: Epoch) -> Vec<MasterKey> {
        self.lock().keys.iter().filter(|key| key.epoch >= epoch).cloned().collect()
    }

    /// Whether another key is due, where that many packets were sealed so far.
    fn is_due(&self, interval: Duration, packets: u64, now: Instant) -> bool {
        let keys = self.lock();
        now.saturating_duration_since(keys.made_at) >= interval
            || packets.saturating_sub(keys.packets) >= MOST_PACKETS
    }

    /// Makes the next key; `None` when there are no more epochs.
    fn next(&self, packets: u64) -> Option<MasterKey> {
        let epoch = self.lock().keys.last()?.epoch.next()?;
        let key = MasterKey::random(epoch, &mut rand::rng());
        self.add(key.clone(), packets);
        Some(key)
    }

    fn add(&self, key: MasterKey, packets: u64) {
        let mut keys = self.lock();
        if let Some(log) = &mut keys.log
            && let Err(error) = log.write(&key)
        {
            let path = log.path.display();
            tracing::warn!(%error, "a key is not written to {path}");
        }
        keys.keys.push(key);
        if keys.keys.len() > MOST_KEPT {
            keys.keys.remove(0);
        }
        keys.made_at = Instant::now();
        keys.packets = packets;
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces a live channel's key from time to time, and whenever a viewer was sent away, for as long as it is
/// polled.
pub(crate) async fn replace_in_time(live: &Live, shared: &Shared, interval: Duration) {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    // Told, and not taken over yet.
    let mut told: VecDeque<(tokio::time::Instant, FanOut, MasterKey)> = VecDeque::new();
    let mut is_wanted = false;
    let mut next_at = tokio::time::Instant::now();
    loop {
        let takes_over = async {
            match told.front() {
                Some((at, ..)) => tokio::time::sleep_until(*at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = takes_over => {
                if let Some((_, fan_out, key)) = told.pop_front() {
                    tracing::debug!(epoch = ?key.epoch, "another key");
                    fan_out.rekey(key);
                    shared.metrics.key_changes.inc();
                }
                continue;
            }
            // Who was sent away while a key is about to take over may have been told that one.
            () = live.key_wanted.notified() => is_wanted = true,
            () = tokio::time::sleep_until(next_at), if is_wanted => {}
            _ = looks.tick() => {}
        }
        let now = tokio::time::Instant::now();
        let Some(channel) = live.channel.borrow().clone() else { continue };
        let packets = channel.metrics.published_packets();
        let is_due = is_wanted || channel.keys.is_due(interval, packets, Instant::now());
        if !is_due || now < next_at {
            continue;
        }
        let Some(key) = channel.keys.next(packets) else {
            tracing::error!("the channel has used up its keys; restart the broadcaster");
            return;
        };
        shared.audience.tell_channel(&live.name, &Notice::Key { key: key.clone() });
        told.push_back((now + LEAD, channel.fan_out.clone(), key));
        (is_wanted, next_at) = (false, now + APART);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_joins_gets_the_keys_of_all_that_it_is_sent() {
        let ring = Keyring::new(MasterKey::random(Epoch::FIRST, &mut rand::rng()), None);
        let mut epochs = vec![Epoch::FIRST];
        for _ in 0..3 {
            epochs.push(ring.next(0).expect("there are epochs").epoch);
        }
        let since = |epoch| -> Vec<Epoch> { ring.since(epoch).iter().map(|k| k.epoch).collect() };
        assert_eq!(since(Epoch::FIRST), epochs);
        assert_eq!(since(epochs[2]), epochs[2..]);
        for _ in 0..2 * MOST_KEPT {
            ring.next(0).expect("there are epochs");
        }
        assert_eq!(since(Epoch::FIRST).len(), MOST_KEPT);
    }

    #[test]
    fn a_key_lasts_for_a_time_and_for_so_many_packets() {
        let ring = Keyring::new(MasterKey::random(Epoch::FIRST, &mut rand::rng()), None);
        let (now, hour) = (Instant::now(), Duration::from_secs(3600));
        assert!(!ring.is_due(hour, MOST_PACKETS - 1, now));
        assert!(ring.is_due(hour, MOST_PACKETS, now));
        assert!(ring.is_due(hour, 0, now + hour));
        ring.next(MOST_PACKETS).expect("there are epochs");
        assert!(!ring.is_due(hour, MOST_PACKETS + 1, now));
    }
}
