//! The command line: every flag of the contract is there and explained.

use std::process::Command;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_punchcast-viewer"))
}

fn help(arguments: &[&str]) -> String {
    let output = program().args(arguments).arg("--help").output().expect("the program starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("help is text")
}

#[test]
fn commands_and_flags_are_explained() {
    let commands = help(&[]);
    for command in ["watch", "list", "check"] {
        assert!(commands.contains(command), "{command} is not in:\n{commands}");
    }
    let watch = help(&["watch"]);
    for flag in ["--output", "--latency", "--for", "--stats", "--config", "--log-format"] {
        assert!(watch.contains(flag), "{flag} is not in:\n{watch}");
    }
    let check = help(&["check"]);
    for word in ["HOST:PORT", "--json"] {
        assert!(check.contains(word), "{word} is not in:\n{check}");
    }
}

#[test]
fn the_version_is_told() {
    let output = program().arg("--version").output().expect("the program starts");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.trim(), concat!("punchcast-viewer ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_flags_end_with_2() {
    let output = program().arg("--no-such-flag").output().expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty(), "messages go to standard error");
}
