//! Gives a transport stream the times of its sender's clock. `tsdemux` follows the moments at which packets come, for seconds
//! at first, and so moves pictures that are sent in another order than they are shown in, and sound, against each
//! other. So it is given moments of the sender's clock, and agrees with every one of them; what is learnt later of how things
//! come is added to the times of pictures and sound alike. Those moments lie before those of arrival by what the sender sends
//! ahead of its clock, or pictures would seem to be captured in the future.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::super::error::MediaError;
use super::super::track::{Live, cannot_build};
use super::arrival::Arrival;

/// Packets are held at first until for so long none has come quicker than those before, in nanoseconds: a sender that begins
/// late catches up, and what follows lies evenly from its beginning.
const FIRST_LOOK: i64 = 250_000_000;

/// What is quicker by less is as quick, in nanoseconds.
const AS_QUICK: i64 = 2_000_000;

/// No longer than so, in nanoseconds.
const LONGEST_LOOK: i64 = 2_000_000_000;

/// What is further ahead of the clock says nothing, in nanoseconds.
const MOST_AHEAD: i64 = 3_000_000_000;

/// A clock that is this far from where it was is another one, in nanoseconds.
const FARTHEST: i64 = 1_000_000_000;

/// Buffers that are held at most.
const MOST_HELD: usize = 10_000;

/// Bytes of a packet (ISO/IEC 13818-1, 2.4.3.2).
const PACKET: usize = 188;

/// Clock references count 27 MHz; their base counts 90 kHz in 33 bits.
const WRAP: i64 = (1 << 33) * 300;

/// Sees to it that what goes into this demultiplexer comes evenly.
///
/// # Errors
///
/// Where it is none.
pub(super) fn steady(live: &Arc<Live>, demultiplexer: &gst::Element) -> Result<(), MediaError> {
    let sink = demultiplexer.static_pad("sink");
    let sink = sink.ok_or_else(|| cannot_build("a demultiplexer without an entry"))?;
    let steady = Steady::default();
    let shift = steady.shift.clone();
    demultiplexer.connect_pad_added(move |_, pad| {
        let shift = shift.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(buffer) = info.buffer_mut() {
                let by = shift.load(Relaxed);
                let buffer = buffer.make_mut();
                let later = |at: gst::ClockTime| {
                    let at = at.nseconds().cast_signed().saturating_add(by);
                    gst::ClockTime::from_nseconds(at.max(0).cast_unsigned())
                };
                buffer.set_pts(buffer.pts().map(later));
                buffer.set_dts(buffer.dts().map(later));
            }
            gst::PadProbeReturn::Ok
        });
    });
    let state = Mutex::new(steady);
    let live = Arc::downgrade(live);
    let what = gst::PadProbeType::BUFFER
        | gst::PadProbeType::BUFFER_LIST
        | gst::PadProbeType::EVENT_DOWNSTREAM;
    sink.add_probe(what, move |pad, info| {
        let Some(live) = live.upgrade() else { return gst::PadProbeReturn::Ok };
        let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                if lock().releases {
                    return gst::PadProbeReturn::Ok;
                }
                lock().take([buffer.clone()], live.epoch.now())
            }
            Some(gst::PadProbeData::BufferList(list)) => {
                lock().take(list.iter_owned(), live.epoch.now())
            }
            Some(gst::PadProbeData::Event(event)) => {
                if event.type_() != gst::EventType::Eos {
                    return gst::PadProbeReturn::Ok;
                }
                lock().take_held()
            }
            _ => return gst::PadProbeReturn::Ok,
        };
        let is_event = matches!(info.data, Some(gst::PadProbeData::Event(_)));
        // They come by here once more.
        lock().releases = true;
        let passed = ready.into_iter().try_for_each(|buffer| pad.chain(buffer).map(drop));
        lock().releases = false;
        match passed {
            _ if is_event => gst::PadProbeReturn::Ok,
            Ok(()) => {
                info.flow_res = Ok(gst::FlowSuccess::Ok);
                gst::PadProbeReturn::Handled
            }
            Err(error) => {
                info.flow_res = Err(error);
                gst::PadProbeReturn::Handled
            }
        }
    });
    Ok(())
}

