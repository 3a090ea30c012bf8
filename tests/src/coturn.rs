//! coturn, the relay that most others use.

use std::process::Command;

use crate::lab::{Host, Lab, Process, Result};
use crate::stage::START;

/// Starts Debian's coturn on a host with a secret for short-lived credentials, and waits until it
/// serves.
pub fn start(lab: &Lab, host: &Host, port: u16, secret: &str) -> Result<Process> {
    let address = host.address().to_string();
    let mut command = Command::new("turnserver");
    command.args(["-n", "--use-auth-secret", "--no-tls", "--no-dtls", "--no-cli", "--no-tcp"]);
    command.args(["--no-multicast-peers", "--user-quota=2", "--log-file=stdout"]);
    command.args(["--simple-log", "--realm=punchcast"]);
    command.arg(format!("--static-auth-secret={secret}"));
    command.arg(format!("--listening-port={port}"));
    command.args([format!("--listening-ip={address}"), format!("--relay-ip={address}")]);
    for (flag, file) in [("--pidfile", "coturn.pid"), ("--userdb", "coturn.db")] {
        command.arg(flag).arg(lab.folder().join(file));
    }
    let coturn = host.spawn("coturn", &command)?;
    coturn.wait_for_line(START, |line| line.contains("SQLite DB connection success"))?;
    Ok(coturn)
}
