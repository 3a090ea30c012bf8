//! Gives what comes out of a transport stream the times that its sender wrote down for it, and no others. `tsdemux`
//! follows clock references and the moments at which packets come, and moves sound and pictures against each other
//! meanwhile. So it is told to take no notice of either, which leaves the times in the packets' headers (ISO/IEC 13818-1,
//! 2.4.3.7), exact to 11 µs, counted from anywhere. [`Arrival`] says where they lie on our clock, for sound and pictures alike.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::super::error::MediaError;
use super::super::track::{Live, cannot_build};
use super::arrival::Arrival;
use super::interleave::Interleave;

/// What comes first is held until for so long nothing has come quicker than all before, in nanoseconds: a sender that
/// begins late catches up, and what is passed on lies evenly from its beginning.
const FIRST_LOOK: i64 = 250_000_000;

/// What is quicker by less is as quick, in nanoseconds.
const AS_QUICK: i64 = 2_000_000;

/// No longer than so, in nanoseconds.
const LONGEST_LOOK: i64 = 2_000_000_000;

/// Nor more than this, in bytes, of which holding something takes a few itself.
const MOST_HELD: usize = 16 << 20;
const TO_HOLD: usize = 512;

/// Times count 1/90,000 s in 33 bits: after so many nanoseconds they begin anew.
const WRAP: i64 = 95_443_717_688_889;

/// How much later than decoded something may be shown, in nanoseconds, and how much earlier, by senders that are not
/// careful. What says otherwise is shown as it is decoded.
const MOST_LATER: i64 = 5_000_000_000;
const MOST_EARLIER: i64 = 1_000_000_000;

/// What would be placed farther than this from when it came has other times than what came later, in nanoseconds.
const LONGEST_OFF: i64 = 5_000_000_000;

/// When all packets are said to have come: any moment that is later than 33 bits can count, or times that step back would lie
/// before time zero and be lost.
const CAME: gst::ClockTime = gst::ClockTime::from_seconds(1_000 * 3_600);

/// Sees to it that what comes out of this demultiplexer, once it has pads, has its sender's times, on our clock.
///
/// # Errors
///
/// Where it is none.
pub(super) fn steady(live: &Arc<Live>, demultiplexer: &gst::Element) -> Result<(), MediaError> {
    let (epoch, to) = (live.epoch, Arc::downgrade(live));
    let hold_back = move |by| {
        if let Some(live) = to.upgrade() {
            live.hold_back(by);
        }
    };
    follow(demultiplexer, move || epoch.now(), hold_back)
}

/// The same, by the running time that this tells; `hold_back` is told by how much what is passed on is to be held back
/// behind its times. Both in nanoseconds.
fn follow(
    demultiplexer: &gst::Element,
    now: impl Fn() -> i64 + Clone + Send + Sync + 'static,
    hold_back: impl Fn(i64) + Clone + Send + Sync + 'static,
) -> Result<(), MediaError> {
    let sink = demultiplexer.static_pad("sink");
    let sink = sink.ok_or_else(|| cannot_build("a demultiplexer without an entry"))?;
    demultiplexer.set_property("ignore-pcr", true);
    sink.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, |_, info| {
        let came = |buffer: &mut gst::BufferRef| {
            buffer.set_pts(CAME);
            buffer.set_dts(CAME);
        };
        match &mut info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => came(buffer.make_mut()),
            Some(gst::PadProbeData::BufferList(list)) => {
                list.make_mut().foreach_mut(|mut buffer, _| {
                    came(buffer.make_mut());
                    ControlFlow::Continue(Some(buffer))
                });
            }
            _ => {}
        }
        gst::PadProbeReturn::Ok
    });
    let steady = Arc::<Mutex<Steady>>::default();
    demultiplexer.connect_pad_added(move |_, pad| {
        let (steady, now, hold_back) = (steady.clone(), now.clone(), hold_back.clone());
        let what = gst::PadProbeType::BUFFER
            | gst::PadProbeType::BUFFER_LIST
            | gst::PadProbeType::EVENT_DOWNSTREAM;
        pad.add_probe(what, move |pad, info| pass(&steady, (pad, info), now(), &hold_back));
    });
    Ok(())
}

