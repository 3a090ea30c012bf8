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
    let mut command = Manual::augment_subcommands(T::command());
    let matches = command.clone().try_get_matches().map_err(told)?;
    if matches.subcommand_name().is_some_and(Manual::has_subcommand) {
        Manual::from_arg_matches(&matches).map_err(told)?.make(command)?;
        std::process::exit(0);
    }
    T::from_arg_matches(&matches).map_err(|error| told(error.format(&mut command)))
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
