//! What a viewer does with sealed packets: open them, rebuild what is missing, and say what it needs.
//!
//! Feed it with [`Receiver::take`], which hands on every packet once, in place or rebuilt; ask it with
//! [`Receiver::poll_wish`] and [`Receiver::report`] what to tell the broadcaster, at
//! [`Receiver::poll_timeout`].
//!
//! A packet may come before the key that it is sealed with. It is held, and opened by [`Receiver::take_held`].
//!
//! To rebuild a packet, the sealed packets of its block are needed. They are copied as they come, at first
//! and for as long as packets were lost of late: a viewer on a clean path soon copies nothing, and has its
//! first losses sent again.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::control::{self, LeftOut};
use crate::feedback::{self, Ask, Block, Totals, What, Wish};
use crate::media::Kind;
use crate::reception::{
    ASSUMED_LOST, Arrival, Came, LEAST_EXPECTED, Reception, Silence, Verdict, Wanted,
};
use crate::repair::code;
use crate::repair::packet::{Repair, nearest};
use crate::rtp::Header;
use crate::seal::{MasterKey, OpenError, Opened, Opener, PacketIndex};
use crate::size::WIRE_OVERHEAD;
use crate::tag::{TAG, TagKey};
use crate::volley;

/// How long sealed packets are kept at first, and after a loss.
const KEEPING_FIRST: Duration = Duration::from_secs(3);
const KEEPING: Duration = Duration::from_secs(30);

/// Sealed packets, and blocks with repair packets, of one track that are kept at most.
const MOST_KEPT: usize = 2048;
const MOST_BLOCKS: usize = 64;

/// Tracks that one may go over to at most, those that were there included.
const MOST_TRACKS: usize = 64;

/// Packets that wait for their key at most, and how long: it is told again and again until it comes.
const MOST_HELD: usize = 2048;
const KEY_PATIENCE: Duration = Duration::from_secs(2);

/// From one wish to the next: what asks for one thing twice goes through different moments of the network.
const WISH_INTERVAL: Duration = Duration::from_millis(5);

/// How likely it may be that all repetitions of a request get lost, by how many further ones fit.
const RISK_OF_LAST: f64 = 1e-4;
const RISK_OF_SECOND_LAST: f64 = 1e-3;
const RISK_OF_EARLIER: f64 = 0.05;

/// Most repetitions of a request: as often as fits into a round of usual length.
const MOST_COPIES: u32 = 12;

/// A track as the broadcaster announced it.
#[derive(Debug, Clone, Copy)]
pub struct Track {
    /// What it carries.
    pub kind: Kind,
    /// Its SSRC.
    pub ssrc: u32,
    /// The rate of its RTP clock.
    pub clock_rate: u32,
    /// Index of the first packet that will come.
    pub first_index: PacketIndex,
    /// Index of the first packet that is wanted: later where some were had before.
    pub expected_from: PacketIndex,
    /// From this index on packets come as they are made.
    pub live_index: PacketIndex,
}

impl From<&control::Track> for Track {
    fn from(track: &control::Track) -> Self {
        let control::Track { ref format, ssrc, first_index, live_index, .. } = *track;
        let (kind, clock_rate) = (format.kind, format.clock_rate);
        Self { kind, ssrc, clock_rate, first_index, expected_from: first_index, live_index }
    }
}

/// A packet that was opened.
#[derive(Debug)]
pub struct Arrived<'a> {
    /// Of which track.
    pub track: usize,
    /// Its index.
    pub index: PacketIndex,
    /// Its RTP timestamp.
    pub timestamp: u32,
    /// What to do with it.
    pub verdict: Verdict,
    /// Whether it is beyond all that came before, and no answer to a request.
    pub is_newest: bool,
    /// Whether it was made after the viewer was admitted.
    pub is_live: bool,
    /// Packets in front of it that were not missed before.
    pub hole: u64,
    /// The RTP packet.
    pub rtp: &'a mut [u8],
}

