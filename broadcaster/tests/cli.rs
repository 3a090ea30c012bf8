//! The command line: every flag of the contract is there and explained.

use std::process::Command;

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
