//! Tries which paths open between which NATs, and writes the tables of docs/nat.md.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::Parser;
use tests::matrix::{Expect, Kind, Profile, Record, Scene, tables};

const BEGIN: &str = "<!-- nat-matrix: begin -->";
const END: &str = "<!-- nat-matrix: end -->";

/// Tries which paths open between which NATs.
#[derive(Debug, Parser)]
struct Args {
    /// Tries of each pair.
    #[arg(long, default_value_t = 20)]
    tries: usize,
    /// The broadcaster's kinds, separated by commas [default: all].
    #[arg(long, value_delimiter = ',')]
    broadcasters: Vec<String>,
    /// The viewer's kinds [default: all].
    #[arg(long, value_delimiter = ',')]
    viewers: Vec<String>,
    /// Networks [default: all of them, each but the quiet one with the pairs it is meant for].
    #[arg(long, value_delimiter = ',')]
    profiles: Vec<Profile>,
    /// Labs at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// The seed of all chances in the labs [default: LAB_SEED, or by chance].
    #[arg(long)]
    seed: Option<u64>,
    /// Folder of the records.
    #[arg(long, default_value = "target/nat")]
    records: PathBuf,
    /// Put all records in the folder into the tables, not this run's alone.
    #[arg(long)]
    merge: bool,
    /// Try nothing, only write the tables.
    #[arg(long, requires = "merge")]
    no_run: bool,
    /// Print the tables instead of writing them into docs/nat.md.
    #[arg(long)]
    print: bool,
    /// Show the logs of tries that do not come out as they should.
    #[arg(long)]
    logs: bool,
}

/// All tries with one broadcaster.
struct Job {
    profile: Profile,
    broadcaster: &'static Kind,
    viewers: Vec<&'static Kind>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let named = match std::env::var("LAB_SEED") {
        Ok(text) => Some(text.parse().context("LAB_SEED is no 64-bit number")?),
        Err(_) => None,
    };
    let seed = args.seed.or(named).unwrap_or_else(|| u64::from(rand::random::<u32>()));
    fs::create_dir_all(&args.records)
        .with_context(|| format!("making {}", args.records.display()))?;
    let mut records = Vec::new();
    if args.merge {
        for entry in fs::read_dir(&args.records)? {
            records.extend(read(&entry?.path())?);
        }
    }
    if !args.no_run {
        records.extend(run(&args, seed)?);
    }
    if records.is_empty() {
        bail!("there are no records: nothing was tried");
    }
    let tables = tables(&records, &heading(&records)?);
    if args.print {
        println!("{tables}");
        return Ok(());
    }
    write_into(Path::new("docs/nat.md"), &tables)
}

fn kinds(names: &[String]) -> anyhow::Result<Vec<&'static Kind>> {
    if names.is_empty() {
        return Ok(Kind::all().iter().collect());
    }
    let known = || Kind::all().iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
    let named = |name: &String| {
        Kind::named(name).with_context(|| format!("there is no kind '{name}': {}", known()))
    };
    names.iter().map(named).collect()
}

fn jobs(args: &Args) -> anyhow::Result<VecDeque<Job>> {
    let all = [Profile::Quiet, Profile::Competing, Profile::Loss5, Profile::Loss20];
    let profiles = if args.profiles.is_empty() { &all[..] } else { &args.profiles[..] };
    let (broadcasters, viewers) = (kinds(&args.broadcasters)?, kinds(&args.viewers)?);
    let mut jobs = VecDeque::new();
    for profile in profiles {
        for broadcaster in broadcasters.iter().filter(|kind| !kind.is_blocked()) {
            let meant = |viewer: &&&'static Kind| match profile {
                Profile::Quiet => true,
                Profile::Competing => broadcaster.name == "restricted" && viewer.is_sequential(),
                Profile::Loss5 | Profile::Loss20 => {
                    let plain = ["firewall", "full", "restricted", "restricted-other"];
                    [broadcaster.name, viewer.name].iter().all(|name| plain.contains(name))
                }
            };
            let viewers: Vec<_> = viewers.iter().filter(meant).copied().collect();
            if !viewers.is_empty() {
                jobs.push_back(Job { profile: *profile, broadcaster, viewers });
            }
        }
    }
    Ok(jobs)
}

fn run(args: &Args, seed: u64) -> anyhow::Result<Vec<Record>> {
    let jobs = jobs(args)?;
    let total: usize = jobs.iter().map(|job| job.viewers.len() * args.tries).sum();
    let began = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let path = args.records.join(format!("{began}-{seed}.jsonl"));
    let file = OpenOptions::new().create(true).append(true).open(&path)?;
    eprintln!("{total} tries, seed {seed}, records in {}", path.display());
    let shared = Shared { args, total, file, began: Instant::now(), records: Vec::new() };
    let (jobs, shared) = (Mutex::new(jobs), Mutex::new(shared));
    std::thread::scope(|scope| {
        let work = |number| {
            let (jobs, shared) = (&jobs, &shared);
            scope.spawn(move || work(jobs, shared, seed.wrapping_add(number)))
        };
        let workers: Vec<_> = (0..args.jobs as u64).map(work).collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        anyhow::Ok(())
    })?;
    let shared = shared.into_inner().map_err(|_| anyhow::anyhow!("a worker panicked"))?;
    Ok(shared.records)
}

