//! Bad input of every kind: the contract's exit code, and one clear line.

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use tests::local::{self, Ended, Running, ends, program, run, watch};
use tests::stage;

const NOBODY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";

/// A small picture that costs little to encode.
const SMALL: &str =
    "pipeline:videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=180";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn broadcast(flags: &[&str], state: &Path) -> Ended {
    run(program("punchcast-broadcaster").args(flags).arg("--state").arg(state))
}

/// A loopback port at which nothing listens.
fn closed_port() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("loopback")
}

#[test]
fn usage_errors_end_with_2() {
    let state = folder();
    ends(&watch("nonsense", &[]), 2, &["punchcast://"]);
    ends(&watch("punchcast://h:1/short/live", &[]), 2, &["broadcaster id"]);
    let link = format!("punchcast://127.0.0.1:1/{NOBODY}/live");
    ends(&watch(&link, &["--no-such-flag"]), 2, &["--no-such-flag", "--help"]);
    ends(&watch(&link, &["--output", "record:film.avi"]), 2, &[".mkv"]);
    ends(&run(program("punchcast-rendezvous").args(["--listen", "nowhere"])), 2, &["nowhere"]);
    ends(&broadcast(&["--source", "test", "--offer"], state.path()), 2, &["--stun"]);
    assert_eq!(broadcast(&["--source", "telepathy"], state.path()).code, Some(2));
    assert_eq!(broadcast(&["--uplink", "fast"], state.path()).code, Some(2));
    let nothing = ["--source", "none", "--embedded-rendezvous", "127.0.0.1:0"];
    ends(&broadcast(&nothing, state.path()), 2, &["--library"]);

    let config = state.path().join("wrong.yaml");
    std::fs::write(&config, "channel: live\nchanel: typo\n").expect("written");
    for name in ["punchcast-rendezvous", "punchcast-broadcaster"] {
        ends(&run(program(name).arg("--config").arg(&config)), 2, &["wrong.yaml", "line"]);
    }
    let missing = run(program("punchcast-rendezvous").args(["--config", "/no/such.yaml"]));
    ends(&missing, 2, &["/no/such.yaml"]);
}

#[test]
fn a_rendezvous_that_is_not_there_ends_with_5() {
    let state = folder();
    let port = closed_port();
    let viewer = watch(&format!("punchcast://{port}/{NOBODY}/live"), &[]);
    ends(&viewer, 5, &["nothing listens", "check the link"]);
    assert!(viewer.took < Duration::from_secs(6), "{:?}", viewer.took);
    let flags = ["--source", SMALL, "--rendezvous", &port.to_string()];
    ends(&broadcast(&flags, state.path()), 5, &["does not answer", "--rendezvous"]);
    let unresolved = format!("punchcast://no-such-host.invalid:9/{NOBODY}/live");
    ends(&watch(&unresolved, &[]), 5, &["no-such-host.invalid"]);
}

