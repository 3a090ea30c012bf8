//! Several live channels of one broadcaster, with real programs on this machine's loopback.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tests::lab;
use tests::local::{self, PATIENCE, Running, ends, program, run};

/// Where metrics are, on a port that is free.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// A broadcaster with this configuration, and its links in the order of the channels.
struct Broadcaster {
    running: Running,
    metrics: u16,
    links: Vec<String>,
    folder: TempDir,
    _rendezvous: Running,
}

impl Broadcaster {
    fn start(channels: usize, yaml: &str) -> Self {
        let (rendezvous, at) = local::rendezvous();
        let folder = tempfile::tempdir().expect("a folder");
        let metrics = free_port();
        let file = folder.path().join("broadcaster.yaml");
        std::fs::write(&file, yaml).expect("written");
        let mut command = program("punchcast-broadcaster");
        command.args(["--rendezvous", &at.to_string(), "--bind", "127.0.0.1:0"]);
        command.arg("--config").arg(&file).arg("--state").arg(folder.path().join("state"));
        command.args(["--metrics", &format!("127.0.0.1:{metrics}")]);
        command.arg("--link-file").arg(folder.path().join("links"));
        let running = Running::start(&mut command, false);
        let link = |_| running.line(|line| line.starts_with("punchcast://"));
        let links: Vec<String> = (0..channels).map(link).collect();
        let written = std::fs::read_to_string(folder.path().join("links")).expect("written");
        assert_eq!(written.lines().collect::<Vec<_>>(), links, "one a line");
        Self { running, metrics, links, folder, _rendezvous: rendezvous }
    }

    /// What the metrics listener says of this series; `None` where there is no such series.
    fn metric(&self, series: &str) -> Option<f64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.metrics);
        let got = run(Command::new("curl").args(["--silent", "--fail", &url]));
        assert_eq!(got.code, Some(0), "{got:?}");
        let line = got.stdout.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().expect("a number"))
    }

    /// Asks it as its operator does.
    fn ask(&self, words: &[&str]) -> local::Ended {
        let mut command = program("punchcast-broadcaster");
        run(command.args(words).arg("--state").arg(self.folder.path().join("state")))
    }
}

/// Watches and records, and says how so each second.
fn record(link: &str, to: &Path) -> Running {
    let output = format!("record:{}", to.display());
    let mut command = program("punchcast-viewer");
    command.args(["watch", link, "--output", &output, "--stats", "json"]);
    Running::start(&mut command, false)
}

fn decodes(line: &str) -> bool {
    let stats: serde_json::Value = serde_json::from_str(line).expect("an object a line");
    stats["frames_decoded"].as_u64().is_some_and(|frames| frames > 20)
}

/// Width and height of a recording's pictures.
fn size(of: &Path) -> String {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-select_streams", "v:0", "-of", "csv=p=0"]);
    let said = run(ffprobe.args(["-show_entries", "stream=width,height"]).arg(of));
    assert!(said.code == Some(0) && said.stderr.is_empty(), "{said:?}");
    said.stdout.trim().to_owned()
}

