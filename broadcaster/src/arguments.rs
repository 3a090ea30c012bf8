//! Logins in arguments. Every user of the machine can read a program's arguments; its environment,
//! only who runs it.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use service::exit::Failure;

use crate::config::Args;
use crate::media::{SourceSpec, redacted};

/// Holds the source as it was written.
const SOURCE: &str = "PUNCHCAST_SOURCE";

/// Where an argument holds a login or passphrase, starts the program anew in its own place, with
/// that argument in the environment. To be called before there are threads.
///
/// # Errors
///
/// Where the program cannot be started again, or two arguments hold secrets.
pub fn hide_logins() -> Result<(), Failure> {
    let mut hidden: Option<String> = None;
    let mut shown = Vec::new();
    for argument in env::args_os() {
        let text = argument.to_str().unwrap_or_default();
        let safe = redacted(text);
        if safe == text || text.is_empty() {
            shown.push(argument);
            continue;
        }
        let source = text.strip_prefix("--source=").unwrap_or(text);
        if hidden.replace(source.to_owned()).is_some() {
            return Err(Failure::usage("one source can be named, with one login"));
        }
        shown.push(OsString::from(safe));
    }
    let Some(source) = hidden else { return Ok(()) };
    let failed = |error: std::io::Error| {
        Failure::runtime(format!(
            "the login cannot be hidden from others: {error}; write the source into a file and \
             give --config"
        ))
    };
    let mut again = Command::new(env::current_exe().map_err(failed)?);
    let mut shown = shown.into_iter();
    if let Some(name) = shown.next() {
        again.arg0(name);
    }
    Err(failed(again.args(shown).env(SOURCE, source).exec()))
}

/// The arguments with the source as it was written, where its login was hidden.
///
/// # Errors
///
/// Where the environment holds no source.
pub fn with_login(args: Args) -> Result<Args, Failure> {
    let (Some(shown), Ok(written)) = (&args.source, env::var(SOURCE)) else { return Ok(args) };
    let source: SourceSpec =
        written.parse().map_err(|error| Failure::usage(format!("{SOURCE}: {error}")))?;
    let is_same = source.to_string() == shown.to_string();
    Ok(if is_same { Args { source: Some(source), ..args } } else { args })
}
