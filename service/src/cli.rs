//! Reading the command line: like clap, but a wrong one is told in one line.

use clap::Parser;
use clap::error::ErrorKind;

use crate::exit::Failure;

/// The flags of this process. Help and version are printed, and end it.
///
/// # Errors
///
/// A usage failure with what is wrong, in one line.
pub fn parse<T: Parser>() -> Result<T, Failure> {
    T::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => Failure::usage(one_line(&error.to_string())),
    })
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