#[test]
fn a_rendezvous_takes_who_is_listed_or_has_a_token() {
    let state = folder();
    let written = |name: &str, text: &str| {
        let path = state.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let tokens = written("tokens", "a-token-of-some-length\n");
    let listed = format!("broadcasters: {{ allow: listed, tokens: {tokens} }}\n");
    let config = written("rendezvous.yaml", &listed);
    let (_rendezvous, at) = local::rendezvous_with(&["--config", &config]);
    let flags = ["--source", SMALL, "--rendezvous", &at.to_string()];
    let refused = broadcast(&flags, state.path());
    ends(&refused, 5, &["does not take", "rendezvous_token"]);
    assert!(!refused.stderr.contains("UDP port"), "that is not why: {}", refused.stderr);
    let wrong = written("wrong.yaml", "rendezvous_token: another-token-of-length\n");
    let with_config = [&flags[..], &["--config", &wrong]].concat();
    ends(&broadcast(&with_config, state.path()), 5, &["does not take"]);
    let right = written("right.yaml", "rendezvous_token: a-token-of-some-length\n");
    let (broadcaster, link) = local::broadcaster(at, state.path(), SMALL, &["--config", &right]);
    drop(broadcaster);
    // By the id that the refusal names, without a token.
    let id = link.split('/').nth(3).expect("an id");
    assert!(refused.stderr.contains(id), "{id}: {}", refused.stderr);
    let listed = format!("broadcasters: {{ allow: listed, ids: [{id}] }}\n");
    let config = written("ids.yaml", &listed);
    let (_rendezvous, at) = local::rendezvous_with(&["--config", &config]);
    local::broadcaster(at, state.path(), SMALL, &[]);
    // A setting by which nobody could.
    let config = written("nobody.yaml", "broadcasters: { allow: listed }\n");
    let nobody = run(program("punchcast-rendezvous").args(["--config", &config]));
    ends(&nobody, 2, &["none is listed"]);
}

#[test]
fn unknown_and_refused_are_told_apart() {
    let state = folder();
    let (_rendezvous, at) = local::rendezvous();
    let config = state.path().join("secret.yaml");
    std::fs::write(&config, "secret: c2VjcmV0LXdvcmQ\n").expect("written");
    let config = config.display().to_string();
    let (_broadcaster, link) = local::broadcaster(at, state.path(), SMALL, &["--config", &config]);
    assert!(link.ends_with("/live#c2VjcmV0LXdvcmQ"), "{link}");
    let open = link.split('#').next().expect("a link");

    ends(&watch(&format!("punchcast://{at}/{NOBODY}/live"), &[]), 6, &["knows no broadcaster"]);
    let other_channel = link.replace("/live#", "/dead#");
    ends(&watch(&other_channel, &[]), 6, &["no channel 'dead'"]);
    ends(&watch(open, &[]), 4, &["secret"]);
    ends(&watch(&format!("{open}#d3Jvbmc"), &[]), 4, &["secret"]);
    let list = run(program("punchcast-viewer").args(["list", &link]));
    assert_eq!(list.code, Some(0), "{list:#?}");
    assert!(list.stdout.contains("live") && list.stdout.contains("H264"), "{}", list.stdout);
    let watched = watch(&link, &["--for", "3s"]);
    assert_eq!(watched.code, Some(0), "{watched:#?}");
}

#[test]
fn a_full_broadcast_ends_with_4() {
    let state = folder();
    let (_rendezvous, at) = local::rendezvous();
    let config = state.path().join("one.yaml");
    std::fs::write(&config, "max_viewers: 1\n").expect("written");
    let config = config.display().to_string();
    let (_broadcaster, link) = local::broadcaster(at, state.path(), SMALL, &["--config", &config]);
    let mut first = program("punchcast-viewer");
    first.args(["watch", &link, "--output", "null", "--stats", "json"]);
    let first = Running::start(&mut first, false);
    first.line(|line| line.contains("playing"));
    ends(&watch(&link, &["--for", "5s"]), 4, &["full"]);
}

#[test]
fn a_rendezvous_that_leads_to_another_broadcaster_ends_with_7() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let state = folder();
    let identity = transport::identity::Identity::load_or_create(state.path()).expect("a key");
    let directory = Arc::new(rendezvous::Directory::lying(identity.id()));
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = rendezvous::Config { listen, ..rendezvous::Config::default() };
    let _in_runtime = runtime.enter();
    let liar = rendezvous::Server::start(&config, directory).expect("a rendezvous");
    let (_broadcaster, link) = local::broadcaster(liar.local_addr(), state.path(), SMALL, &[]);
    let somebody_else = link.replace(&identity.id().to_string(), NOBODY);
    assert_ne!(link, somebody_else);
    ends(&watch(&somebody_else, &[]), 7, &["does not hold the key in the link"]);
}

#[test]
fn sources_that_cannot_be_used_end_with_1() {
    let state = folder();
    let (_rendezvous, at) = local::rendezvous();
    let at = at.to_string();
    let from = |source: &str| broadcast(&["--source", source, "--rendezvous", &at], state.path());
    let file = |name: &str, content: &[u8]| {
        let path = state.path().join(name);
        std::fs::write(&path, content).expect("written");
        format!("file:{}", path.display())
    };
    let clip = std::fs::read(stage::clip()).expect("the clip is there");
    ends(&from("file:/no/such/film.mp4"), 1, &["/no/such/film.mp4"]);
    ends(&from(&file("empty.mp4", b"")), 1, &["empty.mp4"]);
    ends(&from(&file("text.mp4", b"this is no film\n")), 1, &["text.mp4"]);
    ends(&from(&file("cut.mp4", &clip[..2000])), 1, &["cut.mp4"]);
    ends(&from("pipeline:videotestsrc ! nosuchelement"), 1, &["nosuchelement"]);
    ends(&from("pipeline:videotestsrc ! ! x"), 1, &["pipeline"]);
    // Machines that run these tests have no camera of this name.
    ends(&from("camera:/dev/video-none"), 1, &["camera"]);
}