/// Deals with what comes out of one pad. One thread serves all pads.
fn pass(
    steady: &Mutex<Steady>,
    (pad, info): (&gst::Pad, &mut gst::PadProbeInfo),
    now: i64,
    hold_back: &impl Fn(i64),
) -> gst::PadProbeReturn {
    let is_data =
        matches!(info.data, Some(gst::PadProbeData::Buffer(_) | gst::PadProbeData::BufferList(_)));
    // Subtitles come ahead of time, and nobody is sent them.
    if is_data && !is_picture_or_sound(pad) {
        return gst::PadProbeReturn::Ok;
    }
    let lock = || steady.lock().unwrap_or_else(PoisonError::into_inner);
    let buffers = match &mut info.data {
        Some(gst::PadProbeData::Buffer(buffer)) => {
            let mut steady = lock();
            if steady.releases {
                return gst::PadProbeReturn::Ok;
            }
            if steady.looked {
                let moment = steady.hear(buffer, now);
                hold_back(steady.held_back);
                steady.stamp(buffer.make_mut(), moment);
                return gst::PadProbeReturn::Ok;
            }
            vec![buffer.clone()]
        }
        Some(gst::PadProbeData::BufferList(list)) => list.iter_owned().collect(),
        Some(gst::PadProbeData::Event(event)) => match event.type_() {
            // Theirs are not our times.
            gst::EventType::Gap => return gst::PadProbeReturn::Handled,
            gst::EventType::Segment => {
                let ours = gst::FormattedSegment::<gst::ClockTime>::new();
                *event = gst::event::Segment::builder(&ours).seqnum(event.seqnum()).build();
                return gst::PadProbeReturn::Ok;
            }
            gst::EventType::Eos => Vec::new(),
            _ => return gst::PadProbeReturn::Ok,
        },
        _ => return gst::PadProbeReturn::Ok,
    };
    let is_end = matches!(info.data, Some(gst::PadProbeData::Event(_)));
    let ready = {
        let mut steady = lock();
        let ready = steady.take(pad, buffers, is_end, now);
        hold_back(steady.held_back);
        // They come by here once more.
        steady.releases = true;
        ready
    };
    let mut passed = Ok(gst::FlowSuccess::Ok);
    for (to, buffer) in ready {
        // What another pad says, it says again next time.
        let said = to.push(buffer);
        if to == *pad {
            passed = said;
        }
    }
    lock().releases = false;
    if is_end {
        return gst::PadProbeReturn::Ok;
    }
    info.flow_res = passed;
    gst::PadProbeReturn::Handled
}

/// Whether this is what comes out of the pad, as far as is known.
fn is_picture_or_sound(pad: &gst::Pad) -> bool {
    let caps = pad.current_caps();
    let name = caps.as_ref().and_then(|caps| caps.structure(0)).map(|caps| caps.name());
    name.is_none_or(|name| name.starts_with("video/") || name.starts_with("audio/"))
}

/// When something is decoded, by the sender's clock, by how much later it is shown, and when it came, in running time. All
/// in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Moment {
    decoded: i64,
    later: i64,
    came: i64,
}

#[derive(Debug, Default)]
struct Steady {
    arrival: Arrival,
    interleave: Interleave,
    /// By how much what is passed on is held back behind its times, in nanoseconds.
    held_back: i64,
    /// The latest decoding time of all, as the demultiplexer tells it.
    latest: Option<i64>,
    /// When the first came, in running time.
    began: Option<i64>,
    /// When one came that was quicker than those before.
    quicker_at: Option<i64>,
    /// What came before it was known how things come, and for which pad.
    held: Vec<(gst::Pad, gst::Buffer, Option<Moment>)>,
    held_bytes: usize,
    looked: bool,
    /// Whether what comes by has been stamped.
    releases: bool,
}

