//! What can go wrong in the lab itself.

use std::{io, path::PathBuf, time::Duration};

/// The lab's result.
pub type Result<T> = std::result::Result<T, LabError>;

/// A failure of the lab or of something it waited for; each says what to do where that is known.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program that the lab runs is not installed.
    #[error("the network lab runs `{program}`, which is not installed: apt-get install {package}")]
    MissingProgram {
        /// The program looked for.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The kernel, or a container around the test, does not let users make namespaces.
    #[error(
        "cannot make the network lab's namespaces: {output}\n\
         Unprivileged user namespaces must be allowed: look at the sysctls \
         kernel.unprivileged_userns_clone, user.max_user_namespaces and \
         kernel.apparmor_restrict_unprivileged_userns; in a container, allow unshare and mount"
    )]
    NamespacesRefused {
        /// What `unshare` said.
        output: String,
    },
    /// A program under test, or a helper of the lab, has not been built.
    #[error("{} does not exist: run `cargo build --workspace` with the test's profile first", path.display())]
    NotBuilt {
        /// Where it was expected.
        path: PathBuf,
    },
    /// A command that set up or looked at the network failed.
    #[error("{what} failed: {output}")]
    Command {
        /// What the command was for.
        what: String,
        /// What it wrote, or how it ended.
        output: String,
    },
    /// Something that the test waited for did not come.
    #[error("waited {waited:?} for {what} in vain{tail}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// The last lines of the log concerned, starting with a line feed, or nothing.
        tail: String,
    },
    /// A program ended while the test waited for it to write something.
    #[error("{name} ended before {what}{tail}")]
    Ended {
        /// The program's name in the lab.
        name: String,
        /// What was waited for.
        what: String,
        /// The last lines of its log, starting with a line feed, or nothing.
        tail: String,
    },
    /// The network asked for cannot be built.
    #[error("cannot build this network: {0}")]
    Topology(String),
    /// A capture file could not be understood.
    #[error("not a capture this reader knows: {0}")]
    Capture(String),
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The operating system's reason.
        source: io::Error,
    },
}

/// Adds what was being done to an operating system error.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|error| LabError::Io { what: what.into(), source: error.into() })
    }
}
