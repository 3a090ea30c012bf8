//! Processes that a program has of its own: itself once more, told over a socket on standard input what to do.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigSet, Signal};

use crate::exit::Failure;

/// The program that runs, even where another one was put into its place since.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// The socket, within such a process. From then on it hears no signal to stop: its parent says when to, and what a
/// terminal or a service manager says to all goes there as well. To be called before there are threads.
///
/// # Errors
///
/// Where standard input is no socket of the `parent`'s.
pub fn socket(parent: &str) -> Result<UnixStream, Failure> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().map_err(|error| Failure::runtime(format!("signals: {error}")))?;
    let failed = |error: std::io::Error| {
        Failure::usage(format!("only a {parent} starts this, over a socket: {error}"))
    };
    let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    stream.peer_addr().map_err(failed)?;
    Ok(stream)
}
