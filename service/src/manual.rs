//! What ships beside a program, made from its own flags so that it cannot differ from them: completions for shells, and
//! pages for man.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::exit::{CODES, Failure};

/// Commands that every program has beside its own.
#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
pub enum Manual {
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the pages for man into a folder: one for the program, and one for each command.
    #[command(hide = true)]
    Man {
        /// The folder, which is made where it is not there.
        folder: PathBuf,
    },
}

impl Manual {
    /// Prints or writes it, for the program with these flags.
    ///
    /// # Errors
    ///
    /// Where a page cannot be written.
    pub(crate) fn make(&self, command: Command) -> Result<(), Failure> {
        match self {
            Self::Completions { shell } => {
                let name = command.get_name().to_owned();
                let mut text = Vec::new();
                clap_complete::generate(*shell, &mut shown(&command), name, &mut text);
                // Whoever reads may have seen enough.
                let _ = io::stdout().write_all(&text);
                Ok(())
            }
            Self::Man { folder } => write_pages(command, folder).map_err(|error| {
                Failure::runtime(format!("cannot write pages into {}: {error}", folder.display()))
            }),
        }
    }
}

/// The command without its hidden commands, which completions would offer (`clap_complete` 4.6 does).
fn shown(command: &Command) -> Command {
    let commands = command.get_subcommands().filter(|command| !command.is_hide_set());
    // clap keeps names that live as long as the process, which ends once this is printed.
    let name: &'static str = command.get_name().to_owned().leak();
    let mut shown = Command::new(name)
        .args(command.get_arguments().cloned())
        .groups(command.get_groups().cloned())
        .subcommands(commands.map(self::shown));
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    // Completions know that there is one, and not which.
    if command.get_version().is_some() { shown.version("") } else { shown }
}

/// Writes `NAME.1`, and `NAME-COMMAND.1` for each command and each command of those.
fn write_pages(command: Command, folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut waiting = vec![(command, true)];
    while let Some((command, is_program)) = waiting.pop() {
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
        waiting.extend(shown.map(|command| (command.clone(), false)));
        let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
        let mut page = Vec::new();
        let man = Man::new(command.display_name(name.clone()));
        man.render(&mut page)?;
        if is_program {
            exit_codes().to_writer(&mut page)?;
        }
        std::fs::write(folder.join(format!("{name}.1")), page)?;
    }
    Ok(())
}

fn exit_codes() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in CODES {
        roff.control("TP", []);
        roff.text([bold(code.to_string())]);
        roff.text([roman(meaning)]);
    }
    roff.text([roman("Each but 0 comes with one line on standard error that says what to try.")]);
    roff
}