/// Receives one channel's packets.
pub struct Receiver {
    opener: Opener,
    tracks: Vec<Receiving>,
    /// Of tracks that came to their end and began anew.
    former: Totals,
    patience: Duration,
    /// What came sealed with a key that was not told yet.
    held: VecDeque<Held>,
    corrupt: u64,
    bytes: u64,
    serial: u32,
    repeating: VecDeque<Repeating>,
    wished_at: Option<Instant>,
    kept_until: Option<Instant>,
}

struct Held {
    packet: Vec<u8>,
    came: Came,
    at: Instant,
}

struct Receiving {
    reception: Reception,
    kind: Kind,
    /// From here on packets come as they are made, by what was announced.
    live_index: PacketIndex,
    /// Sealed packets of late.
    kept: BTreeMap<PacketIndex, Vec<u8>>,
    /// Blocks of which repair packets came, by their first packet.
    blocks: BTreeMap<PacketIndex, Coded>,
}

struct Coded {
    source: usize,
    repair: BTreeMap<usize, Vec<u8>>,
}

/// A request to be said.
struct Asking {
    /// What it is for, by name.
    wanted: Vec<PacketIndex>,
    /// How often that was asked for before.
    rounds: u32,
    rounds_left: u8,
    what: What,
}

/// A request that is sent again.
struct Repeating {
    at: Instant,
    left: u32,
    track: usize,
    wanted: Vec<PacketIndex>,
    ask: Ask,
}

impl Receiver {
    /// Receives these tracks. A packet is of use for `patience` after it should have come.
    pub fn new(tracks: &[Track], keys: &[MasterKey], patience: Duration, now: Instant) -> Self {
        let mut opener = Opener::new(tracks.iter().map(|track| (track.ssrc, track.first_index)));
        keys.iter().for_each(|key| opener.add_key(key));
        Self {
            opener,
            tracks: tracks.iter().map(|track| Receiving::new(track, patience, now)).collect(),
            former: Totals::default(),
            patience,
            held: VecDeque::new(),
            corrupt: 0,
            bytes: 0,
            serial: 0,
            repeating: VecDeque::new(),
            wished_at: None,
            kept_until: Some(now + KEEPING_FIRST),
        }
    }

    /// The track with this SSRC ends at this index, and another one takes over: its number, a new one or one that it
    /// had before. What is missing of the one before is still waited for. What came of the other one already is opened
    /// by [`Self::take_held`]. `None` where there is no such track, or there are too many.
    pub fn switch(
        &mut self,
        before: u32,
        end: PacketIndex,
        track: &Track,
        now: Instant,
    ) -> Option<usize> {
        let is_known = self.tracks.iter().any(|known| known.reception.ssrc() == track.ssrc);
        if !is_known && self.tracks.len() >= MOST_TRACKS {
            return None;
        }
        let is_it = |receiving: &&mut Receiving| receiving.reception.ssrc() == before;
        let ending = self.tracks.iter_mut().find(is_it)?;
        ending.reception.end_at(end, now);
        let number = self.opener.set_stream(track.ssrc, track.first_index);
        let receiving = Receiving::new(track, self.patience, now);
        match self.tracks.get_mut(number) {
            Some(known) => {
                let mut known = std::mem::replace(known, receiving);
                known.reception.settle();
                self.former = [&self.former, known.reception.totals()].into_iter().sum();
            }
            None => self.tracks.push(receiving),
        }
        Some(number)
    }

    /// Whether nothing more comes of a track.
    pub fn is_over(&self, track: usize) -> bool {
        self.tracks.get(track).is_none_or(|track| track.reception.is_over())
    }

    /// Whether what is taken from now on came before its announcement did, and is taken late. Nothing plays
    /// yet, so what is missing of it is waited for as long as for what is missing of the history.
    pub fn set_early(&mut self, early: bool) {
        for Receiving { reception, live_index, .. } in &mut self.tracks {
            let announced = (*live_index).max(reception.next_index());
            reception.live_from(if early { PacketIndex::MAX } else { announced });
        }
    }