#[derive(Debug, Default)]
struct Steady {
    arrival: Arrival,
    /// The packets whose clock references count, those that came first with one.
    pid: Option<u16>,
    /// The latest reference.
    latest: Option<i64>,
    /// When the first buffer came, in running time.
    began: Option<i64>,
    /// When one came that was quicker than those before.
    quicker_at: Option<i64>,
    /// What came before it was known how things come.
    held: Vec<(gst::Buffer, Option<i64>, i64)>,
    looked: bool,
    /// By how much what is to be decoded first is ahead of the clock reference that came before it, in nanoseconds.
    lead: Option<i64>,
    /// Running time at which the sender's time is taken to be zero, in nanoseconds.
    base: Option<i64>,
    /// What is to be added to the times of what comes out: what has been learnt since.
    shift: Arc<AtomicI64>,
    /// Where the last buffer was placed, in running time.
    placed: i64,
    /// Whether what comes by has been stamped.
    releases: bool,
}

impl Steady {
    /// Takes what came at this running time, in nanoseconds. Returns what goes on.
    fn take(
        &mut self,
        buffers: impl IntoIterator<Item = gst::Buffer>,
        now: i64,
    ) -> Vec<gst::Buffer> {
        for buffer in buffers {
            let before = self.arrival.at(0);
            let time = self.time(&buffer, now);
            if before - self.arrival.at(0) > AS_QUICK {
                self.quicker_at = Some(now);
            }
            self.held.push((buffer, time, now));
        }
        let began = *self.began.get_or_insert(now);
        let quicker_at = self.quicker_at.unwrap_or(began);
        self.looked |= now - quicker_at >= FIRST_LOOK
            || now - began >= LONGEST_LOOK
            || self.held.len() >= MOST_HELD;
        if self.looked { self.take_held() } else { Vec::new() }
    }

    fn take_held(&mut self) -> Vec<gst::Buffer> {
        let held = std::mem::take(&mut self.held);
        held.into_iter().map(|(buffer, time, now)| self.stamped(buffer, time, now)).collect()
    }

    fn stamped(&mut self, mut buffer: gst::Buffer, time: Option<i64>, now: i64) -> gst::Buffer {
        if let Some(time) = time {
            let offset = self.arrival.at(0) - self.lead.unwrap_or(0);
            let mut base = *self.base.get_or_insert(offset);
            if (offset - base).abs() > FARTHEST {
                // The sender's clock has begun anew, which the demultiplexer sees for itself.
                base = offset;
                self.base = Some(base);
            }
            self.shift.store(offset - base, Relaxed);
            self.placed = base + time;
        } else if self.latest.is_none() {
            self.placed = now - self.lead.unwrap_or(0);
        }
        let at = gst::ClockTime::from_nseconds(self.placed.max(0).cast_unsigned());
        let stamped = buffer.make_mut();
        stamped.set_pts(at);
        stamped.set_dts(at);
        buffer
    }

    /// Time of the last clock reference in it, in nanoseconds since the stream's first.
    fn time(&mut self, buffer: &gst::Buffer, now: i64) -> Option<i64> {
        let bytes = buffer.map_readable().ok()?;
        let mut found = None;
        for packet in bytes.chunks_exact(PACKET) {
            if let Some((pid, reference)) = reference(packet)
                && *self.pid.get_or_insert(pid) == pid
            {
                let latest = self.latest.replace(reference).unwrap_or(reference);
                let step = (reference - latest + WRAP / 2).rem_euclid(WRAP) - WRAP / 2;
                // 27 MHz: a thousand nanoseconds are 27 of its steps.
                found = Some(self.arrival.advance(step * 1_000 / 27, now));
            }
            if !self.looked
                && let (Some(latest), Some(time)) = (self.latest, decoding_time(packet))
            {
                let lead = (time * 300 - latest + WRAP / 2).rem_euclid(WRAP) - WRAP / 2;
                let lead = (lead * 1_000 / 27).clamp(0, MOST_AHEAD);
                self.lead = Some(self.lead.map_or(lead, |least| least.min(lead)));
            }
        }
        found
    }
}

