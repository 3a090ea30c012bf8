//! What an operator sees: real Prometheus and a real browser look at real programs, one viewer of which loses
//! packets and one of which is relayed.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tests::lab::pcap::Datagram;
use tests::lab::{self, Host, Impairment, Lab, Link, Nat, Process, Result, eventually};
use tests::prometheus::{Prometheus, panel_queries, repository};
use tests::stage::{self, METRICS, Stage, Watching, count, ms};
use tests::traffic::{self, lost_at_first};

const SECOND: Duration = Duration::from_secs(1);

/// Delay of a viewer's link.
const ONE_WAY: Duration = Duration::from_millis(15);

/// Where rendezvous and viewer serve metrics, for whoever reaches their host.
const RENDEZVOUS_METRICS: u16 = 9401;
const VIEWER_METRICS: u16 = 9403;

/// Which viewers lose packets, are relayed, and serve metrics. The broadcaster numbers them from 1.
const LOSSY: usize = 1;
const RELAYED: usize = 2;
const TELLING: usize = 4;
const VIEWERS: usize = 5;

/// How long loss is seen before the alert fires, and how long it takes to clear, with time to spare on a busy
/// machine: averages over 30 s, and 15 s of patience.
const FIRES: Duration = Duration::from_secs(120);
const CLEARS: Duration = Duration::from_secs(120);

/// A change shows on the status page within this time.
const SHOWS: u64 = 2_000;

/// A page's own requests.
const PATHS: [&str; 2] = ["/", "/api/status"];

fn lossy() -> Link {
    Link::both(Impairment { delay: ONE_WAY, ..Impairment::loss(0.1) })
}

/// Five viewers, each behind a router of its own; the last in a network without a firewall.
fn stage() -> Result<Stage> {
    let link = |at: usize| if at == LOSSY { lossy() } else { Link::delay(ONE_WAY) };
    let nat = |at: usize| if at == TELLING { Nat::Open } else { Nat::PortRestricted };
    let viewers: Vec<_> = (0..VIEWERS).map(|at| (nat(at), Some(link(at)))).collect();
    Stage::build(Lab::new()?, (Nat::PortRestricted, None), &viewers)
}

fn start_rendezvous(stage: &Stage) -> Result<Process> {
    stage.start_rendezvous_with(&format!("metrics: 0.0.0.0:{RENDEZVOUS_METRICS}"))
}

/// Starts one viewer after the other, so that the broadcaster's numbers are known.
fn watch(stage: &Stage, link: &str) -> Result<Vec<Watching>> {
    let telling = format!("0.0.0.0:{VIEWER_METRICS}");
    (0..VIEWERS)
        .map(|at| {
            let metrics = ["--output", "null", "--metrics", &telling];
            let flags = if at == TELLING { &metrics[..] } else { &metrics[..2] };
            let viewer = stage.watch(at, link, flags)?;
            viewer.wait_for(30 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(5));
            Ok(viewer)
        })
        .collect()
}

fn fetch(host: &Host, address: &str) -> Result<String> {
    host.run(Command::new("curl").args(["--silent", "--fail", &format!("http://{address}")]))
}

