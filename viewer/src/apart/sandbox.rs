//! What a process that plays may do no more once it is ready: read what is the user's, write anywhere but where it
//! records, open connections, start programs, look into other processes.
//!
//! Landlock bounds files, seccomp system calls; where a kernel has only one of them, or neither, the rest applies.

use std::env;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus,
};
use seccompiler::{BpfProgram, apply_filter};

use super::calls;
use crate::media::Output;

/// Set to `off`, nothing is forbidden: for drivers and sound servers that need more.
pub(super) const SWITCH: &str = "PUNCHCAST_SANDBOX";

/// The newest form of Landlock that is known here. Older kernels do as much of it as they can.
const KNOWN: ABI = ABI::V5;

/// Where programs, libraries, fonts, and what the system tells about itself lie.
const SYSTEM: &[&str] = &[
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/bin",
    "/etc",
    "/opt",
    "/nix",
    "/gnu",
    "/proc",
    "/sys",
    "/dev",
    "/run/udev",
    "/run/opengl-driver",
    "/run/opengl-driver-32",
    "/run/current-system",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager/resolv.conf",
    "/var/cache/fontconfig",
    "/var/lib/dbus",
    "/tmp/.X11-unix",
    "/tmp/.ICE-unix",
];

/// What of the user's own folder playing needs: how to reach the display and the sound server.
const OWN: &[&str] = &[
    ".Xauthority",
    ".config/pulse",
    ".pulse-cookie",
    ".asoundrc",
    ".config/pipewire",
    ".cache/gstreamer-1.0",
    ".local/share/gstreamer-1.0",
];

/// Variables that name further files and folders, several of them between colons.
const NAMED: &[&str] = &[
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
    "GST_PLUGIN_PATH",
    "GST_PLUGIN_PATH_1_0",
    "GST_PLUGIN_SYSTEM_PATH",
    "GST_PLUGIN_SYSTEM_PATH_1_0",
    "LD_LIBRARY_PATH",
    "LIBGL_DRIVERS_PATH",
    "LIBVA_DRIVERS_PATH",
];

/// What holds from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holds {
    pub(super) files: bool,
    pub(super) calls: bool,
}

/// Gives up all that playing to these outputs does not need: for this thread, and those that it starts. For the
/// whole process, so, where it has no other yet.
pub(super) fn enter(outputs: &[Output]) -> Holds {
    if env::var_os(SWITCH).is_some_and(|word| word == "off") {
        tracing::warn!("{SWITCH}=off: what decodes may do whatever this user may");
        return Holds { files: false, calls: false };
    }
    let files = bound_files(outputs).unwrap_or_else(|error| {
        tracing::debug!(%error, "no Landlock");
        false
    });
    let calls = bound_calls(outputs).map_or_else(
        |error| {
            tracing::debug!(%error, "no seccomp");
            false
        },
        |()| true,
    );
    if !files || !calls {
        tracing::warn!(
            files,
            calls,
            "this kernel keeps what decodes in only so far (Landlock: files, seccomp: calls)"
        );
    }
    Holds { files, calls }
}

