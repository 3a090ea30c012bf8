//! The command line: every flag of the contract is there and explained.

use std::process::Command;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_punchcast-rendezvous"))
}

fn help(arguments: &[&str]) -> String {
    let output = program().args(arguments).arg("--help").output().expect("the program starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("help is text")
}

#[test]
fn flags_are_explained() {
    let help = help(&[]);
    for flag in ["--config", "--listen", "--metrics", "--log-format"] {
        assert!(help.contains(flag), "{flag} is not in:\n{help}");
    }
}

#[test]
fn the_version_is_told() {
    let output = program().arg("--version").output().expect("the program starts");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.trim(), concat!("punchcast-rendezvous ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_flags_end_with_2() {
    let output = program().arg("--no-such-flag").output().expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty(), "messages go to standard error");
}

#[test]
fn a_port_that_is_taken_ends_with_1_and_one_line() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let address = taken.local_addr().expect("it is bound").to_string();
    let output = program().args(["--listen", &address]).output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.lines().count() == 1 && said.contains("--listen"), "{said}");
}