#[test]
fn an_operator_sees_who_loses_packets_and_when_that_is_over() -> Result<()> {
    let stage = stage()?;
    let _rendezvous = start_rendezvous(&stage)?;
    let broadcast =
        stage.broadcast("cam", "test", "video: {width: 640, height: 360}\nuplink: 100M")?;
    let parted = stage.viewers[RELAYED].0.external_address();
    stage.lab.part(stage.home.external_address(), parted)?;
    let rendezvous_metrics = format!("{}:{RENDEZVOUS_METRICS}", stage.rendezvous.address());
    let telling = format!("{}:{VIEWER_METRICS}", stage.viewers[TELLING].1.address());
    let targets = [METRICS.to_owned(), rendezvous_metrics.clone(), telling.clone()];
    let prometheus = Prometheus::start(&stage.cam, stage.lab.folder(), &targets)?;
    // Discovery takes it some seconds; what comes before its first look does not grow in its eyes.
    let is_looking = || prometheus.value(&format!("up{{instance=\"{METRICS}\"}}")) == Some(1.0);
    assert!(eventually(30 * SECOND, is_looking));
    let viewers = watch(&stage, &broadcast.link)?;
    let lossy = (LOSSY + 1).to_string();

    let alert = ("PunchcastViewerLosing".to_owned(), Some(lossy.clone()));
    let fires = eventually(FIRES, || prometheus.firing().contains(&alert));
    assert!(fires, "{:?}", prometheus.query("punchcast_viewer_fraction_lost"));
    assert_eq!(prometheus.firing(), [alert], "nothing else fires");
    assert_eq!(prometheus.broken_rules(), [""; 0]);
    // By now the page has a history to show.
    let screens = stage.path("screens");
    fs::create_dir_all(&screens).expect("the lab's folder can be written");
    let mut look = Command::new(lab::binary("lab-browser")?);
    look.args([&format!("http://{METRICS}/"), &VIEWERS.to_string()]).arg(&screens);
    let browser = stage.cam.spawn("browser", look.env("RUST_BACKTRACE", "0"))?;

    let relayed = prometheus.query("punchcast_viewer_info{path=\"relayed\"}");
    let relayed: Vec<_> = relayed.iter().map(|(labels, _)| labels["viewer"].clone()).collect();
    assert_eq!(relayed, [(RELAYED + 1).to_string()]);

    let queries = panel_queries(&lossy);
    assert!(queries.len() > 60, "only {} queries", queries.len());
    let silent: Vec<_> = queries
        .iter()
        .filter(|(_, expression, may_be_empty)| {
            prometheus.query(expression).is_empty() && !may_be_empty
        })
        .collect();
    assert!(silent.is_empty(), "no data for: {silent:#?}");

    check_metrics(&stage, [METRICS, &rendezvous_metrics, &telling])?;
    draw(&stage)?;
    let page = browser.wait_for_line(120 * SECOND, |line| line.starts_with("{\"page\""))?;
    let page: Value = serde_json::from_str(&page).expect("JSON");
    check_page(&page["page"], &lossy);

    // One viewer goes; the page shows it.
    let left_at =
        SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    viewers[0].stop()?;
    let gone = browser.wait_for_line(60 * SECOND, |line| line.starts_with("{\"gone\""))?;
    let gone: Value = serde_json::from_str(&gone).expect("JSON");
    let after = gone["gone"].as_u64().expect("a time").saturating_sub(left_at);
    println!("the page showed after {after} ms that a viewer left");
    assert!(after <= SHOWS, "{after} ms");
    let heard = browser.wait_for_line(60 * SECOND, |line| line.starts_with("{\"heard\""))?;
    check_heard(&serde_json::from_str(&heard).expect("JSON"));
    assert!(browser.wait(20 * SECOND)?.success(), "{}", browser.stderr().text());

    // The link is repaired, and the alert clears.
    stage.viewers[LOSSY].0.impair(&Link::delay(ONE_WAY))?;
    let clears = eventually(CLEARS, || prometheus.firing().is_empty());
    assert!(clears, "{:?}", prometheus.firing());
    // The broadcaster looks at a longer while than the alert.
    broadcast.process.wait_for_log_line(CLEARS, |line| line.contains("event=\"loss_over\""))?;
    let log = broadcast.process.stderr().text();
    for event in ["loss_high", "loss_over", "viewer_joined", "viewer_left", "path_opened"] {
        assert!(log.contains(&format!("event=\"{event}\"")), "no {event} in:\n{log}");
    }
    Ok(())
}

/// `promtool check metrics` has nothing to say about any program's metrics.
fn check_metrics(stage: &Stage, addresses: [&str; 3]) -> Result<()> {
    for (at, address) in addresses.into_iter().enumerate() {
        let text = fetch(&stage.cam, &format!("{address}/metrics"))?;
        let file = stage.path(&format!("metrics{at}.txt"));
        fs::write(&file, &text).expect("the lab's folder can be written");
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "metrics"]).stdin(fs::File::open(&file).expect("written"));
        let output = promtool.output().expect("promtool runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{address}: {said}");
    }
    Ok(())
}

/// For the documentation: `PLOTS=FOLDER` has all panels drawn.
fn draw(stage: &Stage) -> Result<()> {
    let Some(folder) = std::env::var_os("PLOTS") else { return Ok(()) };
    // Debian has the library for its own Python.
    let mut plot = Command::new("/usr/bin/python3");
    plot.arg(repository().join("scripts/plot-dashboards.py"));
    plot.args(["--minutes", "2", "--viewer", &(LOSSY + 1).to_string()]);
    plot.args(["--allow-empty", "--out"]).arg(&folder);
    println!("{}", stage.cam.run(&plot)?);
    let screens = stage.path("screens");
    assert!(eventually(60 * SECOND, || screens.join("phone-dark.png").exists()));
    for entry in fs::read_dir(&screens).expect("screenshots").flatten() {
        let to = std::path::Path::new(&folder).join(entry.file_name());
        fs::copy(entry.path(), to).expect("copied");
    }
    Ok(())
}