fn bound_files(outputs: &[Output]) -> Result<bool, Box<dyn std::error::Error>> {
    let read = AccessFs::from_read(KNOWN) & !AccessFs::Execute;
    let devices = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile | AccessFs::IoctlDev;
    let shared =
        read | AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::Truncate;
    let home = env::var_os("HOME").map(PathBuf::from);
    let own = home.iter().flat_map(|home| OWN.iter().map(|path| home.join(path)));
    let named = NAMED.iter().filter_map(env::var_os);
    let named = named.flat_map(|paths| env::split_paths(&paths).collect::<Vec<_>>());
    let readable = SYSTEM.iter().map(PathBuf::from).chain(own).chain(named);
    let readable = readable.map(|path| (path, read));
    let rest = [("/dev", devices), ("/dev/shm", shared)];
    let rest = rest.map(|(path, access)| (PathBuf::from(path), access));
    let recordings = outputs.iter().filter_map(|output| match output {
        Output::Record(recording) => Some((folder(recording.path()), shared)),
        Output::Hls(hls) => Some((hls.folder().to_owned(), shared)),
        Output::Snapshot(snapshot) => Some((folder(snapshot.path()), shared)),
        Output::V4l2(loopback) => Some((loopback.device().to_owned(), devices)),
        Output::Window
        | Output::Null
        | Output::Udp { .. }
        | Output::Srt(_)
        | Output::Rtmp(_)
        | Output::Stdout => None,
    });
    let mut rules = Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?.create()?;
    for (path, access) in readable.chain(rest).chain(recordings) {
        // What is not there needs no leave.
        let Ok(at) = PathFd::new(&path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(KNOWN) };
        rules = rules.add_rule(PathBeneath::new(at, access))?;
    }
    let status = rules.restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// The folder that a file is in.
fn folder(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn bound_calls(outputs: &[Output]) -> Result<(), Box<dyn std::error::Error>> {
    // The last of them is asked first by the kernel, and the strictest answer holds.
    let programs: Vec<BpfProgram> = calls::programs(outputs)?;
    Ok(programs.iter().try_for_each(|program| apply_filter(program))?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::net::UdpSocket;
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use nix::errno::Errno;
    use nix::sys::signal::{SigSet, Signal, kill, raise};
    use nix::unistd::Pid;

    use super::*;

    /// Within a sandbox of its own: it holds for a thread.
    fn within<T: Send>(outputs: &[Output], work: impl FnOnce(Holds) -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| work(enter(outputs)));
            inside.join().expect("the work is done")
        })
    }

    #[test]
    fn who_decodes_reads_nothing_of_the_users_writes_nothing_and_reaches_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = folder.path().join("id_ed25519");
        fs::write(&secret, "secret").expect("room");
        within(&[Output::Null], |holds| {
            assert_eq!(holds, Holds { files: true, calls: true });
            let refused = fs::read(&secret).expect_err("it is the user's");
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
            let written = fs::write(folder.path().join("new"), "x").expect_err("nothing is");
            assert_eq!(written.kind(), ErrorKind::PermissionDenied);
            UdpSocket::bind("127.0.0.1:0").expect_err("no network");
            Command::new("true").status().expect_err("no programs");
            UnixDatagram::unbound().expect_err("nor any server here");
            fs::read("/etc/passwd").expect("libraries read there");
            fs::read("/proc/self/status").expect("its own");
            for services in ["/run", "/var/lib"] {
                let refused = fs::read_dir(services).expect_err("what other programs keep");
                assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{services}");
            }
            fs::read("/proc/1/environ").expect_err("another's");
        });
        fs::read(&secret).expect("others may still");
    }

    #[test]
    fn who_decodes_may_signal_itself_and_start_threads_but_signal_nobody_else() {
        within(&[Output::Null], |_| {
            // What is raised waits, so that it ends nobody. `abort` raises in the same way.
            let waits = SigSet::from_iter([Signal::SIGUSR1]);
            waits.thread_block().expect("legal");
            raise(Signal::SIGUSR1).expect("to itself");
            assert_eq!(waits.wait().expect("it waits"), Signal::SIGUSR1);
            assert_eq!(kill(Pid::this(), None), Err(Errno::EPERM));
            assert_eq!(kill(Pid::parent(), None), Err(Errno::EPERM));
            // Where the newer call is not there, the C library starts threads with the older one.
            let sum = std::thread::spawn(|| 40 + 2).join().expect("decoders have threads");
            assert_eq!(sum, 42);
        });
    }

    #[test]
    fn a_window_reaches_the_display() {
        within(&[Output::Window], |_| {
            UnixDatagram::unbound().expect("the display is reached so");
            Command::new("true").status().expect_err("no programs");
        });
    }

    #[test]
    fn who_records_writes_into_its_folder_alone() {
        let (here, there) =
            (tempfile::tempdir().expect("room"), tempfile::tempdir().expect("room"));
        let file = here.path().join("a.mkv");
        let record: Output = format!("record:{}", file.display()).parse().expect("legal");
        within(&[record, "udp://127.0.0.1:9".parse().expect("legal")], |_| {
            fs::write(&file, "media").expect("that is its work");
            fs::remove_file(&file).expect("a trial is taken away");
            fs::write(there.path().join("b.mkv"), "media").expect_err("elsewhere");
            UdpSocket::bind("127.0.0.1:0").expect("it sends");
        });
    }
}
