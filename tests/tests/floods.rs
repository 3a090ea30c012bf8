//! Floods from addresses that nobody has: those who watch, and those who come, notice nothing.

use std::process::Command;
use std::time::{Duration, Instant};

use tests::lab::{self, Lab, Nat, Result, eventually};
use tests::load::{Clip, Load};
use tests::stage::{Stage, count};

const SECOND: Duration = Duration::from_secs(1);

/// The addresses that the floods come from, and those of the ones who join meanwhile. Open homes of the lab have the
/// lower half.
const NOBODYS: &str = "198.19.128.0/18";
const COMERS: &str = "198.19.192.0/18";

/// Datagrams a second, and for how many seconds.
const RATE: u32 = 50_000;
const SECONDS: u32 = 6;

/// Viewers that come during each flood, and how many a second.
const COMING: u32 = 40;
const COMING_RATE: u32 = 10;

/// What a program may hold more than before, in bytes.
const MOST_GROWTH: u64 = 16 << 20;

#[test]
fn who_watches_and_who_comes_notices_no_flood() -> Result<()> {
    let open = (Nat::Open, None);
    let mut stage = Stage::build(Lab::new()?, open, &[(Nat::PortRestricted, None)])?;
    let [flooding, coming] = ["flooding", "coming"].map(|name| stage.lab.public_host(name));
    let (flooding, coming) = (flooding?, coming?);
    flooding.add_network(stage.lab.core(), NOBODYS)?;
    coming.add_network(stage.lab.core(), COMERS)?;
    let rendezvous = stage.start_rendezvous()?;
    let clip = Clip::default().make(stage.lab.folder()).expect("ffmpeg is there");
    let broadcast = stage.broadcast("cam", &format!("file:{}", clip.display()), "")?;
    let watching = stage.watch(0, &broadcast.link, &["--output", "null"])?;
    let playing =
        watching.wait_for(20 * SECOND, |stats| stats["packets_received"].as_u64() > Some(500));
    let broadcaster = playing["remote"].as_str().expect("a path").to_owned();
    let (count_of_them, rate) = (COMING.to_string(), COMING_RATE.to_string());
    let flags = ["--addresses", COMERS, "--viewers", &count_of_them, "--join-rate", &rate];
    let join = || Load::start(&coming, "coming", &broadcast.link, SECONDS * SECOND, &flags);
    // What so many viewers cost without a flood is no growth because of one.
    let before = join()?;
    let words = before.process.stderr();
    assert!(before.process.wait(30 * SECOND)?.success(), "{}", words.text());
    println!("without a flood: {:?}", before.summary().expect("it ended well").join);
    let programs = [("rendezvous", &rendezvous), ("broadcaster", &broadcast.process)];
    let memory = || programs.map(|(_, program)| program.resident_memory().unwrap_or(0));
    let at_first = memory();
    let mut most = at_first;
    let mut failures = Vec::new();
    for kind in ["initial", "stun", "random"] {
        for target in [&stage.rendezvous_address(), &broadcaster] {
            let mut flood = Command::new(lab::binary("lab-flood")?);
            flood.args([target, kind, &RATE.to_string(), &SECONDS.to_string(), NOBODYS]);
            let flood = flooding.spawn("flood", &flood)?;
            flood.wait_for_line(60 * SECOND, |line| line == "ready")?;
            let lost = count(&watching.latest(), "packets_lost");
            let received = count(&watching.latest(), "packets_received");
            let load = join()?;
            let began = Instant::now();
            let is_over = || {
                for (most, now) in most.iter_mut().zip(memory()) {
                    *most = now.max(*most);
                }
                let ended = [&flood, &load.process];
                ended.iter().all(|process| process.try_wait().is_ok_and(|end| end.is_some()))
            };
            let words = load.process.stderr();
            assert!(eventually(10 * SECONDS * SECOND, is_over), "{}", words.text());
            let sent = flood.stdout().lines().pop().unwrap_or_default();
            let came = load.summary().expect("it ended well");
            let last =
                watching.wait_for(5 * SECOND, |stats| count(stats, "packets_received") > received);
            let lost = count(&last, "packets_lost") - lost;
            let received = count(&last, "packets_received") - received;
            let (failed, p99) = (came.counts.failed, came.join.p99_us);
            println!(
                "{kind} to {target} for {:.1?}: {sent}; {lost} of {received} lost, {} of {COMING} joined, p99 {p99} us, {:?}",
                began.elapsed(),
                came.counts.admitted,
                came.failures,
            );
            if lost * 10_000 >= received.max(1)
                || failed > 0
                || came.counts.admitted < COMING
                || p99 >= 1_000_000
            {
                failures.push(format!("{kind} to {target}"));
            }
        }
    }
    let grown: Vec<_> =
        most.iter().zip(at_first).map(|(most, first)| most.saturating_sub(first)).collect();
    println!("grown by {grown:?} bytes from {at_first:?}");
    assert!(failures.is_empty(), "noticed: {failures:?}");
    assert!(grown.iter().all(|grown| *grown <= MOST_GROWTH), "{grown:?}");
    assert_eq!(count(&watching.latest(), "packets_unrecovered"), 0);
    watching.stop()
}
