//! Reading the command line: like clap, but a wrong one is told in one line. Each program also has the commands of
//! [`Manual`], beside its own.

use clap::error::ErrorKind;
use clap::{FromArgMatches, Parser, Subcommand};

use crate::exit::Failure;
use crate::manual::Manual;

/// The flags of this process. Help, version and what [`Manual`] makes are printed or written, and end it.
///
/// # Errors
///
/// A usage failure with what is wrong, in one line; a page or completion that cannot be written.
pub fn parse<T: Parser>() -> Result<T, Failure> {
    let mut command = with_manual(T::command());
    let matches = command.clone().try_get_matches().map_err(told)?;
    if matches.subcommand_name().is_some_and(Manual::has_subcommand) {
        Manual::from_arg_matches(&matches).map_err(told)?.make(command)?;
        std::process::exit(0);
    }
    T::from_arg_matches(&matches).map_err(|error| told(error.format(&mut command)))
}

/// A program's own commands and those of [`Manual`]: what the program is stays said as it is.
fn with_manual(command: clap::Command) -> clap::Command {
    let about = (command.get_about().cloned(), command.get_long_about().cloned());
    let command = Manual::augment_subcommands(command);
    match about {
        (Some(about), Some(long)) => command.about(about).long_about(long),
        (Some(about), None) => command.about(about),
        _ => command,
    }
}

fn told(error: clap::Error) -> Failure {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => Failure::usage(one_line(&error.to_string())),
    }
}

/// The first paragraph of clap's message, and where to read on.
fn one_line(message: &str) -> String {
    let paragraph: Vec<&str> =
        message.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let text = paragraph.join(" ");
    format!("{}; --help explains the flags", text.strip_prefix("error: ").unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_become_one_line() {
        let message = "error: invalid value 'x' for '--a <A>':\n  not a number\n\nFor more\n";
        let expected = "invalid value 'x' for '--a <A>': not a number; --help explains the flags";
        assert_eq!(one_line(message), expected);
    }
}
