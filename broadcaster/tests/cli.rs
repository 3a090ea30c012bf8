//! The command line: every flag of the contract is there and explained.

use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_punchcast-broadcaster"))
}

fn help(arguments: &[&str]) -> String {
    let output = program().args(arguments).arg("--help").output().expect("the program starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("help is text")
}

#[test]
fn flags_are_explained() {
    let help = help(&[]);
    let flags = [
        "--config",
        "--rendezvous",
        "--embedded-rendezvous",
        "--source",
        "--channel",
        "--uplink",
        "--bind",
        "--metrics",
        "--link-file",
        "--state",
        "--log-format",
    ];
    for flag in flags {
        assert!(help.contains(flag), "{flag} is not in:\n{help}");
    }
}

#[test]
fn the_version_is_told() {
    let output = program().arg("--version").output().expect("the program starts");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.trim(), concat!("punchcast-broadcaster ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_flags_end_with_2() {
    let output = program().arg("--no-such-flag").output().expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty(), "messages go to standard error");
}

#[test]
fn logins_in_arguments_cannot_be_read_by_others() {
    let state = tempfile::tempdir().expect("a folder");
    for (source, is_shown) in [
        ("rtsp://ann:hush@127.0.0.1:1/live", false),
        ("--source=rtsp://ann:hush@127.0.0.1:1/live", false),
        ("rtsp://ann:hush@:1/live", true),
        ("rtpx://ann:hush@127.0.0.1:1", true),
    ] {
        let separate = (!source.starts_with("--")).then_some("--source");
        let output = program()
            .args(separate)
            .args([source, "--embedded-rendezvous", "127.0.0.1:0", "--state"])
            .arg(state.path())
            .env("RUST_LOG", "trace")
            .output()
            .expect("the program starts");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(!output.status.success() && !said.contains("hush"), "{source}: {said}");
        assert!(said.contains("***@") || !is_shown, "{source}: {said}");
    }
    // One that goes on waiting.
    let source = "srt://127.0.0.1:0?mode=listener&passphrase=hush%20hush%20hush";
    let source = source.replace(":0?", &format!(":{}?", free_port()));
    let mut waiting = program()
        .args(["--source", &source, "--embedded-rendezvous", "127.0.0.1:0", "--state"])
        .arg(state.path())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let line = || fs::read_to_string(format!("/proc/{}/cmdline", waiting.id())).expect("it runs");
    let begun = Instant::now();
    while !line().contains("passphrase=***") && begun.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(5));
    }
    let line = line();
    assert!(waiting.try_wait().expect("it was started here").is_none(), "it waits");
    waiting.kill().expect("it is ours");
    waiting.wait().expect("it was started here");
    assert!(!line.contains("hush") && line.contains("passphrase=***"), "{line}");
}

fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("an address").port()
}