#[test]
fn signals_end_every_program_well_within_two_seconds() {
    let state = folder();
    let (mut rendezvous, at) = local::rendezvous();
    let (mut broadcaster, link) = local::broadcaster(at, state.path(), SMALL, &[]);
    let recording = state.path().join("film.mkv");
    let mut viewer = program("punchcast-viewer");
    viewer.args(["watch", &link, "--output", "null", "--stats", "json"]);
    viewer.arg("--output").arg(format!("record:{}", recording.display()));
    let mut viewer = Running::start(&mut viewer, false);
    viewer.line(|line| !line.contains("\"frames_decoded\":0,") && line.contains("playing"));
    for (running, signal) in [
        (&mut viewer, Signal::SIGINT),
        (&mut broadcaster, Signal::SIGTERM),
        (&mut rendezvous, Signal::SIGINT),
    ] {
        let (status, took) = running.end_with(signal);
        assert!(status.success() && took < Duration::from_secs(2), "{status} after {took:?}");
    }
    assert!(!tests::clip::frames(&recording).is_empty());
}

#[test]
fn viewers_are_told_that_the_broadcast_is_over() {
    let state = folder();
    let (_rendezvous, at) = local::rendezvous();
    let (mut broadcaster, link) = local::broadcaster(at, state.path(), SMALL, &[]);
    let mut viewer = program("punchcast-viewer");
    viewer.args(["watch", &link, "--output", "null", "--stats", "json"]);
    let mut viewer = Running::start(&mut viewer, false);
    viewer.line(|line| line.contains("playing"));
    broadcaster.end_with(Signal::SIGINT);
    viewer.line(|line| line.contains("ended"));
    let told = tests::lab::eventually(Duration::from_secs(3), || viewer.try_wait().is_some());
    assert!(told, "the viewer goes on without a broadcast");
    assert!(viewer.try_wait().is_some_and(|status| status.success()));
}

#[test]
fn an_uplink_too_small_admits_nobody() {
    let state = folder();
    let (_rendezvous, at) = local::rendezvous();
    let (_broadcaster, link) = local::broadcaster(at, state.path(), "test", &["--uplink", "1M"]);
    ends(&watch(&link, &["--for", "5s"]), 4, &["full"]);
}

#[test]
fn a_reader_that_stands_still_keeps_nobody_from_ending() {
    let state = folder();
    let (_rendezvous, at) = local::rendezvous();
    let (_broadcaster, link) = local::broadcaster(at, state.path(), SMALL, &[]);
    for flags in [&["--stats", "json", "--output", "null"][..], &["--output", "stdout"]] {
        // A pipe that is full already, and that nobody reads.
        let (_reader, mut writer) = std::io::pipe().expect("a pipe");
        let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).expect("a smaller pipe");
        writer.write_all(&vec![b'x'; usize::try_from(size).expect("a size")]).expect("room");
        let mut viewer = program("punchcast-viewer");
        viewer.args(["watch", &link]).args(flags);
        let mut viewer = Running::start_into(&mut viewer, writer);
        viewer.line(|line| line.contains("first picture"));
        let (status, took) = viewer.end_with(Signal::SIGTERM);
        assert!(status.success() && took < Duration::from_secs(2), "{status} after {took:?}");
    }
}

#[test]
fn a_broadcaster_that_returns_with_other_tracks_ends_the_viewer() {
    let state = folder();
    let (_rendezvous, at) = local::rendezvous();
    let (mut broadcaster, link) = local::broadcaster(at, state.path(), SMALL, &[]);
    let mut viewer = program("punchcast-viewer");
    viewer.args(["watch", &link, "--output", "null", "--stats", "json"]);
    let mut viewer = Running::start(&mut viewer, false);
    viewer.line(|line| line.contains("\"playing\""));
    broadcaster.end_with(Signal::SIGKILL);
    let sound = "pipeline:audiotestsrc is-live=true";
    let (_again, same) = local::broadcaster(at, state.path(), sound, &[]);
    assert_eq!(link, same);
    viewer.line(|line| line.contains("\"ended\""));
    let ended = || viewer.try_wait().is_some();
    assert!(tests::lab::eventually(Duration::from_secs(5), ended));
    assert_eq!(viewer.try_wait().and_then(|status| status.code()), Some(1));
}
