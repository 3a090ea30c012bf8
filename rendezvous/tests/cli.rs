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

/// What bash offers behind the program's name for the word `typed`.
fn offered(typed: &str) -> String {
    let ask = "source <(\"$0\" completions bash); COMP_WORDS=(punchcast-rendezvous \"$1\"); COMP_CWORD=1; \
               _punchcast__rendezvous punchcast-rendezvous \"$1\" punchcast-rendezvous; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", ask]).arg(program().get_program()).arg(typed);
    let output = bash.output().expect("bash starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn shells_complete_flags_and_commands() {
    assert_eq!(offered("--list").trim(), "--listen");
    assert!(offered("comp").contains("completions"));
    for shell in ["zsh", "fish"] {
        let output = program().args(["completions", shell]).output().expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("listen"), "{text}");
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
    for page in ["punchcast-rendezvous.1", "punchcast-rendezvous-completions.1"] {
        let text = read(page).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".TH ") && text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    let page = read("punchcast-rendezvous.1").expect("it was read before");
    for word in
        ["--listen".replace('-', "\\-"), "EXIT STATUS".into(), "rendezvous unreachable".into()]
    {
        assert!(page.contains(&word), "{word} is not in {page}");
    }
    assert!(read("punchcast-rendezvous-man.1").is_err(), "a hidden command has a page");
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
