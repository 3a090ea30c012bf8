//! Namespaces that a bench runs in, so that it needs no root and disturbs nobody, and the programs that
//! set them up.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

/// Debian leaves these out of an ordinary user's path, but most of the programs are there.
const SYSTEM_FOLDERS: &str = "/usr/sbin:/sbin";

/// What benches run, and where Debian has it.
const PROGRAMS: [(&str, &str); 6] = [
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("sh", "dash"),
];

/// Runs this program again, with the same arguments and `more`, in namespaces of its own. They end
/// with it.
///
/// # Errors
///
/// Where a program is missing, or the system allows no namespaces.
pub fn reenter(more: &[&str]) -> Result<ExitCode> {
    for (program, package) in PROGRAMS {
        let path = search_path();
        if !path.split(':').any(|folder| std::path::Path::new(folder).join(program).is_file()) {
            bail!("`{program}` is not installed: apt-get install {package}");
        }
    }
    let status = tool("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--pid"])
        .args(["--fork", "--mount-proc", "--kill-child", "--"])
        .arg(std::env::current_exe().context("finding this program")?)
        .args(std::env::args_os().skip(1))
        .args(more)
        .stdin(Stdio::null())
        .status()
        .context("starting unshare")?;
    match status.code() {
        Some(0) => Ok(ExitCode::SUCCESS),
        // unshare and this program's own run have both said why.
        _ => Ok(ExitCode::FAILURE),
    }
}

/// Runs a program to its end, which must be a success, and gives its standard output.
///
/// # Errors
///
/// Where it fails; `what` says what it was for.
pub fn output(what: &str, command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| what.to_owned())?;
    if !output.status.success() {
        bail!("{what} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command for a program that may lie where only administrators look.
pub fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path());
    command
}

fn search_path() -> String {
    format!("{}:{SYSTEM_FOLDERS}", std::env::var("PATH").unwrap_or_default())
}