/// The clock reference in a packet, and whose it is.
fn reference(packet: &[u8]) -> Option<(u16, i64)> {
    let &[0x47, high, low, control, length, flags, b0, b1, b2, b3, b4, b5, ..] = packet else {
        return None;
    };
    let has_reference = control & 0x20 != 0 && length >= 7 && flags & 0x10 != 0;
    let [b0, b1, b2, b3, b4, b5] = [b0, b1, b2, b3, b4, b5].map(i64::from);
    let base = b0 << 25 | b1 << 17 | b2 << 9 | b3 << 1 | b4 >> 7;
    let pid = u16::from(high & 0x1f) << 8 | u16::from(low);
    has_reference.then_some((pid, base * 300 + ((b4 & 1) << 8 | b5)))
}

/// When what begins in a packet is to be decoded, in 1/90,000 s (ISO/IEC 13818-1, 2.4.3.6).
fn decoding_time(packet: &[u8]) -> Option<i64> {
    let &[0x47, flags, _, control, length, ..] = packet else { return None };
    let skip = if control & 0x20 != 0 { 5 + usize::from(length) } else { 4 };
    let begins = flags & 0x40 != 0 && control & 0x10 != 0;
    let payload = packet.get(skip..).filter(|_| begins)?;
    let &[0, 0, 1, 0xbd | 0xc0..=0xef | 0xfd, _, _, marker, has, _, ..] = payload else {
        return None;
    };
    let at = match has >> 6 {
        _ if marker & 0xc0 != 0x80 => return None,
        0b10 => 9,
        0b11 => 14,
        _ => return None,
    };
    let &[t0, t1, t2, t3, t4] = payload.get(at..at + 5)? else { return None };
    let [t0, t1, t2, t3, t4] = [t0, t1, t2, t3, t4].map(i64::from);
    Some((t0 >> 1 & 7) << 30 | t1 << 22 | (t2 >> 1) << 15 | t3 << 7 | t4 >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet with a clock reference, in 1/90,000 s, and a picture that is to be decoded so much later.
    fn packet(reference: i64, later: i64) -> Vec<u8> {
        let mut packet = vec![0x47, 0x41, 0, 0x30, 7, 0x10];
        let bytes = (reference << 15).to_be_bytes();
        packet.extend(&bytes[2..6]);
        packet.extend([(reference << 7 & 0x80) as u8, 0]);
        let time = (reference + later) % (1 << 33);
        packet.extend([0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5]);
        let part = |shift: u32| (time >> shift & 0x7f) as u8;
        packet.push(0x21 | ((time >> 30 & 7) << 1) as u8);
        packet.extend([(time >> 22 & 0xff) as u8, part(15) << 1 | 1]);
        packet.extend([(time >> 7 & 0xff) as u8, part(0) << 1 | 1]);
        packet.resize(PACKET, 0xff);
        packet
    }

    #[test]
    fn what_comes_is_placed_evenly_and_wraps_around() {
        gst::init().expect("GStreamer starts");
        const MS: i64 = 1_000_000;
        let mut steady = Steady::default();
        let mut placed = Vec::new();
        for picture in 0..100_i64 {
            // The clock wraps around after a second; what is sent is 700 ms ahead of it; it comes late at first.
            let reference = ((1 << 33) - 90_000 + picture * 3_600) % (1 << 33);
            let late = if picture < 3 { 90 - 30 * picture } else { picture * 7 % 5 };
            let now = (60_000 + picture * 40 + late) * MS;
            let buffer = gst::Buffer::from_slice(packet(reference, 63_000));
            let ready = steady.take([buffer], now);
            placed.extend(ready.iter().filter_map(|b| b.pts()).map(|at| at.mseconds()));
        }
        assert_eq!(placed.len(), 100);
        assert_eq!(steady.lead, Some(700 * MS));
        let off = placed.iter().zip(0..).map(|(&at, picture)| at as i64 - 59_300 - picture * 40);
        let off: Vec<i64> = off.collect();
        assert!(off.iter().all(|off| (0..=1).contains(off)), "{off:?}");
    }

    #[test]
    fn what_is_no_such_packet_says_nothing() {
        for bytes in [&[0x47; PACKET][..], &[0; PACKET], &[0x47, 0x40, 0, 0x30, 255], &[]] {
            assert_eq!(decoding_time(bytes), None);
        }
        assert_eq!(reference(&[0; PACKET]), None);
        let packet = packet(12_345, 6_789);
        assert_eq!(reference(&packet), Some((0x100, 12_345 * 300)));
        assert_eq!(decoding_time(&packet), Some(12_345 + 6_789));
    }
}
