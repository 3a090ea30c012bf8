//! What ships beside each program, and is made by it: completions for shells, and pages for man.

use std::process::Command;

use tests::local::program;

/// A program, and what its flags and commands must lead to.
struct Manual {
    name: &'static str,
    /// What `--help` begins with.
    about: &'static str,
    /// The beginning of a flag, and the flag.
    typed: &'static str,
    flag: &'static str,
    /// Commands that have a page, and those that have none.
    commands: &'static [&'static str],
    hidden: &'static [&'static str],
}

const MANUALS: [Manual; 3] = [
    Manual {
        name: "broadcaster",
        about: "Streams a camera",
        typed: "--embe",
        flag: "--embedded-rendezvous",
        commands: &["completions", "viewers", "link"],
        hidden: &["source", "man"],
    },
    Manual {
        name: "rendezvous",
        about: "Tells broadcasters and viewers",
        typed: "--list",
        flag: "--listen",
        commands: &["completions"],
        hidden: &["man"],
    },
    Manual {
        name: "viewer",
        about: "Watches a broadcast",
        typed: "--log-",
        flag: "--log-format",
        commands: &["completions", "watch", "list", "fetch", "check"],
        hidden: &["play", "man"],
    },
];

impl Manual {
    fn program(&self) -> Command {
        program(&format!("punchcast-{}", self.name))
    }

    /// What bash offers behind the program's name for a word.
    fn offered(&self, typed: &str) -> String {
        let (name, function) =
            (format!("punchcast-{}", self.name), format!("_punchcast__{}", self.name));
        let ask = "source <(\"$0\" completions bash); COMP_WORDS=(\"$1\" \"$3\"); COMP_CWORD=1; \
                   \"$2\" \"$1\" \"$3\" \"$1\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
        let mut bash = Command::new("bash");
        bash.args(["-c", ask]).arg(self.program().get_program()).args([&name, &function, typed]);
        let output = bash.output().expect("bash starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }
}

#[test]
fn help_begins_with_what_the_program_does() {
    for manual in MANUALS {
        let output = manual.program().arg("--help").output().expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.starts_with(manual.about), "{text}");
    }
}

#[test]
fn shells_complete_flags_and_commands() {
    for manual in MANUALS {
        assert_eq!(manual.offered(manual.typed).trim(), manual.flag);
        assert!(manual.offered("comp").contains("completions"));
        let complete = |shell| manual.program().args(["completions", shell]).output();
        for shell in ["bash", "zsh", "fish"] {
            let output = complete(shell).expect("the program starts");
            let text = String::from_utf8_lossy(&output.stdout);
            let flag = manual.flag.trim_start_matches('-');
            assert!(output.status.success() && text.contains(flag), "{text}");
            for hidden in manual.hidden {
                let offered = match shell {
                    "bash" => format!("subcmd__{hidden}"),
                    "zsh" => format!("'{hidden}:"),
                    _ => format!("-a \"{hidden}\""),
                };
                assert!(!text.contains(&offered), "{shell} offers {hidden}: {text}");
            }
        }
        let unknown = complete("abacus").expect("the program starts");
        assert_eq!(unknown.status.code(), Some(2));
    }
}

#[test]
fn pages_for_man_explain_each_flag_and_exit_code() {
    for manual in MANUALS {
        let folder = tempfile::tempdir().expect("a folder");
        let output = manual.program().arg("man").arg(folder.path()).output();
        let output = output.expect("the program starts");
        assert!(output.status.success(), "{output:?}");
        let read = |command: &str| {
            let page = format!("punchcast-{}{command}.1", manual.name);
            std::fs::read_to_string(folder.path().join(page))
        };
        let of_commands = manual.commands.iter().map(|command| format!("-{command}"));
        for page in [String::new()].into_iter().chain(of_commands) {
            let text =
                read(&page).unwrap_or_else(|error| panic!("{} {page}: {error}", manual.name));
            assert!(text.contains(".TH ") && text.contains(".SH SYNOPSIS"), "{page}: {text}");
        }
        let page = read("").expect("it was read before");
        let flag = manual.flag.replace('-', "\\-");
        let about = manual.about;
        for word in [&flag[..], about, "EXIT STATUS", "rendezvous unreachable"] {
            assert!(page.contains(word), "{word} is not in {page}");
        }
        for hidden in manual.hidden {
            assert!(read(&format!("-{hidden}")).is_err(), "{hidden} has a page");
        }
    }
}