struct Shared<'a> {
    args: &'a Args,
    total: usize,
    file: File,
    began: Instant,
    records: Vec<Record>,
}

impl Shared<'_> {
    fn take(&mut self, record: Record) -> anyhow::Result<()> {
        writeln!(self.file, "{}", serde_json::to_string(&record)?)?;
        self.records.push(record);
        Ok(())
    }
}

fn work(jobs: &Mutex<VecDeque<Job>>, shared: &Mutex<Shared<'_>>, seed: u64) -> anyhow::Result<()> {
    let mut scene: Option<(Profile, Scene)> = None;
    loop {
        let Some(job) = jobs.lock().map_err(|_| anyhow::anyhow!("a worker panicked"))?.pop_front()
        else {
            return Ok(());
        };
        let mut current = match scene.take().filter(|(profile, _)| *profile == job.profile) {
            Some((_, current)) => current,
            None => Scene::new(seed, job.profile)?,
        };
        current.broadcast(job.broadcaster)?;
        for viewer in job.viewers {
            pair(&mut current, &job.profile, job.broadcaster, viewer, shared)?;
        }
        current.end()?;
        scene = Some((job.profile, current));
    }
}

fn pair(
    scene: &mut Scene,
    profile: &Profile,
    broadcaster: &'static Kind,
    viewer: &'static Kind,
    shared: &Mutex<Shared<'_>>,
) -> anyhow::Result<()> {
    let locked = || shared.lock().map_err(|_| anyhow::anyhow!("a worker panicked"));
    let (tries, logs) = locked().map(|shared| (shared.args.tries, shared.args.logs))?;
    let expect = Expect::of(broadcaster, viewer);
    // Nothing depends on chance where nothing passes.
    let tries = if expect == Expect::Nothing { tries.min(2) } else { tries };
    let mut line = String::new();
    for number in 0..tries {
        let record = scene.attempt(viewer, number)?;
        let mark = match (record.is_direct(), record.open_ms) {
            (true, _) => 'd',
            (false, Some(_)) => 'r',
            (false, None) => '-',
        };
        line.push(mark);
        if !expect.allows(&record) || (logs && expect.may_improve() && !record.is_direct()) {
            eprintln!("not as asked: {}", serde_json::to_string(&record)?);
            if logs {
                eprintln!("{}", scene.logs());
            }
        }
        locked()?.take(record)?;
    }
    let shared = locked()?;
    eprintln!(
        "{:5.0} s {:5}/{} {profile:?} {} × {} ({expect:?}): {line}",
        shared.began.elapsed().as_secs_f64(),
        shared.records.len(),
        shared.total,
        broadcaster.name,
        viewer.name,
    );
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<Record>> {
    let text = fs::read_to_string(path)?;
    let lines = text.lines().map(|line| {
        serde_json::from_str(line).with_context(|| format!("a record in {}", path.display()))
    });
    lines.collect()
}

/// Which command on which machine made the tables.
fn heading(records: &[Record]) -> anyhow::Result<String> {
    let mut seeds: Vec<u64> = records.iter().map(|record| record.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let tries = records.iter().map(|record| record.number + 1).max().unwrap_or(0);
    let date = std::process::Command::new("date").args(["--utc", "+%Y-%m-%d"]).output()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cpus = std::thread::available_parallelism()?;
    Ok(format!(
        "Made by `make nat` on {}, Linux {}, {cpus} processors: {} tries, up to {tries} of each pair, \
         LAB_SEED {}. 40 ms round trip between the parties, 20 ms to the rendezvous, which has two \
         addresses. Where a router takes ports (*port theft*), one side is stopped just as the introduction \
         goes out, for a time drawn evenly from 0 to 300 ms; which side is drawn too. EIM, EIF, ADF, APDF: \
         endpoint-independent mapping; filtering endpoint-independent, address-dependent, \
         address-and-port-dependent.",
        String::from_utf8_lossy(&date.stdout).trim(),
        kernel.trim(),
        records.len(),
        seeds.join(", "),
    ))
}

fn write_into(path: &Path, tables: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let place = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some(format!("{before}{BEGIN}\n{tables}{END}{after}"))
    });
    let Some(whole) = place else { bail!("{} has no '{BEGIN}' … '{END}'", path.display()) };
    fs::write(path, whole).with_context(|| format!("writing {}", path.display()))
}
