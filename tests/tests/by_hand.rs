//! Without any rendezvous: both sides learn their address from a plain STUN server, coturn's, and the
//! test carries the two lines between them. And media on a port of its own.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use tests::lab::{self, Host, Lab, Nat, Process, Result, Signal};
use tests::stage::{START, Stage, Watching, count};

const SECOND: Duration = Duration::from_secs(1);
const STUN_PORT: u16 = 3478;

/// Small, so that many can run at once.
const SMALL: &str = "pipeline:videotestsrc is-live=true ! video/x-raw,width=320,height=180";

/// A plain STUN server that is not ours.
fn start_stun(lab: &Lab, server: &Host) -> Result<Process> {
    let mut coturn = Command::new("turnserver");
    coturn.args(["-n", "--stun-only", "--no-cli", "--no-tls", "--no-dtls", "--log-file=stdout"]);
    coturn.arg(format!("--listening-ip={}", server.address()));
    coturn.arg(format!("--listening-port={STUN_PORT}"));
    for (flag, file) in [("--pidfile", "coturn.pid"), ("--userdb", "coturn.db")] {
        coturn.arg(flag).arg(lab.folder().join(file));
    }
    let process = server.spawn("coturn", &coturn)?;
    process.wait_for_line(START, |line| line.contains("SQLite DB connection success"))?;
    Ok(process)
}

/// Opens a path between two such NATs; the answer reaches the broadcaster only after a while.
fn opens_by_hand(home: Nat, office: Nat) -> Result<()> {
    let mut lab = Lab::new()?;
    let server = lab.public_host("stun")?;
    let home = lab.router("home", home)?;
    let cam = lab.host_behind(&home, "cam")?;
    let office = lab.router("office", office)?;
    let desk = lab.host_behind(&office, "desk")?;
    let _stun = start_stun(&lab, &server)?;
    let stun = format!("{}:{STUN_PORT}", server.address());

    // A pipe that the test holds open stands for the person who pastes.
    let pipe = lab.folder().join("answers");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("the folder can be written");
    let mut pasted = OpenOptions::new().read(true).write(true).open(&pipe).expect("a pipe");
    let script = format!(
        "exec {} --offer --stun {stun} --source '{SMALL}' --state {} < {}",
        lab::binary("punchcast-broadcaster")?.display(),
        lab.folder().join("state").display(),
        pipe.display()
    );
    let broadcaster = cam.spawn("cam", Command::new("sh").args(["-c", &script]))?;
    let offer = broadcaster.wait_for_line(START, |line| line.starts_with("punchcast-offer:"))?;

    let mut viewer = Command::new(lab::binary("punchcast-viewer")?);
    viewer.args(["answer", &offer, "--output", "null", "--stats", "json"]);
    let viewer = Watching { process: desk.spawn("answer", &viewer)? };
    let answer =
        viewer.process.wait_for_line(START, |line| line.starts_with("punchcast-answer:"))?;
    // The person takes a moment, in which the viewer's openers go out.
    std::thread::sleep(3 * SECOND);
    assert_eq!(viewer.latest()["state"], "opening");
    writeln!(pasted, "{answer}").expect("the broadcaster reads");
    let playing = viewer.wait_for(15 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(30));
    assert_eq!(playing["path"], "reflexive", "{playing}");
    viewer.stop()?;
    broadcaster.kill(Signal::SIGTERM)?;
    assert!(broadcaster.wait(5 * SECOND)?.success());
    Ok(())
}

#[test]
fn an_offer_and_an_answer_open_a_path() -> Result<()> {
    opens_by_hand(Nat::PortRestricted, Nat::PortRestrictedOtherPort)
}

#[test]
fn a_router_that_takes_unsolicited_packets_does_not_get_the_port() -> Result<()> {
    opens_by_hand(Nat::NoDrop, Nat::PortRestricted)
}

#[test]
fn media_comes_to_a_port_of_its_own() -> Result<()> {
    const RECEIVING: u16 = 40_404;
    let stage = Stage::new(1)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", SMALL, "")?;
    let (_, host) = &stage.viewers[0];
    host.count_flows()?;
    let flags = ["--output", "null", "--receive-port", &RECEIVING.to_string()];
    let viewer = stage.watch(0, &broadcast.link, &flags)?;
    viewer.wait_for(15 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(150));
    // Both ports were opened to the broadcaster, and media comes to the one asked for.
    let home = stage.home.external_address();
    let flows = host.flows()?;
    let arriving = |to_receiving: bool| -> u64 {
        let of_broadcaster = flows.iter().filter(|flow| *flow.source.ip() == home);
        let there =
            of_broadcaster.filter(|flow| (flow.destination.port() == RECEIVING) == to_receiving);
        there.map(|flow| flow.bytes).sum()
    };
    assert!(arriving(true) > 10 * arriving(false), "{flows:?}");
    let last = viewer.latest();
    assert_eq!((count(&last, "packets_lost"), count(&last, "reconnects")), (0, 0), "{last}");
    assert_ne!(
        last["local"].as_str().and_then(|at| at.rsplit_once(':')).map(|(_, p)| p),
        Some("40404")
    );
    viewer.stop()
}
