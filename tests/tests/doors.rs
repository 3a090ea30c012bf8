//! Whom the operator reaches, whatever they do: who copies, lists, or shares a relay's address with others; and links
//! that are used up.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::lab::{self, Nat, Process, Result, eventually};
use tests::offer::Offered;
use tests::stage::{Stage, count, operator};

const LONG: Duration = Duration::from_secs(20);

/// A small picture, which costs little to encode.
const SMALL: &str = "pipeline:videotestsrc is-live=true ! video/x-raw,width=320,height=180";

/// How soon a viewer that is sent away is gone.
const SOON: Duration = Duration::from_secs(3);

fn mint(stage: &Stage, arguments: &[&str]) -> Result<String> {
    let text = operator(stage, &[&["link", "new"], arguments].concat())?;
    Ok(text.trim().to_owned())
}

/// Everybody who is here.
fn viewers(stage: &Stage) -> Vec<Value> {
    let text = operator(stage, &["viewers", "list", "--json"]).expect("the operator is answered");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    answer["viewers"].as_array().expect("a list").clone()
}

/// Waits for a viewer of whom all of this is said; its number.
fn find(stage: &Stage, wanted: &[(&str, &str)]) -> String {
    let is_it = |viewer: &&Value| wanted.iter().all(|(key, value)| viewer[key] == *value);
    let found = || viewers(stage).iter().find(is_it).cloned();
    assert!(eventually(LONG, || found().is_some()), "{wanted:?}: {:?}", viewers(stage));
    let found = found().unwrap_or_else(|| panic!("{wanted:?} is gone"));
    found["viewer"].as_str().expect("a number").to_owned()
}

/// Runs a viewer that copies or lists.
fn start(stage: &Stage, at: usize, arguments: &[&str]) -> Result<Process> {
    let mut command = Command::new(lab::binary("punchcast-viewer")?);
    command.args(arguments);
    stage.viewers[at].1.spawn(&format!("viewer{at}"), &command)
}

fn assert_refused(process: &Process, within: Duration, words: &str) -> Result<()> {
    let status = process.wait(within)?;
    let said = process.stderr().text();
    assert_eq!(status.code(), Some(4), "{said}");
    assert!(said.contains(words), "{said}");
    Ok(())
}

#[test]
fn who_copies_is_seen_and_sent_away_and_used_up_links_open_nothing() -> Result<()> {
    let stage = Stage::new(2)?;
    // It takes longer than the test, at what is left of the uplink.
    let settings = "links_only: true\nuplink: 8M\n";
    let _offered = Offered::with(&stage, "test", settings, |folder| {
        fs::write(folder.join("long.bin"), vec![7; 60_000_000]).expect("room");
    })?;
    let once = mint(&stage, &["--name", "grandma", "--uses", "1"])?;
    let target = stage.path("copy.bin").display().to_string();
    let copying = start(&stage, 0, &["fetch", &once, "long.bin", "-o", &target])?;
    let number = find(&stage, &[("does", "files"), ("link", "grandma")]);
    // Copying was its one use: for another it opens nothing at all.
    let used = || operator(&stage, &["link", "list"]).is_ok_and(|links| links.contains("1 of 1"));
    assert!(eventually(LONG, used), "{}", operator(&stage, &["link", "list"])?);
    let elsewhere = stage.path("another.bin").display().to_string();
    for arguments in [&["list", &once][..], &["fetch", &once, "long.bin", "-o", &elsewhere]] {
        assert_refused(&start(&stage, 1, arguments)?, LONG, "secret is wrong or missing")?;
    }
    assert!(copying.try_wait()?.is_none(), "{}", copying.stderr().text());
    operator(&stage, &["viewers", "remove", &number])?;
    assert_refused(&copying, SOON, "removed this viewer")?;
    assert!(viewers(&stage).iter().all(|viewer| viewer["viewer"] != number.as_str()));

    // Nor does it come in again, whatever it asks for.
    let other = mint(&stage, &["--name", "other"])?;
    let back = start(&stage, 0, &["list", &other])?;
    assert_refused(&back, LONG, "removed this viewer")?;

    // Revoking a link ends a copy, too.
    let copying = start(&stage, 1, &["fetch", &other, "long.bin", "-o", &target])?;
    find(&stage, &[("does", "files"), ("link", "other")]);
    // Even where that cannot be written, as on a full disk: it is said that a restart undoes it.
    let file = stage.path("cam-state/links.json");
    fs::remove_file(&file).expect("links are kept there");
    fs::create_dir(&file).expect("room");
    fs::write(file.join("in the way"), "").expect("room");
    let mut command = Command::new(lab::binary("punchcast-broadcaster")?);
    command.args(["link", "revoke", "other", "--state"]).arg(stage.path("cam-state"));
    let revoking = stage.cam.spawn("revoking", &command)?;
    assert_eq!(revoking.wait(SOON)?.code(), Some(1), "{}", revoking.stderr().text());
    let said = revoking.stderr().text();
    assert!(said.contains("opens no more") && said.contains("again after a restart"), "{said}");
    assert_refused(&copying, SOON, "removed this viewer")?;
    let back = start(&stage, 1, &["list", &other])?;
    assert_refused(&back, LONG, "secret is wrong or missing")?;
    fs::remove_dir_all(&file).expect("it is ours");
    operator(&stage, &["link", "revoke", "other"])?;
    let kept = fs::read_to_string(&file).expect("it is written");
    assert!(kept.contains("grandma") && !kept.contains("other"), "{kept}");
    Ok(())
}

