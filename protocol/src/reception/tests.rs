use super::*;

const RTT: Duration = Duration::from_millis(40);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn reception(now: Instant) -> Reception {
    let mut reception = Reception::new(7, 90_000, 100, 100, ms(200), now);
    reception.poll_wanted(RTT, now);
    reception
}

/// A packet in the middle of a unit.
fn arrival(index: PacketIndex) -> Arrival {
    Arrival { index, timestamp: 9, ends_unit: false, came: Came::First }
}

fn again(index: PacketIndex) -> Arrival {
    Arrival { came: Came::Again, ..arrival(index) }
}

fn wanted(reception: &mut Reception, now: Instant) -> Vec<PacketIndex> {
    reception.poll_wanted(RTT, now).iter().map(|wanted| wanted.index).collect()
}

#[test]
fn sound_that_comes_two_units_at_a_time_is_not_overdue_in_between() {
    let now = Instant::now();
    let mut reception = reception(now);
    for pair in 0..50u32 {
        let at = now + ms(40) * pair;
        assert_eq!(reception.poll_behind(at), None, "pair {pair}");
        for number in [2 * pair, 2 * pair + 1] {
            let timestamp = number * 1024;
            let index = 100 + u64::from(number);
            let unit = Arrival { timestamp, ends_unit: true, ..arrival(index) };
            reception.receive(unit, at);
        }
    }
    assert!(reception.poll_behind(now + ms(49 * 40 + 60)).is_some());
}

#[test]
fn what_is_left_out_is_neither_missed_nor_lost() {
    let now = Instant::now();
    let mut reception = reception(now);
    reception.receive(arrival(100), now);
    // Told before anything behind it comes; after; and before what is in front of it comes.
    reception.left_out(101..105);
    reception.receive(arrival(105), now);
    reception.receive(arrival(110), now);
    assert_eq!(wanted(&mut reception, now + ms(10)), [106, 107, 108, 109]);
    reception.left_out(106..109);
    reception.left_out(112..120);
    reception.receive(arrival(120), now + ms(20));
    assert_eq!(wanted(&mut reception, now + ms(31)), [111]);
    reception.poll_wanted(RTT, now + ms(500));
    let expected = Totals { received: 4, lost: 2, unrecovered: 2, ..Totals::default() };
    assert_eq!(*reception.totals(), expected);
    let block = reception.report();
    assert_eq!(block.fraction_lost, (2 * 256 / 6) as u8);
    // A hole of any size, told before or after what is behind it; and one that is never told.
    reception.set_limited(true);
    reception.receive(arrival(10_000), now + ms(600));
    reception.left_out(121..10_000);
    reception.left_out(10_001..20_000);
    reception.receive(arrival(20_000), now + ms(700));
    reception.receive(arrival(25_000), now + ms(800));
    reception.poll_wanted(RTT, now + ms(3_000));
    assert_eq!(reception.totals().lost, 2 + 4_999);
    assert_eq!(reception.hoped_for(), 25_001);
}

#[test]
fn reordering_is_no_loss() {
    let now = Instant::now();
    let mut reception = reception(now);
    for index in [100, 102, 101, 103] {
        assert_eq!(reception.receive(arrival(index), now), Verdict::Fresh);
    }
    assert!(wanted(&mut reception, now + ms(50)).is_empty());
    assert_eq!(reception.receive(arrival(101), now), Verdict::Duplicate);
    reception.poll_wanted(RTT, now + ms(500));
    let expected = Totals { received: 4, duplicates: 1, ..Totals::default() };
    assert_eq!(*reception.totals(), expected);
}

#[test]
fn a_lost_packet_is_asked_for_each_round_until_it_comes() {
    let now = Instant::now();
    let mut reception = reception(now);
    reception.receive(arrival(100), now);
    reception.receive(arrival(102), now);
    assert!(wanted(&mut reception, now).is_empty(), "it may be late");
    let ask_at = now + ms(10);
    assert!(reception.poll_timeout().is_some_and(|at| at <= ask_at));
    let first = reception.poll_wanted(RTT, ask_at);
    assert_eq!(first, [Wanted { index: 101, rounds: 0, rounds_left: 3 }]);
    assert!(wanted(&mut reception, ask_at + ms(44)).is_empty());
    let second = reception.poll_wanted(RTT, ask_at + ms(45));
    assert_eq!(second, [Wanted { index: 101, rounds: 1, rounds_left: 2 }]);
    assert_eq!(reception.receive(again(101), ask_at + ms(80)), Verdict::Fresh);
    assert_eq!(reception.totals().lost, 0, "not settled yet");
    reception.poll_wanted(RTT, now + ms(200));
    let expected = Totals { received: 3, lost: 1, recovered_nack: 1, ..Totals::default() };
    assert_eq!(*reception.totals(), expected);
}

#[test]
fn a_packet_whose_original_comes_was_late_and_not_lost() {
    let now = Instant::now();
    let mut reception = reception(now);
    reception.receive(arrival(100), now);
    reception.receive(arrival(102), now);
    let tolerance = reception.tolerance();
    assert_eq!(wanted(&mut reception, now + ms(10)), [101]);
    assert_eq!(reception.receive(arrival(101), now + ms(20)), Verdict::Fresh);
    assert!(reception.tolerance() > tolerance);
    assert_eq!(reception.receive(again(101), now + ms(60)), Verdict::Duplicate);
    // Of another one the answer comes first, and twice.
    reception.receive(arrival(104), now + ms(60));
    assert_eq!(wanted(&mut reception, now + ms(80)), [103]);
    reception.receive(again(103), now + ms(125));
    assert_eq!(reception.receive(again(103), now + ms(126)), Verdict::Duplicate);
    assert_eq!(reception.receive(arrival(103), now + ms(127)), Verdict::Duplicate);
    reception.poll_wanted(RTT, now + ms(500));
    let expected = Totals { received: 5, duplicates: 3, ..Totals::default() };
    assert_eq!(*reception.totals(), expected);
    assert!(reception.loss() < 1e-9);
}