#[test]
fn each_channel_has_its_source_and_goes_its_own_way() {
    let gone = free_port();
    let yaml = format!(
        "
video: {{width: 320, height: 180, framerate: 15, bitrate: 300k}}
channels:
  - name: door
    source: test
  - name: yard
    source: test
    video: {{height: 120, bitrate: 150k}}
  - name: gate
    source: 'rtsp://127.0.0.1:{gone}/nobody'
  - name: bell
    source: 'pipeline:videotestsrc is-live=true num-buffers=120 ! video/x-raw,width=64,height=48,framerate=15/1'
"
    );
    let mut broadcaster = Broadcaster::start(4, &yaml);
    let [door, yard, gate, bell] = &broadcaster.links[..] else { panic!("four are configured") };
    for (link, name) in [(door, "door"), (yard, "yard"), (gate, "gate"), (bell, "bell")] {
        assert!(link.ends_with(&format!("/{name}")), "{link}");
    }
    let path = |name: &str| broadcaster.folder.path().join(name);
    let (at_door, at_yard) = (path("door.mkv"), path("yard.mkv"));
    let ringing = record(bell, &path("bell.mkv"));
    let mut watching = [record(door, &at_door), record(yard, &at_yard)];
    for viewer in watching.iter().chain([&ringing]) {
        viewer.line(decodes);
    }
    assert_eq!(broadcaster.metric("punchcast_viewers"), Some(3.0));
    let by_channel = |name: &str| {
        broadcaster.metric(&format!("punchcast_channel_viewers{{channel=\"{name}\"}}"))
    };
    // They are counted each second.
    assert!(lab::eventually(PATIENCE, || ["door", "yard", "gate", "bell"].map(by_channel)
        == [Some(1.0), Some(1.0), Some(0.0), Some(1.0)]));
    let coded = |name: &str| {
        broadcaster.metric(&format!("punchcast_encoder_frames_encoded_total{{channel=\"{name}\"}}"))
    };
    assert!(coded("door").is_some_and(|count| count > 20.0) && coded("gate") == Some(0.0));
    let needs = |name: &str| {
        broadcaster.metric(&format!("punchcast_channel_bytes_per_second{{channel=\"{name}\"}}"))
    };
    assert!(needs("door") > needs("yard") && needs("yard") > Some(0.0));

    // Nothing comes of the camera that is away, and a viewer is told so.
    ends(&local::watch(gate, &[]), 1, &["has not started yet"]);
    let unknown = local::watch(&gate.replace("gate", "shed"), &[]);
    ends(&unknown, 6, &["shed"]);

    let list = run(program("punchcast-viewer").args(["list", door, "--json"]));
    let list: serde_json::Value = serde_json::from_str(&list.stdout).expect("an object");
    let channels = list["channels"].as_array().expect("a list");
    let names: Vec<_> = channels.iter().filter_map(|channel| channel["name"].as_str()).collect();
    assert_eq!(names, ["door", "yard", "gate", "bell"], "{list}");

    // A link of its own leads to each.
    ends(&broadcaster.ask(&["link", "new"]), 2, &["--channel", "door, yard, gate, bell"]);
    ends(&broadcaster.ask(&["link", "new", "--channel", "shed"]), 2, &["no channel 'shed'"]);
    let minted = broadcaster.ask(&["link", "new", "--channel", "yard"]);
    assert!(minted.stdout.contains("/yard#"), "{minted:?}");

    // What one channel comes to is its own affair.
    let ended = |mut viewer: Running| {
        let mut status = None;
        assert!(lab::eventually(PATIENCE, || {
            status = viewer.try_wait();
            status.is_some()
        }));
        status.expect("it was awaited")
    };
    assert_eq!(ended(ringing).code(), Some(0), "its broadcast ended");
    ends(&local::watch(bell, &[]), 6, &["bell"]);
    let runs =
        |name: &str| broadcaster.metric(&format!("punchcast_source_live{{channel=\"{name}\"}}"));
    assert!(lab::eventually(PATIENCE, || runs("bell").is_none()), "it is over");
    assert_eq!([runs("door"), runs("gate")], [Some(1.0), Some(0.0)]);
    let coded_before = coded("door");
    assert!(lab::eventually(PATIENCE, || coded("door") > coded_before));
    for viewer in &mut watching {
        assert!(viewer.try_wait().is_none(), "it goes on");
        let (status, _) = viewer.end_with(Signal::SIGTERM);
        assert_eq!(status.code(), Some(0));
    }
    assert_eq!([size(&at_door), size(&at_yard)], ["320,180", "320,120"]);
    let (status, _) = broadcaster.running.end_with(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0));
}

#[test]
fn channels_share_the_uplink_and_the_places() {
    // With headers and a tenth for repair a viewer takes 436 kbit/s, and 560 while the encoder begins; media may fill 1235.
    let yaml = "
uplink: 1300k
video: {width: 320, height: 180, framerate: 15, bitrate: 300k}
audio: {bitrate: 32k}
channels: [{name: door, source: test}, {name: yard, source: test}]
";
    let broadcaster = Broadcaster::start(2, yaml);
    let [door, yard] = &broadcaster.links[..] else { panic!("two are configured") };
    let to = |name: &str| broadcaster.folder.path().join(name);
    let mut viewers = [record(door, &to("door.mkv")), record(yard, &to("yard.mkv"))];
    viewers.iter().for_each(|viewer| _ = viewer.line(decodes));
    for link in [door, yard] {
        ends(&local::watch(link, &[]), 4, &["full"]);
    }
    viewers.iter_mut().for_each(|viewer| _ = viewer.end_with(Signal::SIGTERM));
    let is_empty = || broadcaster.metric("punchcast_viewers") == Some(0.0);
    assert!(lab::eventually(PATIENCE, is_empty));
    // The place of one is free for a viewer of the other.
    let both = [record(door, &to("1.mkv")), record(door, &to("2.mkv"))];
    both.iter().for_each(|viewer| _ = viewer.line(decodes));
}