fn check_page(page: &Value, lossy: &str) {
    let viewers = page["viewers"].as_array().expect("rows");
    assert_eq!(viewers.len(), VIEWERS, "{page}");
    for viewer in viewers {
        let is_lossy = viewer["lossy"] == "true";
        assert_eq!(is_lossy, viewer["viewer"] == lossy, "{viewer}");
        let text = viewer["text"].as_str().expect("text");
        assert_eq!(text.contains("losing"), is_lossy, "{viewer}");
        let is_relayed = viewer["viewer"] == *(RELAYED + 1).to_string();
        assert_eq!(text.contains("relayed"), is_relayed, "{viewer}");
        assert_eq!(viewer["plots"].as_array().map(Vec::len), Some(2), "{viewer}");
    }
    assert_eq!(viewers[0]["viewer"], lossy, "it comes first");
    let verdict = page["verdict"].as_str().expect("text");
    assert!(verdict.contains(&format!("viewer {lossy}")), "{verdict}");
    let events = page["events"].as_array().expect("events");
    let joined = events.iter().filter(|event| **event == "viewer_joined").count();
    assert_eq!(joined, VIEWERS, "{events:?}");
    let reached = page["reached"].as_array().expect("what Tab leads to");
    for wanted in ["pause", "metrics", "api/status"] {
        let found =
            reached.iter().find(|at| at["what"].as_str().unwrap_or_default().ends_with(wanted));
        let found = found.unwrap_or_else(|| panic!("no key leads to {wanted}: {reached:?}"));
        assert_eq!(found["ring"], true, "one cannot see that it has the focus: {found}");
    }
    assert_eq!(page["paused"], true);
    assert_eq!(page["unnamed"], Value::Array(Vec::new()));
}

fn check_heard(heard: &Value) {
    let requests = heard["heard"]["requests"].as_array().expect("requests");
    assert!(requests.len() > 5, "{requests:?}");
    for request in requests {
        let request = request.as_str().expect("an address");
        let path = request.strip_prefix(&format!("http://{METRICS}"));
        let is_ours = path.is_some_and(|path| PATHS.contains(&path));
        assert!(is_ours || request == "about:blank" || request == "data:,", "{request}");
    }
    assert_eq!(heard["heard"]["errors"], Value::Array(Vec::new()));
}

