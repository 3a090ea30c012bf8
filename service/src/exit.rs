//! How the programs end: the contract's exit codes, each with one line that says what happened and
//! what to try.

use std::fmt;
use std::process::ExitCode;

/// The contract's exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// 1: something failed while running.
    Runtime = 1,
    /// 2: wrong usage or configuration.
    Usage = 2,
    /// 3: no path could be opened, or no UDP gets out at all.
    NoPath = 3,
    /// 4: refused by the broadcaster.
    Refused = 4,
    /// 5: the rendezvous cannot be reached.
    RendezvousUnreachable = 5,
    /// 6: unknown broadcaster or channel.
    Unknown = 6,
    /// 7: the broadcaster's key is not the link's.
    KeyMismatch = 7,
}

/// Every exit code and what it means, for the pages of man.
pub const CODES: [(u8, &str); 8] = [
    (0, "done"),
    (Code::Runtime as u8, "failed while running"),
    (Code::Usage as u8, "wrong usage or configuration"),
    (Code::NoPath as u8, "no path could be opened, or no UDP gets out at all"),
    (Code::Refused as u8, "refused by the broadcaster: secret, removed, full"),
    (Code::RendezvousUnreachable as u8, "rendezvous unreachable"),
    (Code::Unknown as u8, "unknown broadcaster, channel or file; a file that cannot be played"),
    (Code::KeyMismatch as u8, "the broadcaster's key is not the link's"),
];

/// Why a program ends without success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the caller's script sees.
    pub code: Code,
    /// What the user reads: one line.
    pub message: String,
}

impl Failure {
    /// A failure with its line.
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        let message = message.to_string();
        let line: Vec<&str> = message.split_whitespace().collect();
        Self { code, message: line.join(" ") }
    }

    /// Something failed while running.
    pub fn runtime(message: impl fmt::Display) -> Self {
        Self::new(Code::Runtime, message)
    }

    /// Wrong usage or configuration.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Code::Usage, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::usage(error)
    }
}

/// Turns a program's result into its exit, and says its one line.
pub fn finish(program: &str, result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{program}: {failure}");
            ExitCode::from(failure.code as u8)
        }
    }
}
