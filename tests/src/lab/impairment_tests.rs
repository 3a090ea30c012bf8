//! Tests of what a bad link does.

use super::*;

const SEED: u64 = 7;

#[test]
fn nothing_happens_by_default() {
    let out = send(Impairment::default(), 1000);
    assert_eq!(numbers(&out), (0..1000).collect::<Vec<_>>());
    assert!(out.iter().all(|arrival| arrival.delay.is_zero()));
}

#[test]
fn delay_is_exact_and_jitter_keeps_order() {
    let out = send(Impairment::delay(ms(20)), 100);
    assert!(out.iter().all(|arrival| arrival.delay == ms(20)));

    let jittery = Impairment { jitter: ms(30), ..Impairment::delay(ms(20)) };
    let out = send(jittery, 5000);
    assert_eq!(numbers(&out), (0..5000).collect::<Vec<_>>());
    assert!(out.iter().all(|arrival| (ms(20)..=ms(50)).contains(&arrival.delay)));
    assert!(out.iter().any(|arrival| arrival.delay > ms(45)));
}

#[test]
fn scattered_packets_overtake_each_other() {
    let out = send(Impairment { scatter: ms(5), ..Impairment::delay(ms(40)) }, 5000);
    assert_eq!(out.len(), 5000);
    assert!(!numbers(&out).is_sorted());
    let delays: Vec<f64> = out.iter().map(|arrival| arrival.delay.as_secs_f64() * 1e3).collect();
    let mean = delays.iter().sum::<f64>() / delays.len() as f64;
    let variance =
        delays.iter().map(|delay| (delay - mean).powi(2)).sum::<f64>() / delays.len() as f64;
    assert!((mean - 40.0).abs() < 0.5 && (variance.sqrt() - 5.0).abs() < 0.5, "{mean} {variance}");
}

#[test]
fn an_outage_takes_everything_for_its_time() {
    let began = Instant::now();
    let loss = Loss::Outages { lasts: ms(100), each: ms(1000) };
    let mut direction = Direction::new(Impairment { loss, ..Impairment::default() }, SEED);
    let lost: Vec<u64> = (0..3000u64)
        .filter(|at| {
            let now = began + ms(*at);
            direction.handle_frame(now, frame(*at as u32));
            direction.poll_frame(now).is_none()
        })
        .collect();
    let expected: Vec<u64> =
        (0..3).flat_map(|second| second * 1000 + 900..second * 1000 + 1000).collect();
    assert_eq!(lost, expected);
}

#[test]
fn losses_are_as_many_as_asked_and_repeat_with_the_seed() {
    // Each with the share lost and the mean length of a burst of losses that it must show.
    let bursts =
        Loss::GilbertElliott { to_bad: 0.05, to_good: 0.25, loss_good: 0.0, loss_bad: 1.0 };
    let cases = [
        (Loss::Independent(0.05), 0.05, 1.05),
        (Loss::Independent(0.3), 0.3, 1.43),
        (bursts, 1.0 / 6.0, 4.0),
        (Loss::Bursts { lost: 20, each: 200 }, 0.1, 20.0),
    ];
    for (loss, share, burst) in cases {
        let impairment = Impairment { loss, ..Impairment::default() };
        let out = numbers(&send(impairment.clone(), 60_000));
        let lost = 1.0 - out.len() as f64 / 60_000.0;
        assert!((lost / share - 1.0).abs() < 0.1, "{loss:?} lost {lost}");
        let gaps: Vec<f64> = out
            .windows(2)
            .map(|pair| f64::from(pair[1] - pair[0] - 1))
            .filter(|gap| *gap > 0.0)
            .collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        assert!((mean / burst - 1.0).abs() < 0.1, "{loss:?} in bursts of {mean}");
        assert_eq!(out, numbers(&send(impairment, 60_000)));
    }
}

#[test]
fn held_packets_are_overtaken() {
    let reorder = Some(Reorder { share: 0.1, hold: ms(5) });
    let out = numbers(&send(Impairment { reorder, ..Impairment::default() }, 10_000));
    let overtaken = out.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!((900..1100).contains(&overtaken), "{overtaken}");
    assert_eq!(out.len(), 10_000);
}

#[test]
fn duplicates_follow_their_originals() {
    let out = numbers(&send(Impairment { duplicate: 0.2, ..Impairment::default() }, 10_000));
    assert!((11_800..12_200).contains(&out.len()));
    assert!(out.is_sorted());
}

#[test]
fn a_flipped_bit_is_one_bit_and_leaves_no_checksum() {
    let out = send(Impairment { bit_flips: 1.0, ..Impairment::default() }, 1);
    let difference: Vec<u32> =
        out[0].frame.iter().zip(frame(0)).map(|(a, b)| (a ^ b).count_ones()).collect();
    assert_eq!(out[0].frame[40..42], [0, 0]);
    assert_eq!(difference[42..].iter().sum::<u32>(), 1);
    assert_eq!(difference[..40].iter().sum::<u32>(), 0);
}

#[test]
fn a_bottleneck_passes_its_rate_and_its_queue_is_bounded() {
    // 1,200 bytes each 1 ms are 9.6 Mbit/s; half of that goes through.
    let rate = Some(Rate::new(4_800_000, 12_000));
    let out = send(Impairment { rate, ..Impairment::default() }, 1000);
    assert!((500..=510).contains(&out.len()), "{}", out.len());
    let longest = out.iter().map(|arrival| arrival.delay).max();
    assert_eq!(longest, Some(ms(20)), "12,000 bytes at 600 bytes/ms");
}

#[test]
fn other_frames_pass_untouched() {
    let mut arp = vec![0; 60];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let impairment = Impairment { loss: Loss::Independent(1.0), ..Impairment::delay(ms(50)) };
    let mut direction = Direction::new(impairment, SEED);
    let now = Instant::now();
    direction.handle_frame(now, arp.clone());
    direction.handle_frame(now, frame(0));
    assert_eq!(direction.poll_frame(now), Some(arp));
    assert_eq!(direction.next_release_at(), None);
}

struct Arrival {
    delay: Duration,
    frame: Vec<u8>,
}

/// Sends `count` numbered frames of 1,200 bytes, one each millisecond.
fn send(impairment: Impairment, count: u32) -> Vec<Arrival> {
    let start = Instant::now();
    let mut direction = Direction::new(impairment, SEED);
    let mut out = Vec::new();
    let mut drain = |direction: &mut Direction, until: Instant| {
        while let Some(at) = direction.next_release_at().filter(|at| *at <= until) {
            let frame = direction.poll_frame(at).expect("it is due");
            let sent_at = start + Duration::from_millis(number(&frame).into());
            out.push(Arrival { delay: at - sent_at, frame });
        }
    };
    for number in 0..count {
        let now = start + Duration::from_millis(number.into());
        drain(&mut direction, now);
        direction.handle_frame(now, frame(number));
    }
    drain(&mut direction, start + Duration::from_secs(3600));
    out
}

/// An Ethernet frame with an IPv4 packet of 1,200 bytes, whose payload starts with `number`.
fn frame(number: u32) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET_HEADER + 1200];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14] = 0x45;
    frame[23] = 17;
    frame[38..40].copy_from_slice(&1180_u16.to_be_bytes());
    frame[40..42].copy_from_slice(&[0xab, 0xcd]);
    frame[42..46].copy_from_slice(&number.to_be_bytes());
    frame
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[42..46].try_into().expect("four bytes"))
}

fn numbers(arrivals: &[Arrival]) -> Vec<u32> {
    arrivals.iter().map(|arrival| number(&arrival.frame)).collect()
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