#[test]
fn the_end_of_a_unit_that_is_sent_again_was_lost() {
    let now = Instant::now();
    let mut reception = reception(now);
    reception.receive(arrival(100), now);
    assert!(reception.poll_behind(now + ms(10)).is_some());
    assert_eq!(reception.receive(again(102), now + ms(51)), Verdict::Fresh);
    assert_eq!(reception.receive(again(101), now + ms(51)), Verdict::Fresh);
    assert_eq!(reception.next_index(), 103);
    reception.poll_wanted(RTT, now + ms(500));
    let expected = Totals { received: 3, lost: 2, recovered_nack: 2, ..Totals::default() };
    assert_eq!(*reception.totals(), expected);
}

#[test]
fn nothing_is_asked_for_that_would_come_too_late() {
    let now = Instant::now();
    let mut reception = reception(now);
    reception.receive(arrival(100), now);
    reception.receive(arrival(102), now);
    assert!(reception.poll_wanted(ms(300), now + ms(10)).is_empty());
    assert!(reception.poll_wanted(ms(300), now + ms(200)).is_empty());
    assert_eq!(reception.receive(arrival(101), now + ms(201)), Verdict::Late);
    assert_eq!(reception.receive(arrival(101), now + ms(202)), Verdict::Duplicate);
    let expected = Totals {
        received: 2,
        lost: 1,
        unrecovered: 1,
        late: 1,
        duplicates: 1,
        ..Totals::default()
    };
    assert_eq!(*reception.totals(), expected);
}

#[test]
fn what_may_have_followed_is_asked_for_when_it_is_overdue() {
    let now = Instant::now();
    let mut reception = reception(now);
    reception.receive(arrival(100), now);
    assert_eq!(reception.poll_behind(now + ms(5)), None);
    // A unit that did not end: the rest should be here.
    let asked = reception.poll_behind(now + ms(10)).expect("overdue");
    assert_eq!(asked.index, 100);
    assert_eq!(reception.poll_behind(now + ms(50)), None);
    assert!(reception.poll_behind(now + ms(55)).is_some(), "again");
    // The answer shows that there were two.
    reception.receive(arrival(102), now + ms(60));
    assert!(wanted(&mut reception, now + ms(75)).is_empty(), "asked for already");
    assert_eq!(wanted(&mut reception, now + ms(105)), [101]);
    // A unit that ended: the next may take its time.
    reception.receive(Arrival { ends_unit: true, ..arrival(103) }, now + ms(110));
    assert_eq!(reception.poll_behind(now + ms(140)), None);
    assert!(reception.poll_behind(now + ms(180)).is_some());
    assert_eq!(reception.poll_behind(now + ms(1200)), None, "a pause");
}

#[test]
fn the_deadline_counts_from_when_a_packet_should_have_come() {
    let now = Instant::now();
    let mut reception = reception(now);
    reception.receive(arrival(100), now);
    let next = Arrival { timestamp: 10, ..arrival(102) };
    reception.receive(next, now + ms(40));
    reception.poll_wanted(RTT, now + ms(199));
    assert_eq!(reception.totals().unrecovered, 0);
    reception.poll_wanted(RTT, now + ms(200));
    assert_eq!(reception.totals().unrecovered, 1);
}

#[test]
fn the_history_is_waited_for_longer() {
    let now = Instant::now();
    let mut reception = Reception::new(7, 90_000, 100, 103, ms(200), now);
    for index in [100, 102, 104] {
        reception.receive(arrival(index), now);
    }
    reception.poll_wanted(RTT, now + ms(200));
    assert_eq!(reception.totals().unrecovered, 1, "103 was live");
    assert!(reception.is_missing(101));
    reception.poll_wanted(RTT, now + ms(1000));
    assert_eq!(reception.totals().unrecovered, 2);
}

#[test]
fn an_outage_is_counted_whole_and_holds_no_memory() {
    let now = Instant::now();
    let mut reception = reception(now);
    reception.receive(arrival(100), now);
    reception.receive(arrival(1_000_000), now);
    assert_eq!(reception.totals().unrecovered, 999_899);
    assert!(reception.missing.is_empty());
}

#[test]
fn reports_cover_their_interval() {
    let now = Instant::now();
    let mut reception = reception(now);
    for index in 100..200 {
        if index % 4 != 0 {
            reception.receive(arrival(index), now);
        }
    }
    reception.poll_wanted(RTT, now + ms(20));
    assert!((0.2..=0.28).contains(&reception.loss()), "{}", reception.loss());
    reception.poll_wanted(RTT, now + ms(200));
    let block = reception.report();
    // 25 of 100 are missing.
    assert!((62..=66).contains(&block.fraction_lost), "{}", block.fraction_lost);
    assert_eq!((block.cumulative_lost, block.highest_index), (25, 199));
    assert_eq!(reception.report().fraction_lost, 0);
}

#[test]
fn jitter_follows_the_spacing() {
    let now = Instant::now();
    let mut reception = reception(now);
    for frame in 0..500u64 {
        let wobble = if frame % 2 == 0 { 0 } else { 8 };
        reception.time((frame * 3600) as u32, now + ms(frame * 40 + wobble));
    }
    let jitter = reception.jitter().as_secs_f64() * 1e3;
    assert!((7.0..9.0).contains(&jitter), "{jitter}");
}
