//! The viewers: who joins when, what becomes of each, and what all of them count.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use service::exit::Failure;
use tokio::time::MissedTickBehavior;
use viewer::config::Target;
use viewer::opener::{Happening, Meter, Opener, Options, Tap};

use super::addresses::Addresses;
use super::histogram::Histogram;
use super::limits::raise_descriptors;
use super::report::{Extremes, Line, Second, Summary};
use super::tap::{All, Arrivals, Clock, KeepArrivals, RecordMessages};
use super::timing::HandedOver;

/// Reports of a flooding viewer leave in lots, so many a second.
const FLOOD_LOTS: u32 = 100;

/// Goodbyes on the way at once: one for each viewer and all at a time would be a storm of its own.
const LEAVING_TOGETHER: usize = 64;

/// Who joins, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whom to watch, and by which means.
    pub target: Target,
    /// How many viewers there are.
    pub viewers: u32,
    /// Where they are; any address of this machine by default.
    pub addresses: Option<Addresses>,
    /// How many begin to join in each second.
    pub join_rate: f64,
    /// How long all of it goes on.
    pub duration: Duration,
    /// So long after it began to join, each leaves; none before the end by default.
    pub stay: Option<Duration>,
    /// How long a missing packet is of use.
    pub latency: Duration,
    /// What all of them do that they should not.
    pub misbehaviour: Misbehaviour,
    /// A broadcaster's log with its access units, read at the end, for the added latency …
    pub timing: Option<PathBuf>,
    /// … of packets that arrive so long after the viewer's first.
    pub settle: Duration,
    /// Where the first viewer's messages are written down.
    pub record: Option<PathBuf>,
}

/// What viewers do that they should not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Misbehaviour {
    /// Share of incoming datagrams that is lost before they are looked at, and of feedback.
    pub loss: f64,
    /// So long after its first packet a viewer reads nothing more.
    pub stalls_after: Option<Duration>,
    /// Further reports a second.
    pub flood: u32,
}

/// What is known of one viewer.
#[derive(Default)]
struct Viewer {
    phase: Phase,
    meter: Option<Meter>,
    arrivals: Option<Arrivals>,
    join: Option<Duration>,
    open_to_media: Option<Duration>,
    failure: Option<Failure>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Waiting,
    Joining,
    Failed,
    Admitted,
    Watching,
    Broken,
    Ended,
}

type Shared = Arc<Mutex<Viewer>>;

fn lock(viewer: &Shared) -> MutexGuard<'_, Viewer> {
    viewer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does as planned, and tells how it goes. Ends with the plan's time, or when it is asked to stop.
