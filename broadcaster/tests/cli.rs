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

/// What bash offers behind the program's name for the word `typed`.
fn offered(typed: &str) -> String {
    let ask = "source <(\"$0\" completions bash); COMP_WORDS=(punchcast-broadcaster \"$1\"); COMP_CWORD=1; \
               _punchcast__broadcaster punchcast-broadcaster \"$1\" punchcast-broadcaster; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", ask]).arg(program().get_program()).arg(typed);
    let output = bash.output().expect("bash starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn shells_complete_flags_and_commands() {
    assert_eq!(offered("--embe").trim(), "--embedded-rendezvous");
    assert!(offered("comp").contains("completions"));
    for shell in ["zsh", "fish"] {
        let output = program().args(["completions", shell]).output().expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("embedded-rendezvous"), "{text}");
    }
    let unknown = program().args(["completions", "abacus"]).output().expect("the program starts");
    assert_eq!(unknown.status.code(), Some(2));
}

#[test]
fn pages_for_man_explain_each_flag_and_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = program().arg("man").arg(folder.path()).output().expect("the program starts");
    assert!(output.status.success(), "{output:?}");
    let read = |page: &str| std::fs::read_to_string(folder.path().join(page));
    for page in [
        "punchcast-broadcaster.1",
        "punchcast-broadcaster-completions.1",
        "punchcast-broadcaster-viewers.1",
        "punchcast-broadcaster-link.1",
    ] {
        let text = read(page).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".TH ") && text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    let page = read("punchcast-broadcaster.1").expect("it was read before");
    for word in [
        "--embedded-rendezvous".replace('-', "\\-"),
        "EXIT STATUS".into(),
        "rendezvous unreachable".into(),
    ] {
        assert!(page.contains(&word), "{word} is not in {page}");
    }
    assert!(read("punchcast-broadcaster-man.1").is_err(), "a hidden command has a page");
}