#[test]
fn the_rules_for_alerts_are_sound() {
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]] {
        let folder = repository().join("grafana");
        let output = Command::new("promtool").args(arguments).current_dir(folder).output();
        let output = output.expect("promtool runs");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn what_is_told_is_what_happened() -> Result<()> {
    let links = [Some(Link::delay(ONE_WAY)), Some(lossy())];
    let stage = Stage::with_links(&links)?;
    let _rendezvous = stage.start_rendezvous()?;
    let source = format!("file:{}", stage::clip().display());
    let broadcast = stage.broadcast("cam", &source, "")?;
    let at_cam = stage.cam.capture()?;
    let at_host = stage.viewers[LOSSY].1.capture()?;
    let viewers: Vec<Watching> = (0..2)
        .map(|at| {
            let viewer = stage.watch(at, &broadcast.link, &["--output", "null"])?;
            viewer.wait_for(30 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(5));
            Ok(viewer)
        })
        .collect::<Result<_>>()?;
    viewers[0].wait_for(90 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(25 * 40));

    let status: Value =
        serde_json::from_str(&fetch(&stage.cam, &format!("{METRICS}/api/status"))?).expect("JSON");
    let text = fetch(&stage.cam, &format!("{METRICS}/metrics"))?;
    let metric = |series: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("no {series} in\n{text}"))
    };
    for (at, viewer) in viewers.iter().enumerate() {
        let label = at + 1;
        let rtt = metric(&format!("punchcast_viewer_rtt_seconds{{viewer=\"{label}\"}}")) * 1e3;
        let latency =
            metric(&format!("punchcast_viewer_latency_seconds{{viewer=\"{label}\"}}")) * 1e3;
        let ping = ping(&stage.viewers[at].1, &stage.rendezvous)?;
        println!("viewer {label}: RTT told {rtt:.2}, ping {ping:.2}; latency told {latency:.1} ms");
        assert!((rtt - ping).abs() <= 5.0, "RTT of {label}: {rtt} ms told, {ping} ms by ping");
        // From capture to release: the budget and the way there; and the decoder.
        let expected = 200.0 + ping / 2.0;
        assert!((latency - expected).abs() <= 15.0, "{latency} ms told, {expected} ms expected");
        let own = ms(&viewer.latest(), "latency_ms");
        assert!((latency - own).abs() <= 15.0, "{latency} ms told, {own} ms by the viewer");
    }
    assert_eq!(status["viewers"].as_array().map(Vec::len), Some(2), "{status}");

    for viewer in &viewers {
        viewer.stop()?;
    }
    // Should a goodbye get lost, consent ends in half a minute.
    assert!(eventually(40 * SECOND, || stage.metric("punchcast_viewers").ok() == Some(0.0)));
    let told = stage.metric("punchcast_packets_sent_total")?;
    let sent = at_cam.stop()?;
    let ours: Vec<&Datagram> =
        sent.iter().filter(|datagram| datagram.source.ip() == stage.cam.address()).collect();
    let seen: usize = ours.iter().map(|datagram| traffic::count(datagram)).sum();
    println!("{told} packets told, {seen} seen");
    assert_eq!(told as usize, seen);

    // Loss over all the time that the lossy viewer was there, by what was sent to it first and never came.
    let last = viewers[LOSSY].latest();
    let expected = count(&last, "packets_received") + count(&last, "packets_unrecovered");
    let told = count(&last, "packets_lost") as f64 / expected as f64;
    let counted = {
        let text = fetch(&stage.cam, &format!("{METRICS}/metrics"))?;
        let total = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse().ok()).unwrap_or_default()
        };
        total("punchcast_viewer_packets_lost_total") / expected as f64
    };
    let (router, host) = &stage.viewers[LOSSY];
    let ends = (router.external_address().into(), host.address().into());
    let (all, lost) = lost_at_first(&sent, &at_host.stop()?, ends);
    let share = lost as f64 / all as f64;
    println!("loss: {told:.4} by the viewer, {counted:.4} by the broadcaster, {share:.4} seen");
    assert!((told - share).abs() <= 0.001, "{told} told, {share} seen");
    assert!((counted - share).abs() <= 0.001, "{counted} counted, {share} seen");
    Ok(())
}

#[test]
fn what_was_not_sent_is_not_lost() -> Result<()> {
    let stage = Stage::new(1)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", "test", "video: {width: 320, height: 180}")?;
    let at_cam = stage.cam.capture()?;
    let viewer = stage.watch(0, &broadcast.link, &["--output", "null"])?;
    viewer.wait_for(20 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(60));
    viewer.process.kill(lab::Signal::SIGSTOP)?;
    assert!(eventually(10 * SECOND, || stage.metric("punchcast_viewers_paused").ok() == Some(1.0)));
    // More passes than the history that it will get, which begins at the last keyframe.
    let keyframes = || stage.metric("punchcast_encoder_keyframes_total").unwrap_or_default();
    let before = keyframes();
    assert!(eventually(20 * SECOND, || keyframes() >= before + 3.0));
    let frames = count(&viewer.latest(), "frames_decoded");
    viewer.process.kill(lab::Signal::SIGCONT)?;
    viewer.wait_for(20 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(frames + 150));
    viewer.stop()?;
    let last = viewer.latest();
    let expected = count(&last, "packets_received") + count(&last, "packets_unrecovered");
    let to = stage.viewers[0].0.external_address().into();
    let sent = traffic::sent_to(&at_cam.stop()?, to);
    println!("{sent} packets sent, {expected} expected: {last}");
    assert!(expected <= sent, "{expected} expected, {sent} sent: {last}");
    Ok(())
}

/// The mean round trip between the two, in milliseconds. All delay is on the viewer's link, and other people's
/// routers do not answer.
fn ping(host: &Host, to: &Host) -> Result<f64> {
    let mut ping = Command::new("ping");
    ping.args(["-c", "20", "-i", "0.05", "-q", &to.address().to_string()]);
    let said = host.run(&ping)?;
    let mean = said.split(" = ").nth(1).and_then(|times| times.split('/').nth(1));
    Ok(mean.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no times in {said}")))
}