///
/// # Errors
///
/// Where the machine has no room for so many viewers, or a file cannot be used. That viewers fail is no
/// error: it is told.
pub async fn run(plan: Plan, mut tell: impl FnMut(&Line)) -> Result<(), Failure> {
    raise_descriptors(plan.viewers)?;
    let clock = Clock::start();
    let over_at = tokio::time::Instant::now() + plan.duration;
    let plan = Arc::new(plan);
    let viewers: Vec<Shared> = (0..plan.viewers).map(|_| Shared::default()).collect();
    let (leave, leaving) = tokio::sync::watch::channel(false);
    let goodbyes = Arc::new(tokio::sync::Semaphore::new(LEAVING_TOGETHER));
    let mut tasks = tokio::task::JoinSet::new();
    let stopped = service::shutdown::requested();
    tokio::pin!(stopped);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut joins = tokio::time::interval(Duration::from_secs_f64(1.0 / plan.join_rate.max(0.001)));
    // Late starts are made up for: the rate is what was asked for.
    joins.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut waiting = viewers.iter().enumerate();
    let mut next = waiting.next();
    loop {
        tokio::select! {
            _ = joins.tick(), if next.is_some() => {
                if let Some((number, viewer)) = next {
                    let (plan, viewer) = (Arc::clone(&plan), Arc::clone(viewer));
                    let (mut leaving, goodbyes) = (leaving.clone(), Arc::clone(&goodbyes));
                    let taps = taps(&plan, number, &viewer, clock)?;
                    tasks.spawn(async move {
                        let stay = plan.stay;
                        let leaves = async move {
                            let all_leave = leaving.wait_for(|leave| *leave);
                            match stay {
                                Some(stay) => drop(tokio::time::timeout(stay, all_leave).await),
                                None => drop(all_leave.await),
                            }
                        };
                        live(&plan, number as u32, taps, &viewer, leaves, &goodbyes).await;
                    });
                }
                next = waiting.next();
            }
            _ = second.tick() => tell(&Line::Second(count(&viewers, clock))),
            () = tokio::time::sleep_until(over_at) => break,
            result = &mut stopped => {
                result.map_err(|error| Failure::runtime(format!("no signals: {error}")))?;
                break;
            }
        }
    }
    // What is counted is from before the goodbyes.
    let mut summary = summarize(&viewers, clock);
    leave.send_replace(true);
    while tasks.join_next().await.is_some() {}
    if let Some(log) = &plan.timing {
        let handed_over = HandedOver::read(log).map_err(|error| {
            Failure::runtime(format!("cannot read the log {}: {error}", log.display()))
        })?;
        if handed_over.len() == 0 {
            return Err(Failure::usage(format!(
                "no access units in {}: run the broadcaster with --log-format json and \
                 RUST_LOG=warn,punchcast::timing=trace",
                log.display()
            )));
        }
        let mut latencies = Histogram::default();
        for viewer in &viewers {
            if let Some(arrivals) = &lock(viewer).arrivals {
                handed_over.add_latencies(arrivals, clock, &mut latencies);
            }
        }
        summary.latency = Some(latencies.percentiles());
    }
    tell(&Line::Summary(Box::new(summary)));
    Ok(())
}

/// What is kept of a viewer's packets.
fn taps(
    plan: &Plan,
    number: usize,
    viewer: &Shared,
    clock: Clock,
) -> Result<Option<Box<dyn Tap>>, Failure> {
    let mut taps: Vec<Box<dyn Tap>> = Vec::new();
    if plan.timing.is_some() {
        let arrivals = Arrivals::default();
        lock(viewer).arrivals = Some(Arc::clone(&arrivals));
        let settle = plan.settle;
        taps.push(Box::new(KeepArrivals { clock, settle, since: None, arrivals }));
    }
    if let Some(path) = plan.record.as_ref().filter(|_| number == 0) {
        let file = File::create(path).map_err(|error| {
            Failure::runtime(format!("cannot write {}: {error}", path.display()))
        })?;
        taps.push(Box::new(RecordMessages::new(clock, file)));
    }
    Ok(match taps.len() {
        0 => None,
        1 => taps.pop(),
        _ => Some(Box::new(All(taps))),
    })
}

/// One viewer, from its first word until `leaves`.
async fn live(
    plan: &Plan,
    number: u32,
    tap: Option<Box<dyn Tap>>,
    viewer: &Shared,
    leaves: impl Future<Output = ()>,
    goodbyes: &tokio::sync::Semaphore,
) {
    let began = Instant::now();
    lock(viewer).phase = Phase::Joining;
    let options = Options {
        bind: plan.addresses.map(|addresses| addresses.at(number)),
        looks_at_nat: false,
        latency: plan.latency,
        loss: plan.misbehaviour.loss,
        tap,
    };
    tokio::pin!(leaves);
    let joining = async {
        let mut opener = Opener::meet(&plan.target, options).await?;
        opener.watch(&plan.target).await?;
        Ok(opener)
    };
    let joined = tokio::select! {
        joined = joining => joined,
        () = &mut leaves => return,
    };
    let mut opener = match joined {
        Ok(opener) => opener,
        Err(failure) => return fail(viewer, Phase::Failed, failure),
    };
    {
        let mut viewer = lock(viewer);
        viewer.phase = Phase::Admitted;
        viewer.meter = Some(opener.meter());
    }
    tokio::select! {
        () = watch(plan, &mut opener, viewer, began) => {
            // The socket stays open: what is sent to it shall find it.
            leaves.await;
        }
        () = &mut leaves => {}
    }
    // An error would mean that goodbyes are not counted any more.
    let _one_of_few = goodbyes.acquire().await;
    opener.close().await;
}