/// More is on its way than the network takes: the end of the connection has to get out all the same.
#[test]
fn who_copies_over_a_full_link_is_told_that_it_was_removed() -> Result<()> {
    let stage = Stage::new(3)?;
    stage.home.limit_uplink(3_000_000, Duration::from_millis(300))?;
    let offered = Offered::with(&stage, "none", "", |folder| {
        fs::write(folder.join("long.bin"), vec![7; 60_000_000]).expect("room");
    })?;
    let link = offered.link_of("long.bin");
    let copy = |at| {
        let target = stage.path(&format!("copy{at}.bin")).display().to_string();
        start(&stage, at, &["fetch", &link, "-o", &target])
    };
    let copies = [copy(0)?, copy(1)?, copy(2)?];
    assert!(eventually(LONG, || viewers(&stage).len() == 3), "{:?}", viewers(&stage));
    for (at, copy) in copies.iter().enumerate().take(2) {
        // Long enough that the window is full.
        let part = || {
            let parts = fs::read_dir(stage.path("")).expect("the lab's folder");
            let name = format!(".copy{at}.bin.");
            let is_it = |part: &fs::DirEntry| part.file_name().to_string_lossy().starts_with(&name);
            let part = parts.flatten().find(is_it);
            part.and_then(|part| part.metadata().ok()).map_or(0, |metadata| metadata.len())
        };
        assert!(eventually(LONG, || part() > 500_000), "{}", copy.stderr().text());
    }
    let first = viewers(&stage)[0]["viewer"].as_str().expect("a number").to_owned();
    operator(&stage, &["viewers", "remove", &first])?;
    assert!(
        eventually(SOON, || copies.iter().any(|copy| copy.try_wait().is_ok_and(|s| s.is_some()))),
        "nobody was told: {}",
        copies[0].stderr().text()
    );
    let removed = copies.iter().filter(|copy| copy.stderr().text().contains("removed this viewer"));
    assert_eq!(removed.count(), 1);
    // So are the others when the broadcaster stops.
    offered.broadcast.process.kill(lab::Signal::SIGTERM)?;
    let said = |copy: &Process| copy.stderr().text();
    let is_told = |copy: &Process| {
        said(copy).contains("removed this viewer") || said(copy).contains("the connection broke")
    };
    assert!(eventually(SOON, || copies.iter().all(is_told)), "{:?}", copies.each_ref().map(said));
    Ok(())
}

#[test]
fn viewers_at_a_relay_are_told_apart() -> Result<()> {
    let mut stage = Stage::new(0)?;
    let _rendezvous = stage.start_rendezvous()?;
    // Two NATs with random ports for each destination: no direct path is possible.
    let home = stage.lab.router("home-random", Nat::RandomPerDestination)?;
    stage.cam = stage.lab.host_behind(&home, "cam-random")?;
    for at in 0..3 {
        let router = stage.lab.router(&format!("random{at}"), Nat::RandomPerDestination)?;
        let host = stage.lab.host_behind(&router, &format!("viewer{at}"))?;
        stage.viewers.push((router, host));
    }
    let broadcast = stage.broadcast("cam", SMALL, "knock: true\n")?;
    let watch = |at| stage.watch(at, &broadcast.link, &["--output", "null"]);
    let is_watching = |stats: &Value| count(stats, "frames_decoded") > 25;
    let knocking = [("state", "knocking"), ("path", "relayed"), ("wants", "watch")];

    let mut watching = Vec::new();
    for at in 0..2 {
        // Who was let in before, at the same address of the relay, lets in nobody else.
        let viewer = watch(at)?;
        let number = find(&stage, &knocking);
        operator(&stage, &["viewers", "admit", &number])?;
        viewer.wait_for(LONG, |stats| !stats.is_null() && is_watching(stats));
        // It keeps its number.
        find(&stage, &[("viewer", &number), ("does", "watching")]);
        watching.push((viewer, number));
    }
    let [(unwanted, number), (other, _)] = &watching[..] else { unreachable!("two watch") };
    operator(&stage, &["viewers", "remove", number])?;
    assert_refused(&unwanted.process, SOON, "removed this viewer")?;
    // It does not come in again by the relay; others do.
    assert_refused(&watch(0)?.process, LONG, "removed this viewer")?;
    let third = watch(2)?;
    operator(&stage, &["viewers", "admit", &find(&stage, &knocking)])?;
    third.wait_for(LONG, |stats| !stats.is_null() && is_watching(stats));
    let last = other.latest();
    assert_eq!((count(&last, "packets_unrecovered"), count(&last, "reconnects")), (0, 0), "{last}");
    other.stop()
}
