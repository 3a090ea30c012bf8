//! A rendezvous in the hands of somebody else can deny service and see addresses, and nothing more.

use std::path::Path;

use tests::clip;
use tests::local::{self, Running, ends, program, run, watch};
use tests::rogue::{Deed, Rogue};
use tests::stage::{self, count};

/// What nobody but the two sides may know.
const CHANNEL: &str = "nursery-4711";
const SECRET: &str = "c2VjcmV0LXdvcmQtNDcxMQ";
const SECRET_BYTES: &[u8] = b"secret-word-4711";

/// Frames at the end of a recording that may lack what was on its way.
const LAST: usize = 15;

/// A broadcaster of the clip that registered there, with a secret.
fn broadcaster(rogue: &Rogue, state: &Path) -> (Running, String) {
    let config = state.join("channel.yaml");
    std::fs::write(&config, format!("channel: {CHANNEL}\nsecret: {SECRET}\n")).expect("written");
    let source = format!("file:{}", stage::clip().display());
    let config = config.display().to_string();
    let flags = ["--config", &config];
    let (running, link) = local::broadcaster(rogue.address(), state, &source, &flags);
    assert!(link.ends_with(&format!("/{CHANNEL}#{SECRET}")), "{link}");
    (running, link)
}

/// Records six seconds; each picture of it is the clip's. Gives the last statistics.
fn records_the_clip(link: &str, folder: &Path) -> serde_json::Value {
    let path = folder.join("film.mkv");
    let record = format!("record:{}", path.display());
    let mut viewer = program("punchcast-viewer");
    viewer.args(["watch", link, "--output", &record, "--for", "6s", "--stats", "json"]);
    let ended = run(&mut viewer);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let recorded = clip::frames(&path);
    let whole = recorded.len().saturating_sub(LAST);
    assert!(whole > 25, "{whole} frames");
    let (_, worst) = clip::compare_looped(&recorded[..whole], &clip::frames(&stage::clip()));
    assert!(worst > clip::SAME_PICTURE, "{worst} dB");
    let last = ended.stdout.lines().last().expect("statistics");
    serde_json::from_str(last).expect("JSON")
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|part| part == word)
}

fn has_seen_no_secret(rogue: &Rogue) {
    let heard = rogue.heard();
    for word in [CHANNEL.as_bytes(), SECRET.as_bytes(), SECRET_BYTES] {
        assert!(!contains(&heard, word), "'{}' in {} bytes", word.escape_ascii(), heard.len());
    }
}

#[test]
fn what_it_reads_tells_it_neither_channel_nor_secret() {
    let (rogue, state) = (Rogue::start(Deed::Reads), tempfile::tempdir().expect("a folder"));
    let (_broadcaster, link) = broadcaster(&rogue, state.path());
    records_the_clip(&link, state.path());
    let open = link.split('#').next().expect("a link");
    ends(&watch(open, &[]), 4, &["secret"]);
    // It heard all that there is to hear: the addresses are in it.
    assert!(contains(&rogue.heard(), &[127, 0, 0, 1]));
    has_seen_no_secret(&rogue);
}

#[test]
fn one_that_stands_between_reads_nothing_and_alters_nothing() {
    let (rogue, state) =
        (Rogue::start(Deed::StandsBetween), tempfile::tempdir().expect("a folder"));
    let (_broadcaster, link) = broadcaster(&rogue, state.path());
    let last = records_the_clip(&link, state.path());
    assert!(count(&last, "packets_corrupt") > 0, "nothing was altered: {last}");
    let bytes = rogue.heard().len();
    assert!(bytes > 100_000, "only {bytes} bytes went through it");
    has_seen_no_secret(&rogue);
}

#[test]
fn what_it_says_again_changes_nothing() {
    let (rogue, state) = (Rogue::start(Deed::Replays), tempfile::tempdir().expect("a folder"));
    let (mut broadcaster, link) = broadcaster(&rogue, state.path());
    let mut steady = program("punchcast-viewer");
    steady.args(["watch", &link, "--output", "null", "--stats", "json", "--for", "18s"]);
    let steady = Running::start(&mut steady, false);
    steady.line(|line| line.contains("\"playing\""));
    for _ in 0..2 {
        let last = records_the_clip(&link, state.path());
        assert_eq!(count(&last, "packets_unrecovered"), 0, "{last}");
        assert_eq!(count(&last, "reconnects"), 0, "{last}");
    }
    let last = steady.line(|line| line.contains("\"ended\""));
    let last = serde_json::from_str(&last).expect("JSON");
    assert_eq!(count(&last, "packets_unrecovered"), 0, "{last}");
    assert_eq!(count(&last, "reconnects"), 0, "{last}");
    assert!(broadcaster.try_wait().is_none(), "the broadcaster goes on");
}

#[test]
fn each_lie_ends_in_its_exit_code() {
    let cases = [
        // Neither side answers the other.
        (Deed::Splits, 3, "no path"),
        (Deed::Pairs, 3, "no path"),
        (Deed::Denies, 6, "knows no broadcaster"),
        (Deed::Babbles, 5, "rendezvous"),
    ];
    for (deed, code, word) in cases {
        let (rogue, state) = (Rogue::start(deed), tempfile::tempdir().expect("a folder"));
        let (mut broadcaster, link) = broadcaster(&rogue, state.path());
        println!("{deed:?}");
        if deed == Deed::Pairs {
            // The first of them has nobody to be led to but the broadcaster.
            let mut other = program("punchcast-viewer");
            other.args(["watch", &link, "--output", "null", "--stats", "json"]);
            let other = Running::start(&mut other, false);
            other.line(|line| line.contains("\"playing\""));
            ends(&watch(&link, &[]), code, &[word]);
        } else {
            ends(&watch(&link, &[]), code, &[word]);
        }
        assert!(broadcaster.try_wait().is_none(), "{deed:?}: the broadcaster goes on");
        has_seen_no_secret(&rogue);
    }
}
