//! Running `lab-probe` in hosts.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use tests::lab::{self, Capture, Datagram, Host, Process, Result, Signal};

/// Long enough for anything that should happen at once, on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Starts echo servers, and returns when they answer.
pub(crate) fn serve(host: &Host, ports: &[u16]) -> Result<Process> {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let server = host.spawn("serve", probe()?.arg("serve").args(ports))?;
    server.wait_for_line(LONG, |line| line == "ready")?;
    Ok(server)
}

/// A socket that has asked servers how they see it, and still listens.
pub(crate) struct Asked {
    process: Process,
}

/// Asks each server in turn from one port.
pub(crate) fn ask(
    host: &Host,
    port: u16,
    servers: &[impl Into<SocketAddr> + Copy],
) -> Result<Asked> {
    let servers = servers.iter().map(|server| (*server).into().to_string());
    let process = host.spawn("ask", probe()?.arg("ask").arg(port.to_string()).args(servers))?;
    process.wait_for_line(LONG, |line| line == "asked")?;
    Ok(Asked { process })
}

impl Asked {
    /// What the servers saw, in the order asked; without those that did not answer.
    pub(crate) fn endpoints(&self) -> Result<Vec<SocketAddr>> {
        let lines = self.process.stdout().lines();
        let mapped = lines.iter().filter(|line| line.starts_with("mapped "));
        Ok(mapped.map(|line| last_word(line)).collect())
    }

    /// The datagrams that came, up to and including `last`.
    pub(crate) fn received_until(&self, last: &str) -> Result<Vec<String>> {
        self.process.wait_for_line(LONG, |line| line.ends_with(last))?;
        let lines = self.process.stdout().lines();
        Ok(lines
            .iter()
            .filter_map(|line| Some(line.strip_prefix("got ")?.split_once(' ')?.1.to_owned()))
            .collect())
    }

    /// Sets the port free.
    pub(crate) fn close(self) -> Result<()> {
        self.process.kill(Signal::SIGKILL)?;
        self.process.wait(LONG).map(drop)
    }
}

/// Makes the server on `port` of `host` send `text` to `target` from that port.
pub(crate) fn tell(host: &Host, port: u16, target: SocketAddr, text: &str) -> Result<()> {
    let loopback: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let server = SocketAddr::new(loopback, port).to_string();
    host.run(probe()?.args(["send", "0", &server]).arg(format!("tell {target} {text}"))).map(drop)
}

/// Round-trip times, one after the other.
pub(crate) fn round_trips(
    host: &Host,
    server: (Ipv4Addr, u16),
    count: u32,
) -> Result<Vec<Duration>> {
    let server = SocketAddr::from(server).to_string();
    let out = host.run(probe()?.args(["ping", &server, &count.to_string()]))?;
    Ok(out.lines().map(|line| Duration::from_micros(last_word(line))).collect())
}

/// The mean of the best quarter: the rest also tells how busy the machine was.
pub(crate) fn mean_round_trip(round_trips: &[Duration]) -> Duration {
    let mut sorted = round_trips.to_vec();
    sorted.sort();
    let best = &sorted[..sorted.len().div_ceil(4)];
    best.iter().sum::<Duration>() / u32::try_from(best.len()).expect("tests ping a few times")
}

/// Sends numbered datagrams evenly.
pub(crate) fn blast(
    host: &Host,
    target: (Ipv4Addr, u16),
    count: u32,
    length: u32,
    per_second: u32,
) -> Result<()> {
    let target = SocketAddr::from(target).to_string();
    let numbers = [count, length, per_second].map(|number| number.to_string());
    host.run(probe()?.args(["blast", &target]).args(numbers)).map(drop)
}

/// Sends numbered datagrams with one call, which the kernel segments.
pub(crate) fn burst(host: &Host, target: (Ipv4Addr, u16), count: u32, length: u32) -> Result<()> {
    let target = SocketAddr::from(target).to_string();
    let numbers = [count, length].map(|number| number.to_string());
    host.run(probe()?.args(["burst", &target]).args(numbers)).map(drop)
}

/// The numbers of the datagrams of [`blast`] or [`burst`] that a capture saw.
pub(crate) fn numbers(capture: Capture) -> Result<Vec<u32>> {
    let datagrams = capture.stop()?;
    let number =
        |datagram: &Datagram| datagram.payload.first_chunk().copied().map(u32::from_be_bytes);
    Ok(datagrams.iter().filter_map(number).collect())
}

/// The last word of a line that `lab-probe` wrote.
fn last_word<T: std::str::FromStr>(line: &str) -> T {
    let word = line.split(' ').next_back().unwrap_or_default();
    word.parse().unwrap_or_else(|_| panic!("lab-probe wrote `{line}`"))
}

/// The IP address of an endpoint, as IPv4.
pub(crate) fn ipv4(endpoint: SocketAddr) -> Ipv4Addr {
    match endpoint.ip() {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("expected IPv4, got {address}"),
    }
}

fn probe() -> Result<Command> {
    lab::binary("lab-probe").map(Command::new)
}