impl Steady {
    /// Takes what came for a pad at this running time, in nanoseconds; at the end nothing more comes. Returns what goes on.
    fn take(
        &mut self,
        pad: &gst::Pad,
        buffers: Vec<gst::Buffer>,
        is_end: bool,
        now: i64,
    ) -> Vec<(gst::Pad, gst::Buffer)> {
        for buffer in buffers {
            let moment = self.hear(&buffer, now);
            self.held_bytes += buffer.size() + TO_HOLD;
            self.held.push((pad.clone(), buffer, moment));
        }
        let began = *self.began.get_or_insert(now);
        let quicker_at = self.quicker_at.unwrap_or(began);
        self.looked |= is_end
            || now - quicker_at >= FIRST_LOOK
            || now - began >= LONGEST_LOOK
            || self.held_bytes >= MOST_HELD;
        if !self.looked {
            return Vec::new();
        }
        let mut held = std::mem::take(&mut self.held);
        // Not those of another time, which began anew meanwhile.
        let moments = held.iter().filter_map(|(_, _, moment)| *moment);
        let near = moments.filter(|moment| self.place(*moment).is_some());
        let first = near.map(|moment| moment.decoded.saturating_add(moment.later.min(0))).min();
        self.arrival.settle(first.unwrap_or(0));
        held.iter_mut().for_each(|(_, buffer, moment)| self.stamp(buffer.make_mut(), *moment));
        held.into_iter().map(|(pad, buffer, _)| (pad, buffer)).collect()
    }

    /// When this is decoded and shown, where it says so. Learns from it how things come.
    fn hear(&mut self, buffer: &gst::BufferRef, now: i64) -> Option<Moment> {
        let time = |at: gst::ClockTime| at.nseconds().cast_signed();
        let decoded = time(buffer.dts_or_pts()?);
        let later = buffer.pts().map_or(0, |pts| since(time(pts), decoded));
        let later = if (-MOST_EARLIER..=MOST_LATER).contains(&later) { later } else { 0 };
        let before = self.arrival.at(0);
        let latest = self.latest.replace(decoded).unwrap_or(decoded);
        let decoded = self.arrival.advance(since(decoded, latest), now);
        self.held_back = self.interleave.take(decoded, now);
        if before.wrapping_sub(self.arrival.at(0)) > AS_QUICK {
            self.quicker_at = Some(now);
        }
        Some(Moment { decoded, later, came: now })
    }

    /// Running time at which it is decoded, in nanoseconds. `None` where times have begun anew since it came.
    fn place(&self, moment: Moment) -> Option<i64> {
        let at = self.arrival.at(moment.decoded);
        (at.saturating_sub(moment.came).saturating_abs() <= LONGEST_OFF).then_some(at)
    }

    /// Writes our times into it.
    fn stamp(&self, buffer: &mut gst::BufferRef, moment: Option<Moment>) {
        let at = moment.map(|moment| {
            let decoded = self.place(moment).unwrap_or(moment.came);
            [decoded, decoded.saturating_add(moment.later)]
                .map(|at| gst::ClockTime::from_nseconds(at.max(0).cast_unsigned()))
        });
        buffer.set_dts(at.map(|[decoded, _]| decoded));
        buffer.set_pts(at.map(|[_, shown]| shown));
    }
}

