//! One viewer of a crowd is sent away while a tenth of all packets is lost.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tests::lab::{Impairment, Link, Result, eventually};
use tests::load::{Clip, Load, Second};
use tests::stage::{Stage, count, operator};
use tests::traffic::{epochs, new_epochs};

const SECOND: Duration = Duration::from_secs(1);

/// The lab's other half of the benchmarking addresses: its nodes are in 198.18.0.0/16.
const NETWORK: &str = "198.19.0.0/16";

/// How long all go on behind the removal.
const AFTERWARDS: Duration = Duration::from_secs(8);

/// Viewers in the crowd; `REMOVAL_VIEWERS` sets it.
fn viewers() -> u32 {
    std::env::var("REMOVAL_VIEWERS")
        .map_or(100, |text| text.parse().expect("REMOVAL_VIEWERS is a number"))
}

/// 300 kbit/s: what is looked at does not depend on the rate, and what the crowd costs does.
fn clip() -> Clip {
    Clip { bits_per_second: 300_000, ..Clip::default() }
}

fn lossy() -> Option<Link> {
    Some(Link::both(Impairment { delay: 20 * SECOND / 1000, ..Impairment::loss(0.1) }))
}

#[test]
fn a_viewer_among_many_is_sent_away_and_nobody_else_loses_anything() -> Result<()> {
    let viewers = viewers();
    let mut stage = Stage::with_links(&[lossy(), lossy()])?;
    let crowd = stage.lab.public_host("crowd")?;
    crowd.add_network(stage.lab.core(), NETWORK)?;
    let _rendezvous = stage.start_rendezvous()?;
    let clip = clip().make(stage.lab.folder()).expect("ffmpeg is there");
    // That all lose as much is no sign of a full uplink here.
    let broadcast = stage.broadcast("cam", &format!("file:{}", clip.display()), "uplink: 10G\n")?;
    let number = viewers.to_string();
    let flags = ["--viewers", &number, "--addresses", NETWORK, "--join-rate", "50"];
    let flags = [&flags[..], &["--loss", "0.1", "--latency", "500ms"]].concat();
    let load = Load::start(&crowd, "crowd", &broadcast.link, 300 * SECOND, &flags)?;
    let patience = 20 * SECOND + SECOND * viewers / 10;
    load.wait_for(patience, |now| now.watching == viewers);

    let flags = ["--output", "null", "--latency", "500ms"];
    let [unwanted, other] = [0, 1].map(|at| stage.watch(at, &broadcast.link, &flags));
    let (unwanted, other) = (unwanted?, other?);
    let captures = [0, 1].map(|at: usize| stage.viewers[at].1.capture());
    for viewer in [&unwanted, &other] {
        viewer.wait_for(20 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(60));
    }
    let listed = operator(&stage, &["viewers", "list", "--json"])?;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let listed = listed["viewers"].as_array().expect("a list");
    assert_eq!(listed.len() as u32, viewers + 2, "everybody is listed");
    let address = format!("{}:", stage.viewers[0].0.external_address());
    let is_it = |viewer: &&Value| {
        viewer["remote"].as_str().is_some_and(|remote| remote.starts_with(&address))
    };
    let viewer = listed.iter().find(is_it).expect("it is listed");
    let before = load.now();
    operator(&stage, &["viewers", "remove", viewer["viewer"].as_str().expect("a number")])?;
    let removed_at = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later");
    let began = Instant::now();
    let status = unwanted.process.wait(5 * SECOND)?;
    assert_eq!(status.code(), Some(4), "{}", unwanted.process.stderr().text());
    assert!(eventually(2 * AFTERWARDS, || began.elapsed() >= AFTERWARDS));

    // The other one of the two hears what all of the crowd hear: a burst is sealed once for all.
    let [to_it, to_other] = captures;
    let (to_it, to_other) = (to_it?.stop()?, to_other?.stop()?);
    let second = removed_at + SECOND;
    let known: BTreeSet<u32> = to_it.iter().flat_map(epochs).collect();
    let later = to_other.iter().filter(|datagram| datagram.at >= second);
    // What others lost is sent again as it was sealed, for as long as it is of use: the one that left has had it.
    let later: BTreeSet<u32> = later.flat_map(new_epochs).collect();
    assert!(!known.is_empty() && !later.is_empty(), "{known:?}, {later:?}");
    assert!(known.is_disjoint(&later), "it had {known:?}; {later:?} were sent a second later");
    let late = to_it.iter().filter(|datagram| datagram.at >= second).flat_map(epochs).count();
    assert_eq!(late, 0, "media goes on to it");

    other.stop()?;
    let last = other.latest();
    assert_eq!((count(&last, "packets_unrecovered"), count(&last, "reconnects")), (0, 0), "{last}");
    let summary = load.stop()?;
    println!("{summary:#?}");
    let Second { watching, broken, ended, failed, unrecovered, packets, lost, .. } = summary.counts;
    assert_eq!((watching, broken, ended, failed), (viewers, 0, 0, 0), "{:?}", summary.failures);
    assert_eq!(unrecovered, 0, "of {packets}, {lost} were lost at first");
    // 30 packets a second and more for each viewer, of which a tenth is lost and comes again.
    let went_on = u64::from(viewers) * 25 * AFTERWARDS.as_secs();
    assert!(packets >= before.packets + went_on, "{packets}, {} before", before.packets);
    assert!(lost * 12 > packets, "{lost} of {packets} lost");
    Ok(())
}
