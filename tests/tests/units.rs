//! The units in configs/systemd: what they start, and what others on the machine see of it.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tests::lab;
use tests::local::{self, Running};

/// A small picture that costs little to encode.
const SMALL: &str =
    "pipeline:videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=180";

/// The values of a key in a unit.
fn values(unit: &str, key: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.map(ToOwned::to_owned).collect()
}

fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/systemd").join(name);
    fs::read_to_string(path).expect("the unit is there")
}

#[test]
fn the_viewers_unit_shows_its_link_to_nobody() {
    let state = tempfile::tempdir().expect("a temporary folder");
    let (_rendezvous, at) = local::rendezvous();
    let config = state.path().join("secret.yaml");
    fs::write(&config, "secret: c2VjcmV0LXdvcmQ\n").expect("written");
    let config = config.display().to_string();
    let (_broadcaster, link) = local::broadcaster(at, state.path(), SMALL, &["--config", &config]);
    let secret = link.rsplit_once('#').expect("a secret").1;

    // What systemd does with the unit, as far as it matters here.
    let unit = unit("punchcast-viewer@.service");
    assert!(values(&unit, "EnvironmentFile").is_empty(), "an environment is inherited");
    let input = values(&unit, "StandardInput");
    assert_eq!(input, ["file:/etc/punchcast/viewer-%i.link"]);
    let file = state.path().join("viewer.link");
    fs::write(&file, format!("{link}\n")).expect("written");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("it is ours");
    let settings = state.path().join("viewer.yaml");
    fs::write(&settings, "output: [\"null\"]\nstats: json\n").expect("written");
    let [start] = &values(&unit, "ExecStart")[..] else { panic!("one command: {unit}") };
    let folder = state.path().display().to_string();
    let start = start.replace("${CREDENTIALS_DIRECTORY}", &folder);
    assert!(!start.contains('$'), "all is known: {start}");
    let mut words = start.split_whitespace();
    let program = Path::new(words.next().expect("a program")).file_name().expect("a name");
    let program = lab::binary(program.to_str().expect("text")).expect("it is built");
    let mut viewer = Command::new(program);
    let input = File::open(&file).expect("it is ours");
    let viewer = Running::start_reading(viewer.args(words), input);
    viewer.line(|line| {
        let stats: Value = serde_json::from_str(line).unwrap_or_default();
        stats["frames_decoded"].as_u64() > Some(0)
    });
    let shown = fs::read(format!("/proc/{}/cmdline", viewer.pid())).expect("it runs");
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(shown.contains("watch") && !shown.contains(secret), "{shown}");
}