/// By how much one time is later than another, which it is by less than half of what times can count.
fn since(time: i64, earlier: i64) -> i64 {
    (time.wrapping_sub(earlier).wrapping_add(WRAP / 2)).rem_euclid(WRAP) - WRAP / 2
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

    use proptest::prelude::*;

    use super::*;

    const MS: i64 = 1_000_000;

    /// Packets of pictures and of sound.
    const PICTURES: u16 = 0x100;
    const SOUND: u16 = 0x101;
    /// And of what is neither.
    const DATA: u16 = 0x102;

    /// Bytes of a packet (ISO/IEC 13818-1, 2.4.3.2).
    const PACKET: usize = 188;

    /// What came out: of which packets, and when it is shown and decoded, in nanoseconds of running time.
    type Out = (u16, Option<i64>, Option<i64>);

    /// A real demultiplexer that is told what time it is, and a sender of pictures and sound.
    struct Sender {
        demultiplexer: gst::Element,
        pipeline: gst::Pipeline,
        now: Arc<AtomicI64>,
        held_back: Arc<AtomicI64>,
        out: Arc<Mutex<Vec<Out>>>,
        counters: [u8; 0x2000],
    }

    impl Sender {
        fn new() -> Self {
            gst::init().expect("GStreamer starts");
            let demultiplexer = gst::ElementFactory::make("tsdemux").build().expect("it is there");
            let pipeline = gst::Pipeline::new();
            pipeline.add(&demultiplexer).expect("it is new");
            let (now, out) = (Arc::<AtomicI64>::default(), Arc::<Mutex<Vec<Out>>>::default());
            let told = now.clone();
            let held_back = Arc::<AtomicI64>::default();
            let hold_back = {
                let held_back = held_back.clone();
                move |by| held_back.store(by, Relaxed)
            };
            follow(&demultiplexer, move || told.load(Relaxed), hold_back).expect("it has an entry");
            let (into, came) = (pipeline.clone(), out.clone());
            demultiplexer.connect_pad_added(move |_, pad| {
                let of = match pad.name().split('_').next() {
                    Some("video") => PICTURES,
                    Some("audio") => SOUND,
                    _ => DATA,
                };
                let sink = gst::ElementFactory::make("fakesink").property("async", false).build();
                let sink = sink.expect("it is there");
                into.add(&sink).expect("it is new");
                sink.sync_state_with_parent().expect("it starts");
                let entry = sink.static_pad("sink").expect("it has one");
                let came = came.clone();
                entry.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
                    let segment =
                        pad.sticky_event::<gst::event::Segment>(0).expect("it came first");
                    let segment = segment.segment().clone().downcast::<gst::ClockTime>();
                    let segment = segment.expect("time");
                    let running = |at: gst::ClockTime| {
                        segment.to_running_time(at).expect("it counts").nseconds().cast_signed()
                    };
                    let buffer = info.buffer().expect("one");
                    let times = (of, buffer.pts().map(running), buffer.dts().map(running));
                    came.lock().expect("no panic").push(times);
                    gst::PadProbeReturn::Ok
                });
                pad.link(&entry).expect("they fit");
            });
            pipeline.set_state(gst::State::Playing).expect("it starts");
            let sink = demultiplexer.static_pad("sink").expect("it has one");
            let caps = gst::Caps::builder("video/mpegts").field("systemstream", true).build();
            sink.send_event(gst::event::StreamStart::new("sent"));
            sink.send_event(gst::event::Caps::new(&caps));
            let segment = gst::FormattedSegment::<gst::ClockTime>::new();
            sink.send_event(gst::event::Segment::new(&segment));
            let mut sender =
                Self { demultiplexer, pipeline, now, held_back, out, counters: [0; 0x2000] };
            sender.tables();
            sender
        }

        /// One program of H.264 and MPEG audio.
        fn tables(&mut self) {
            let pmt = 0x1000_u16;
            let section = |table: u8, body: &[u8]| {
                let length = u16::try_from(5 + body.len() + 4).expect("it is short") | 0xb000;
                let mut section = vec![table];
                section.extend(length.to_be_bytes());
                section.extend([0, 1, 0xc1, 0, 0]);
                section.extend(body);
                let crc = section.iter().fold(u32::MAX, |crc, byte| {
                    (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| {
                        crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 }
                    })
                });
                section.extend(crc.to_be_bytes());
                [&[0][..], &section].concat()
            };
            let [high, low] = (pmt | 0xe000).to_be_bytes();
            self.packet(0, &section(0, &[0, 1, high, low]));
            let stream = |kind: u8, pid: u16| {
                let [high, low] = (pid | 0xe000).to_be_bytes();
                [kind, high, low, 0xf0, 0]
            };
            let [high, low] = (PICTURES | 0xe000).to_be_bytes();
            let program = [high, low, 0xf0, 0];
            let mut data = stream(6, DATA).to_vec();
            data[4] = 6;
            data.extend(b"\x05\x04KLVA");
            let streams = [&stream(0x1b, PICTURES)[..], &stream(3, SOUND), &data].concat();
            self.packet(pmt, &section(2, &[&program[..], &streams].concat()));
        }

        /// Sends a packet with which something begins.
        fn packet(&mut self, pid: u16, payload: &[u8]) {
            let counter = &mut self.counters[usize::from(pid)];
            let [high, low] = (pid | 0x4000).to_be_bytes();
            let mut packet = vec![0x47, high, low, 0x10 | *counter];
            *counter = (*counter + 1) % 16;
            packet.extend(payload);
            packet.resize(PACKET, 0xff);
            self.send(packet);
        }

        fn send(&self, bytes: Vec<u8>) {
            let sink = self.demultiplexer.static_pad("sink").expect("it has one");
            // It may say that nothing is taken before its pads are there.
            let _ = sink.chain(gst::Buffer::from_slice(bytes));
        }

        /// Sends a picture, or a frame of sound, that is to be shown and decoded then, in 1/90,000 s, at this running
        /// time in nanoseconds.
        fn unit(&mut self, pid: u16, shown: i64, decoded: i64, now: i64) {
            self.now.store(now, Relaxed);
            let time = |mark: u8, time: i64| {
                let time = time.rem_euclid(1 << 33);
                let part = |shift: u32, bits: u32| (time >> shift & ((1 << bits) - 1)) as u8;
                let [b0, b1, b2] =
                    [part(30, 3) << 1 | mark << 4 | 1, part(22, 8), part(15, 7) << 1 | 1];
                [b0, b1, b2, part(7, 8), part(0, 7) << 1 | 1]
            };
            let id = match pid {
                PICTURES => 0xe0,
                SOUND => 0xc0,
                _ => 0xbd,
            };
            let header = [&[0x80, 0xc0, 10][..], &time(3, shown), &time(1, decoded)].concat();
            let mut unit = vec![0, 0, 1, id, 0, 0];
            unit.extend(header);
            unit.resize(PACKET - 4, 0xff);
            let length = u16::try_from(unit.len() - 6).expect("it is short");
            unit[4..6].copy_from_slice(&length.to_be_bytes());
            self.packet(pid, &unit);
        }

        /// Sends this second's pictures, of which some are shown behind others that are sent later, and its sound; by a
        /// clock that shows this at running time zero, in 1/90,000 s. `late` tells by how much each of them is late, in
        /// nanoseconds.
        fn second(&mut self, second: i64, clock: i64, late: impl Fn(i64) -> i64) {
            for number in second * 25..second * 25 + 25 {
                let decoded = clock + number * 3_600;
                let later = [3, 0, 1, 0][usize::try_from(number % 4).expect("it counts up")];
                let now = number * 40 * MS + late(number);
                let shown = decoded + later * 3_600 + 3_600;
                self.unit(PICTURES, shown, decoded, now);
                self.unit(SOUND, decoded, decoded, now);
            }
        }

        /// By how much what is passed on is to be held back, in nanoseconds.
        fn held_back(&self) -> i64 {
            self.held_back.load(Relaxed)
        }

        fn out(&self) -> Vec<Out> {
            std::mem::take(&mut self.out.lock().expect("no panic"))
        }
    }

    impl Drop for Sender {
        fn drop(&mut self) {
            self.pipeline.set_state(gst::State::Null).expect("it stops");
        }
    }

    /// The longest and the shortest time from one to the next of what is sent each 40 ms, as it is decoded, in
    /// nanoseconds; pictures and sound of one moment must be of one moment still, and shown as much later as was written.
    fn steps(out: &[Out]) -> [i64; 2] {
        let of = |pid: u16| -> Vec<(i64, i64)> {
            let mine = out.iter().filter(|(of, ..)| *of == pid);
            mine.map(|(_, shown, decoded)| (shown.expect("a time"), decoded.expect("a time")))
                .collect()
        };
        let (pictures, sound) = (of(PICTURES), of(SOUND));
        assert_eq!(pictures.len(), sound.len());
        let mut wrapped = 0;
        for ((shown, picture), (_, sound)) in pictures.iter().zip(&sound) {
            assert!(
                (picture - sound).abs() <= 40 * MS / 100,
                "sound is off by {} ns",
                picture - sound
            );
            // Where times wrap around between the two, the demultiplexer takes one for the other. It is off by one of its
            // own steps later on.
            let is_written = |later: i64| (shown - picture - later * 40 * MS).abs() < 25_000;
            wrapped += usize::from(shown == picture);
            assert!([0, 1, 2, 4].into_iter().any(is_written), "{picture} is shown at {shown}");
        }
        assert!(wrapped <= 4, "{wrapped} pictures are shown as they are decoded");
        let steps = pictures.windows(2).map(|two| two[1].1 - two[0].1);
        [steps.clone().min().expect("some"), steps.max().expect("some")]
    }

    fn assert_even(out: &[Out]) {
        let [shortest, longest] = steps(out);
        // They are written in 1/90,000 s, and an estimate becomes better slowly.
        let even = 40 * MS - 30_000..=40 * MS + 30_000;
        assert!(even.contains(&shortest) && even.contains(&longest), "{shortest} to {longest} ns");
    }

    /// Late by up to 21 ms, one of eight not at all.
    fn jitter(number: i64) -> i64 {
        (number * 7 % 8) * 3 * MS
    }

    #[test]
    fn what_is_sent_evenly_is_placed_evenly_however_it_comes() {
        // Times wrap around after 3 s; clocks are exact, and slow and fast by 200 ppm, for five minutes.
        for drift in [0, -8_000, 8_000] {
            let mut sender = Sender::new();
            let late = |number: i64| 50 * MS + number * drift + jitter(number);
            (0..300).for_each(|second| sender.second(second, (1 << 33) - 3 * 90_000, late));
            let out = sender.out();
            assert_eq!(out.len(), 300 * 25 * 2);
            assert_even(&out);
            let (_, _, last) = *out.last().expect("the last");
            let late = 7_499 * 40 * MS + 50 * MS + 7_499 * drift - last.expect("a time");
            assert!(late.abs() < 10 * MS, "{drift}: placed {late} ns before it came");
        }
    }

    #[test]
    fn what_is_neither_picture_nor_sound_moves_nothing() {
        let mut sender = Sender::new();
        for second in 0..10 {
            sender.second(second, 90_000, jitter);
            // As subtitles are, ahead of what they belong to.
            let shown = 90_000 + second * 90_000 + 160_000;
            sender.unit(DATA, shown, shown, (second + 1) * 1_000 * MS);
        }
        let out: Vec<_> = sender.out();
        let data = out.iter().filter(|(of, ..)| *of == DATA).count();
        assert!(data >= 9, "{data} came out");
        let media: Vec<_> = out.into_iter().filter(|(of, ..)| *of != DATA).collect();
        assert_even(&media);
        assert!(sender.held_back() < 100 * MS, "held back by {} ns", sender.held_back());
    }

    #[test]
    fn a_sender_that_begins_late_is_even_from_its_beginning() {
        let mut sender = Sender::new();
        // It makes good in its first moments what it was late by.
        let late = |number: i64| 700 * MS - number.min(12) * 39 * MS;
        (0..4).for_each(|second| sender.second(second, 90_000, late));
        let out = sender.out();
        assert_eq!(out.len(), 4 * 25 * 2);
        assert_even(&out);
        let (_, _, last) = out[out.len() - 1];
        let late = 99 * 40 * MS + late(99) - last.expect("a time");
        assert!((0..5 * MS).contains(&late), "it is late by {late} ns");
    }

    #[test]
    fn a_moment_without_anything_moves_nothing() {
        let mut sender = Sender::new();
        // All of the fourth and fifth second comes at the end of it.
        let late =
            |number: i64| if (75..125).contains(&number) { (125 - number) * 40 * MS } else { 0 };
        (0..10).for_each(|second| sender.second(second, 90_000, late));
        assert_even(&sender.out());
    }

    #[test]
    fn a_sender_that_begins_anew_is_placed_where_it_comes() {
        // Earlier times, later ones, and the same once more; longer away than a second or two, or at once.
        for (clock, pause) in [(0, 0), (0, 100), (1 << 32, 0), (90_000 * 3_600, 125), (1 << 20, 0)]
        {
            let mut sender = Sender::new();
            let first = 90_000 * 3_600;
            (0..3).for_each(|second| sender.second(second, first, jitter));
            assert_even(&sender.out());
            // Where it goes on at once, with the times it would have had, that is no beginning.
            let clock = clock - 3 * 90_000;
            let late = |number: i64| jitter(number) + pause * 40 * MS;
            (3..8).for_each(|second| sender.second(second, clock, late));
            let out = sender.out();
            assert_eq!(out.len(), 5 * 25 * 2);
            assert!(steps(&out)[0] >= 39 * MS && steps(&out)[1] <= 41 * MS, "{:?}", steps(&out));
            let came = (75 + pause) * 40 * MS;
            let (_, _, at) = out[0];
            let at = at.expect("a time");
            assert!(
                (came..came + 22 * MS).contains(&at),
                "{clock}: placed at {at}, came at {came}"
            );
        }
    }

    #[test]
    fn what_begins_anew_while_it_is_looked_at_is_placed_near_its_coming() {
        let mut sender = Sender::new();
        for number in 0..50 {
            let clock = if number < 3 { 90_000 * 60_000 } else { 0 };
            let decoded = clock + number * 3_600;
            sender.unit(PICTURES, decoded, decoded, (100 + number * 40) * MS);
        }
        let out = sender.out();
        assert_eq!(out.len(), 50);
        for (number, (_, _, at)) in (0..).zip(out) {
            let off = at.expect("a time") - (100 + number * 40) * MS;
            // The demultiplexer begins with its fourth packet.
            assert!((-50 * MS..=150 * MS).contains(&off), "{number}: off by {off} ns");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_a_sender_says_is_placed_near_its_coming(
            units in proptest::collection::vec(
                (any::<bool>(), any::<i64>(), any::<i64>(), 0..2_000_i64, 0..4_usize),
                1..200,
            ),
        ) {
            let mut sender = Sender::new();
            let mut now = 0;
            for (is_picture, shown, decoded, wait, how) in units {
                now += wait * MS;
                let pid = if is_picture { PICTURES } else { SOUND };
                match how {
                    0 => sender.unit(pid, shown, decoded, now),
                    1 => sender.unit(pid, decoded, decoded, now),
                    2 => sender.unit(pid, now / 11_111, now / 11_111, now),
                    _ => sender.packet(pid, &[shown.to_be_bytes(), decoded.to_be_bytes()].concat()),
                }
                let out = sender.out();
                // Several were held since they came.
                let earliest = if out.len() > 1 { 0 } else { now - LONGEST_OFF };
                for (_, shown, placed) in out {
                    let (Some(shown), Some(placed)) = (shown, placed) else { continue };
                    let near = earliest..=now + LONGEST_OFF;
                    prop_assert!(near.contains(&placed), "{placed} at {now}");
                    prop_assert!((-MOST_EARLIER..=MOST_LATER).contains(&(shown - placed)));
                }
            }
        }
    }
}