/// Watches until the broadcast or the viewer's path ends.
async fn watch(plan: &Plan, opener: &mut Opener, viewer: &Shared, began: Instant) {
    let Misbehaviour { stalls_after, flood, .. } = plan.misbehaviour;
    let mut stall_at = None;
    let mut lots = tokio::time::interval(Duration::from_secs(1) / FLOOD_LOTS);
    lots.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let stall = async {
            match stall_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let happening = tokio::select! {
            happening = opener.next() => happening,
            _ = lots.tick(), if flood > 0 => {
                (0..flood / FLOOD_LOTS).for_each(|_| opener.report());
                continue;
            }
            () = stall => {
                opener.stop_reading();
                stall_at = None;
                continue;
            }
        };
        match happening {
            Ok(Happening::Moved(_)) => {}
            Ok(Happening::Watching) => {
                let at = opener.first_packet_at().unwrap_or_else(Instant::now);
                let mut viewer = lock(viewer);
                viewer.phase = Phase::Watching;
                viewer.join = Some(at.saturating_duration_since(began));
                viewer.open_to_media = Some(at.saturating_duration_since(opener.opened_at()));
                stall_at = stalls_after.map(|after| tokio::time::Instant::now() + after);
            }
            Ok(Happening::Ended) => {
                lock(viewer).phase = Phase::Ended;
                return;
            }
            Err(failure) => return fail(viewer, Phase::Broken, failure),
        }
    }
}

fn fail(viewer: &Shared, phase: Phase, failure: Failure) {
    let mut viewer = lock(viewer);
    viewer.phase = phase;
    viewer.failure = Some(failure);
}

/// How all of them are now.
fn count(viewers: &[Shared], clock: Clock) -> Second {
    let mut second = Second { at_us: clock.now_unix_micros(), ..Second::default() };
    for viewer in viewers {
        let viewer = lock(viewer);
        let phase = viewer.phase;
        second.begun += u32::from(phase != Phase::Waiting);
        second.admitted += u32::from(viewer.meter.is_some());
        second.watching += u32::from(viewer.join.is_some());
        second.failed += u32::from(phase == Phase::Failed);
        second.broken += u32::from(phase == Phase::Broken);
        second.ended += u32::from(phase == Phase::Ended);
        if let Some(meter) = &viewer.meter {
            second.add(&meter.totals());
        }
    }
    second.add_usage();
    second
}

fn summarize(viewers: &[Shared], clock: Clock) -> Summary {
    let (mut join, mut open_to_media) = (Histogram::default(), Histogram::default());
    let mut failures = BTreeMap::new();
    let mut all = Vec::new();
    for viewer in viewers {
        let viewer = lock(viewer);
        viewer.join.into_iter().for_each(|time| join.add(time));
        viewer.open_to_media.into_iter().for_each(|time| open_to_media.add(time));
        all.extend(viewer.meter.as_ref().map(Meter::totals));
        if let Some(Failure { code, message }) = &viewer.failure {
            *failures.entry(format!("{}: {}", *code as u8, gist(message))).or_default() += 1;
        }
    }
    Summary {
        counts: count(viewers, clock),
        failures,
        extremes: Extremes::of(&all),
        join: join.percentiles(),
        open_to_media: open_to_media.percentiles(),
        latency: None,
    }
}

/// What failures have in common that differ in their numbers: up to the advice, without them.
fn gist(message: &str) -> String {
    let said = message.split(';').next().unwrap_or_default();
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    let words = said.split(' ').map(|word| {
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            word.trim_start_matches(is_part)
        } else {
            word
        }
    });
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_that_differ_in_numbers_are_one() {
        let gists =
            ["no path within 8.16s: 3 openers; try again", "no path within 10.2s: 22 openers"];
        assert_eq!(gists.map(gist), ["no path within s: openers", "no path within s: openers"]);
    }
}