    /// What the broadcaster left out, as the path does not carry it: nothing of it is missing.
    pub fn left_out(&mut self, left_out: &LeftOut) {
        let is_it = |track: &&mut Receiving| track.reception.ssrc() == left_out.ssrc;
        if let Some(track) = self.tracks.iter_mut().find(is_it) {
            track.reception.left_out(left_out.packets());
        }
    }

    /// From this index on packets of a track come as they are made.
    pub fn live_index(&self, track: usize) -> Option<PacketIndex> {
        self.tracks.get(track).map(|track| track.reception.live_index())
    }

    /// From now on a packet is of use for so long after it should have come.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
        self.tracks.iter_mut().for_each(|track| track.reception.set_patience(patience));
    }

    /// A round trip takes so long, as far as is known.
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.tracks.iter_mut().for_each(|track| track.reception.set_rtt(rtt));
    }

    /// Whether the path does not carry everything, so that what is missing was left out, mostly.
    pub fn set_limited(&mut self, is_limited: bool) {
        self.tracks.iter_mut().for_each(|track| track.reception.set_limited(is_limited));
    }

    /// A further epoch's key. What waited for it is opened by [`Self::take_held`].
    pub fn add_key(&mut self, key: &MasterKey) {
        self.opener.add_key(key);
    }

    /// Takes a datagram as it came: checks the viewer's tag behind it, and then does as [`Self::take`].
    ///
    /// # Errors
    ///
    /// As [`Self::take`]; and [`OpenError::Forged`] where the tag is another, and nothing is taken. Both are counted.
    pub fn take_tagged(
        &mut self,
        tags: &TagKey,
        datagram: &mut [u8],
        now: Instant,
        deliver: &mut dyn FnMut(Arrived<'_>),
    ) -> Result<(), OpenError> {
        let Some(packets) = tags.check(datagram) else {
            self.bytes += (datagram.len() + WIRE_OVERHEAD - TAG) as u64;
            self.corrupt += 1;
            return Err(OpenError::Forged);
        };
        self.take(packets, now, deliver)
    }

    /// Opens the sealed packets of a datagram, in place. Hands each on, unless it is a repair packet, and
    /// what can be rebuilt with it.
    ///
    /// # Errors
    ///
    /// Where one is not authentic, which is counted, or its key or its track is not known, for which it waits. The others
    /// are taken.
    pub fn take(
        &mut self,
        datagram: &mut [u8],
        now: Instant,
        deliver: &mut dyn FnMut(Arrived<'_>),
    ) -> Result<(), OpenError> {
        self.bytes += (datagram.len() + WIRE_OVERHEAD) as u64;
        let packets = volley::packets(datagram);
        let came = if packets.are_sent_again() { Came::Again } else { Came::First };
        let mut result = Ok(());
        for packet in packets {
            if let Err(error) = self.take_packet(packet, came, now, deliver) {
                match error {
                    OpenError::UnknownKey { .. } | OpenError::UnknownStream { .. } => {
                        self.hold(packet.to_vec(), came, now);
                    }
                    _ => self.corrupt += 1,
                }
                result = Err(error);
            }
        }
        result
    }

    /// Opens what waited for a key or a track that was told meanwhile, as [`Self::take`] does.
    pub fn take_held(&mut self, now: Instant, deliver: &mut dyn FnMut(Arrived<'_>)) {
        for Held { mut packet, came, at } in std::mem::take(&mut self.held) {
            match self.take_packet(&mut packet, came, now, deliver) {
                Ok(()) => {}
                Err(OpenError::UnknownKey { .. } | OpenError::UnknownStream { .. })
                    if now < at + KEY_PATIENCE =>
                {
                    self.hold(packet, came, at);
                }
                Err(_) => self.corrupt += 1,
            }
        }
    }

    fn hold(&mut self, packet: Vec<u8>, came: Came, at: Instant) {
        while self.held.front().is_some_and(|held| at >= held.at + KEY_PATIENCE) {
            self.held.pop_front();
            self.corrupt += 1;
        }
        if self.held.len() < MOST_HELD {
            self.held.push_back(Held { packet, came, at });
        } else {
            self.corrupt += 1;
        }
    }

    fn take_packet(
        &mut self,
        packet: &mut [u8],
        came: Came,
        now: Instant,
        deliver: &mut dyn FnMut(Arrived<'_>),
    ) -> Result<(), OpenError> {
        let keeps = self.kept_until.is_some_and(|until| now < until);
        // Of a track that is over it may be the beginning of what comes once it is told that it goes on.
        let over = self.opener.stream_of(packet).filter(|track| self.is_over(*track));
        let sealed = (keeps || over.is_some()).then(|| packet.to_vec());
        let opened = self.opener.open_any(packet);
        if let (Some(track), Some(sealed)) = (over, &sealed) {
            let end = self.tracks[track].reception.next_index();
            let is_of_then = match &opened {
                Ok(Opened::Media(_, index, _)) => *index < end,
                Ok(Opened::Repair(..)) => true,
                Err(_) => false,
            };
            if !is_of_then {
                // As if it were not known yet.
                packet.copy_from_slice(sealed);
                let ssrc = Header::parse(packet)?.ssrc;
                return Err(OpenError::UnknownStream { ssrc });
            }
        }
        let (track, base) = match opened? {
            Opened::Media(track, index, length) => {
                let Some(receiving) = self.tracks.get_mut(track) else { return Ok(()) };
                let rtp = &mut packet[..length];
                let is_fresh = receiving.take(track, index, rtp, came, now, deliver);
                if let Some(sealed) = sealed.filter(|_| is_fresh) {
                    receiving.keep(index, sealed);
                }
                (track, receiving.block_of(index))
            }
            Opened::Repair(track, repair) => {
                let Some(receiving) = self.tracks.get_mut(track) else { return Ok(()) };
                (track, receiving.take_repair(repair))
            }
        };
        if let Some(base) = base {
            self.rebuild(track, base, now, deliver);
        }
        if self.tracks[track].reception.recent().1 >= 0.5 {
            self.kept_until = Some(now + KEEPING);
        } else if self.kept_until.is_some_and(|until| now >= until) {
            self.kept_until = None;
            self.tracks.iter_mut().for_each(|track| track.kept.clear());
        }
        Ok(())
    }

    /// Rebuilds what is missing of a block, if enough of it came.
    fn rebuild(
        &mut self,
        track: usize,
        base: PacketIndex,
        now: Instant,
        deliver: &mut dyn FnMut(Arrived<'_>),
    ) {
        let Some(receiving) = self.tracks.get_mut(track) else { return };
        let Some(coded) = receiving.blocks.get(&base) else { return };
        let range = coded.range(base);
        if receiving.kept.range(range.clone()).count() + coded.repair.len() < coded.source {
            return;
        }
        let kept = receiving.kept.range(range.clone());
        let there = kept.map(|(index, packet)| ((index - base) as usize, &packet[..])).collect();
        let ssrc = receiving.reception.ssrc();
        let rebuilt = code::decode((ssrc, base, coded.source), &there, &coded.repair);
        receiving.blocks.remove(&base);
        for (index, mut packet) in rebuilt.into_iter().flatten() {
            // Nothing else is wanted of what was given up, or had before it was kept.
            let is_wanted =
                receiving.reception.is_missing(index) || index >= receiving.reception.next_index();
            if !is_wanted {
                continue;
            }
            match self.opener.open(&mut packet) {
                Ok((_, opened, length)) if opened == index => {
                    let rtp = &mut packet[..length];
                    receiving.take(track, index, rtp, Came::Rebuilt, now, deliver);
                }
                // The repair packet was authentic, and says nothing sensible: a broadcaster that errs.
                Ok(_) | Err(_) => self.corrupt += 1,
            }
        }
    }

    /// What to ask for now, if anything; `rtt` is the path's. Wishes keep some distance from each other.
    pub fn poll_wish(&mut self, rtt: Duration, now: Instant) -> Option<Wish> {
        if self.wished_at.is_some_and(|at| now < at + WISH_INTERVAL) {
            return None;
        }
        let loss = self.expected_loss();
        let mut asks: Vec<(usize, Asking)> = Vec::new();
        for (number, track) in self.tracks.iter_mut().enumerate() {
            asks.extend(track.ask(rtt, now).into_iter().map(|asking| (number, asking)));
        }
        let mut said = Vec::new();
        for (track, Asking { wanted, rounds, rounds_left, what }) in asks {
            let Some(receiving) = self.tracks.get(track) else { continue };
            let ssrc = receiving.reception.ssrc();
            let ask = Ask { serial: self.serial, ssrc, rounds_left, what };
            self.serial = self.serial.wrapping_add(1);
            let copies = copies(loss, rounds, rounds_left);
            if copies > 1 {
                let at = now + WISH_INTERVAL;
                let ask = ask.clone();
                self.repeating.push_back(Repeating { at, left: copies - 1, track, wanted, ask });
            }
            said.push(ask);
        }
        self.repeat(now, &mut said);
        if said.is_empty() {
            return None;
        }
        self.wished_at = Some(now);
        let takes_repair = self.kept_until.is_some_and(|until| now < until);
        Some(Wish { loss: (loss * 256.0).min(255.0) as u8, takes_repair, asks: said })
    }

    /// Adds what is due to be repeated, as far as it is still missing.
    fn repeat(&mut self, now: Instant, said: &mut Vec<Ask>) {
        let tracks = &self.tracks;
        self.repeating.retain_mut(|repeating| {
            if repeating.at > now {
                return true;
            }
            let Some(track) = tracks.get(repeating.track) else { return false };
            let reception = &track.reception;
            repeating.wanted.retain(|index| reception.is_missing(*index));
            let ask = match &repeating.ask.what {
                What::Packets { .. } => {
                    let Some(what) = named(&repeating.wanted) else { return false };
                    Ask { what, ..repeating.ask.clone() }
                }
                What::Block { .. } if repeating.wanted.is_empty() => return false,
                What::Behind { index, .. } if reception.next_index() != index + 1 => return false,
                What::Block { .. } | What::Behind { .. } => repeating.ask.clone(),
            };
            said.push(ask);
            repeating.left -= 1;
            repeating.at = now + WISH_INTERVAL;
            repeating.left > 0
        });
    }

    /// When [`Self::poll_wish`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let tracks = self.tracks.iter().filter_map(|track| track.reception.poll_timeout());
        let repeating = self.repeating.iter().map(|repeating| repeating.at);
        let due = tracks.chain(repeating).min()?;
        Some(self.wished_at.map_or(due, |at| due.max(at + WISH_INTERVAL)))
    }

    /// Share of packets lost of late, over all tracks, 0 to 1.
    pub fn loss(&self) -> f64 {
        let (expected, lost) = self.recent();
        (lost / expected.max(LEAST_EXPECTED)).clamp(0.0, 1.0)
    }

    /// The share of packets that must be expected to be lost, knowing little at first.
    fn expected_loss(&self) -> f64 {
        let (expected, lost) = self.recent();
        ((lost + ASSUMED_LOST) / (expected + LEAST_EXPECTED)).clamp(0.0, 1.0)
    }

    fn recent(&self) -> (f64, f64) {
        // What was lost of one that is over says nothing of now.
        let tracks = self.tracks.iter().filter(|track| !track.reception.is_over());
        let sum = tracks.map(|track| track.reception.recent());
        sum.fold((0.0, 0.0), |(a, b), (c, d)| (a + c, b + d))
    }

    /// Totals over all tracks.
    pub fn totals(&self) -> Totals {
        let tracks = self.tracks.iter().map(|track| track.reception.totals());
        let totals = tracks.chain([&self.former]).sum();
        Totals { corrupt: self.corrupt, bytes: self.bytes, ..totals }
    }

    /// The blocks of the next report; the interval since the last ends here.
    pub fn report(&mut self) -> Vec<Block> {
        // The one that took over first, in the place of the one before.
        let tracks = self.tracks.iter_mut().filter(|track| !track.reception.is_over());
        let mut blocks: Vec<_> =
            tracks.map(|track| (track.kind == Kind::Audio, track.reception.report())).collect();
        blocks.sort_by_key(|(is_sound, _)| *is_sound);
        blocks.into_iter().map(|(_, block)| block).collect()
    }

    /// Interarrival jitter of the first track, with pictures where any has.
    pub fn jitter(&self) -> Option<Duration> {
        let mut tracks = self.tracks.iter().filter(|track| !track.reception.is_over());
        let first = tracks.clone().find(|track| track.kind == Kind::Video);
        first.or_else(|| tracks.next()).map(|track| track.reception.jitter())
    }

    /// The lowest index of a track that may still come.
    pub fn hoped_for(&self, track: usize) -> Option<PacketIndex> {
        self.tracks.get(track).map(|track| track.reception.hoped_for())
    }
}

impl Receiving {
    fn new(track: &Track, patience: Duration, now: Instant) -> Self {
        let Track { ssrc, clock_rate, expected_from, live_index, .. } = *track;
        Self {
            reception: Reception::new(ssrc, clock_rate, expected_from, live_index, patience, now),
            kind: track.kind,
            live_index,
            kept: BTreeMap::new(),
            blocks: BTreeMap::new(),
        }
    }

    /// Takes an opened packet; true where it is of use.
    fn take(
        &mut self,
        track: usize,
        index: PacketIndex,
        rtp: &mut [u8],
        came: Came,
        now: Instant,
        deliver: &mut dyn FnMut(Arrived<'_>),
    ) -> bool {
        // What was authenticated was RTP when it was sealed.
        let Ok(Header { timestamp, marker, .. }) = Header::parse(rtp) else { return false };
        // Each packet of sound is one of its own.
        let ends_unit = marker || self.kind == Kind::Audio;
        let before = self.reception.next_index();
        let was_missing = self.reception.is_missing(index);
        let arrival = Arrival { index, timestamp, ends_unit, came };
        let verdict = self.reception.receive(arrival, now);
        let is_newest = index >= before && came == Came::First;
        let is_live = index >= self.reception.live_index();
        if is_newest && is_live {
            self.reception.time(timestamp, now);
        }
        let hole = if was_missing { 0 } else { index.saturating_sub(before) };
        deliver(Arrived { track, index, timestamp, verdict, is_newest, is_live, hole, rtp });
        verdict == Verdict::Fresh
    }

    fn keep(&mut self, index: PacketIndex, sealed: Vec<u8>) {
        self.kept.insert(index, sealed);
        if self.kept.len() > MOST_KEPT {
            self.kept.pop_first();
        }
        // No packet older than this can be rebuilt in time.
        let oldest = self.reception.hoped_for().min(index).saturating_sub(MOST_KEPT as u64);
        if self.kept.first_key_value().is_some_and(|(first, _)| *first < oldest) {
            self.kept = self.kept.split_off(&oldest);
        }
    }

    /// The block with repair packets that a packet belongs to.
    fn block_of(&self, index: PacketIndex) -> Option<PacketIndex> {
        let (&base, coded) = self.blocks.range(..=index).next_back()?;
        coded.range(base).contains(&index).then_some(base)
    }

    /// Takes a repair packet, and says of which block it is, if it is of use.
    fn take_repair(&mut self, repair: Repair) -> Option<PacketIndex> {
        let Repair { base, source, number, shard } = repair;
        let base = nearest(self.reception.next_index(), base);
        let range = base..base + source as u64;
        let is_wanted = range.end > self.reception.next_index()
            || self.reception.missing_of(range).next().is_some();
        if !is_wanted {
            return None;
        }
        let coded =
            self.blocks.entry(base).or_insert_with(|| Coded { source, repair: BTreeMap::new() });
        let fits = coded.source == source
            && coded.repair.values().next().is_none_or(|other| other.len() == shard.len());
        if fits {
            coded.repair.insert(number, shard);
        }
        if self.blocks.len() > MOST_BLOCKS {
            self.blocks.pop_first();
        }
        Some(base)
    }

    /// What to ask for now: packets by name, and what blocks lack.
    fn ask(&mut self, rtt: Duration, now: Instant) -> Vec<Asking> {
        let wanted = self.reception.poll_wanted(rtt, now);
        self.forget();
        let mut by_name: BTreeMap<(u8, u32), Vec<PacketIndex>> = BTreeMap::new();
        let mut asks: BTreeMap<PacketIndex, Asking> = BTreeMap::new();
        for Wanted { index, rounds, rounds_left } in wanted {
            let lacking = self.block_of(index).filter(|base| {
                let lacks = self.lacks(*base);
                // Packets that came before any were kept are missing to the block, but not to us.
                lacks > 0 && lacks <= self.missing_of(*base)
            });
            let Some(base) = lacking else {
                by_name.entry((rounds_left, rounds)).or_default().push(index);
                continue;
            };
            let lacks = self.lacks(base).min(255) as u8;
            let asking = asks.entry(base).or_insert(Asking {
                wanted: Vec::new(),
                rounds,
                rounds_left,
                what: What::Block { base, lacks },
            });
            asking.wanted.push(index);
            asking.rounds = asking.rounds.max(rounds);
            asking.rounds_left = asking.rounds_left.min(rounds_left);
        }
        let mut asks: Vec<_> = asks.into_values().collect();
        for ((rounds_left, rounds), wanted) in by_name {
            for wanted in wanted.chunks(feedback::MOST_NAMED / 2) {
                let what = named(wanted);
                let wanted = wanted.to_vec();
                asks.extend(what.map(|what| Asking { wanted, rounds, rounds_left, what }));
            }
        }
        if let Some(silence) = self.reception.poll_behind(now) {
            let Silence { index, newest, lasts, rounds_left } = silence;
            let silence_us = u32::try_from(lasts.as_micros()).unwrap_or(u32::MAX);
            let what = What::Behind { index, newest, silence_us };
            asks.push(Asking { wanted: Vec::new(), rounds: 0, rounds_left, what });
        }
        asks
    }

    /// How many packets of a block are needed to rebuild the others.
    fn lacks(&self, base: PacketIndex) -> usize {
        self.blocks.get(&base).map_or(0, |coded| {
            let there = self.kept.range(coded.range(base)).count();
            coded.source.saturating_sub(there + coded.repair.len())
        })
    }

    fn missing_of(&self, base: PacketIndex) -> usize {
        let range = self.blocks.get(&base).map(|coded| coded.range(base));
        range.map_or(0, |range| {
            let behind = range.end.saturating_sub(self.reception.next_index().max(range.start));
            self.reception.missing_of(range).count() + behind as usize
        })
    }

    /// Forgets blocks of which nothing can be missing any more.
    fn forget(&mut self) {
        let hoped_for = self.reception.hoped_for();
        self.blocks.retain(|base, coded| coded.range(*base).end > hoped_for);
    }
}

impl Coded {
    fn range(&self, base: PacketIndex) -> Range<PacketIndex> {
        base..base + self.source as u64
    }
}

/// How often a request is said that was made in so many rounds before, without success.
fn copies(loss: f64, rounds: u32, rounds_left: u8) -> u32 {
    let risk = match rounds_left {
        0 => RISK_OF_LAST,
        1 => RISK_OF_SECOND_LAST,
        _ => RISK_OF_EARLIER,
    };
    if loss <= 0.0 {
        return 1;
    }
    // What is lost on the way to us may be lost on the way back, and more than was thought if nothing came.
    let copies = risk.ln() / loss.min(0.9).ln();
    (copies.ceil() as u32).saturating_mul(4u32.saturating_pow(rounds)).clamp(1, MOST_COPIES)
}

/// A request for packets by name.
fn named(wanted: &[PacketIndex]) -> Option<What> {
    let (&first, others) = wanted.split_first()?;
    let others = others.iter().map_while(|index| u16::try_from(index - first).ok());
    Some(What::Packets { first, others: others.collect() })
}
