//! Lossy, bursty and jittery links, with real programs: every frame arrives, and what is told of loss is true.

use std::time::Duration;

use tests::clip::{self, SAME_PICTURE};
use tests::lab::{Impairment, Link, Loss, Reorder, Result};
use tests::stage::{self, Stage, count};
use tests::traffic::lost_at_first;

/// Half of a round trip of 50 ms.
const ONE_WAY: Duration = Duration::from_millis(25);

/// How long each viewer watches; `make soak` sets five minutes.
fn seconds() -> u64 {
    std::env::var("WATCH_SECONDS").map_or(25, |text| text.parse().expect("SECONDS is a number"))
}

/// What is on its way when a viewer ends is missing from its recording, in frames.
const LAST: usize = 15;

/// After so many seconds a viewer knows how late packets come.
const KNOWING: usize = 6;

/// Packets that are lost in a row, in the case with bursts.
const BURST: u64 = 20;

/// One viewer's link and latency.
struct Case {
    name: &'static str,
    link: Link,
    latency: &'static str,
    /// How many packets may be missing.
    unrecovered: u64,
}

fn cases() -> [Case; 8] {
    let both = |impairment: Impairment| Link::both(Impairment { delay: ONE_WAY, ..impairment });
    let one_way = |loss: Loss| Link {
        down: Impairment { loss, ..Impairment::delay(ONE_WAY) },
        up: Impairment::delay(ONE_WAY),
    };
    let bursts = Loss::Bursts { lost: BURST, each: 200 };
    let outages =
        Loss::Outages { lasts: Duration::from_millis(100), each: Duration::from_millis(4300) };
    let reorder = Some(Reorder { share: 0.05, hold: Duration::from_millis(15) });
    let scatter = Duration::from_millis(30);
    let case = |name, link, latency| Case { name, link, latency, unrecovered: 0 };
    [
        case("1%", both(Impairment::loss(0.01)), "200ms"),
        case("10%", both(Impairment::loss(0.1)), "200ms"),
        // What is lost before anything is known of the path may be too much.
        Case { unrecovered: 3, ..case("20%", both(Impairment::loss(0.2)), "200ms") },
        Case { unrecovered: 12, ..case("30%", both(Impairment::loss(0.3)), "300ms") },
        case("bursts", one_way(bursts), "300ms"),
        case("outages", one_way(outages), "400ms"),
        case("jitter", both(Impairment { scatter, reorder, ..Impairment::default() }), "200ms"),
        case("flips", both(Impairment { bit_flips: 0.02, ..Impairment::default() }), "200ms"),
    ]
}

#[test]
fn no_frame_is_lost_on_links_that_lose_and_delay() -> Result<()> {
    let (cases, seconds) = (cases(), seconds());
    let links: Vec<_> = cases.iter().map(|case| Some(case.link.clone())).collect();
    let stage = Stage::with_links(&links)?;
    let _rendezvous = stage.start_rendezvous()?;
    let source = format!("file:{}", stage::clip().display());
    let broadcast = stage.broadcast("cam", &source, "")?;
    let at_cam = stage.cam.capture()?;
    let mut watching = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        let captured = stage.viewers[at].1.capture()?;
        let path = stage.path(&format!("{at}.mkv"));
        let record = format!("record:{}", path.display());
        let duration = format!("{seconds}s");
        let flags = ["--output", &record, "--for", &duration, "--latency", case.latency];
        watching.push((stage.watch(at, &broadcast.link, &flags)?, captured, path));
    }
    let sent_frames = clip::frames(&stage::clip());
    let mut ended = Vec::new();
    for (viewer, captured, path) in watching {
        let status = viewer.process.wait(Duration::from_secs(seconds + 20))?;
        assert!(status.success(), "{status}");
        // What jitter does must be known first.
        let known = viewer.stats().get(KNOWING).cloned().expect("one a second");
        ended.push((viewer.latest(), known, captured.stop()?, path));
    }
    let sent = at_cam.stop()?;
    for (at, (case, (last, known, received, path))) in cases.iter().zip(&ended).enumerate() {
        let name = case.name;
        let (router, host) = &stage.viewers[at];
        let to = (router.external_address().into(), host.address().into());
        let (packets, lost) = lost_at_first(&sent, received, to);
        let told = count(last, "packets_lost");
        let unrecovered = count(last, "packets_unrecovered");
        let recorded = clip::frames(path);
        let whole = recorded.len().saturating_sub(LAST);
        let (_, worst) = clip::compare_looped(&recorded[..whole], &sent_frames);
        let gap = clip::longest_gap(&clip::times(path, "v:0")[..whole]);
        println!(
            "{name}: {packets} packets, {lost} lost at first, {told} told, {unrecovered} unrecovered, {} frames, \
             worst {worst} dB, longest gap {gap} s; {last}",
            recorded.len()
        );
        assert!(unrecovered <= case.unrecovered, "{name}: {last}");
        assert!(recorded.len() as u64 >= (seconds - 5) * 25, "{} frames", recorded.len());
        if unrecovered == 0 {
            assert!(worst > SAME_PICTURE, "{name}: {worst} dB");
            assert!(gap < 0.045, "{name}: {gap} s between two frames");
        }
        // A tenth of a percentage point, and what was not settled yet at the end.
        // What is lost at once and comes last counts whole.
        let burst = if name == "bursts" { BURST as f64 } else { 0.0 };
        let unsettled = (0.5 / seconds as f64 * lost as f64).max(burst) / packets as f64;
        let difference = (told as f64 - lost as f64).abs() / packets as f64;
        assert!(difference <= 0.001 + unsettled, "{name}: {told} told, {lost} lost");
        if name == "jitter" {
            let since = |key| count(last, key) - count(known, key);
            let (twice, came) = (since("duplicates"), since("packets_received"));
            assert!(twice as f64 <= 0.01 * came as f64, "{twice} of {came} sent again for nothing");
        }
    }
    let again = stage.metric("punchcast_packets_retransmitted_total")?;
    let repair = stage.metric("punchcast_repair_packets_sent_total")?;
    println!("{again} packets sent again, {repair} repair packets");
    assert!(again > 0.0 && repair > 0.0);
    Ok(())
}
