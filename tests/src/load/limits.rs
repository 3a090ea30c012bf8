//! Room for a socket for each viewer.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use service::exit::Failure;

/// Descriptors of a process beside its viewers' sockets, and for what joining viewers need for a moment.
const OTHERS: u64 = 200;

/// Lets this process have as many descriptors as that many viewers need, if it may.
pub(super) fn raise_descriptors(viewers: u32) -> Result<(), Failure> {
    let needed = u64::from(viewers) + OTHERS;
    let failed = |error| Failure::runtime(format!("the limit of open files: {error}"));
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    if needed > hard {
        return Err(Failure::usage(format!(
            "{viewers} viewers need {needed} open files, and this system allows {hard}; raise the \
             hard limit (ulimit -Hn), or take fewer viewers"
        )));
    }
    if needed > soft {
        setrlimit(Resource::RLIMIT_NOFILE, needed, hard).map_err(failed)?;
    }
    Ok(())
}
