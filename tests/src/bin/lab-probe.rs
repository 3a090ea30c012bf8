//! A small UDP program for finding out what a network does.
//!
//! Addresses are of either family.
//!
//! - `serve PORT…` answers `who` with the source it saw and `ping…` with the same; sends TEXT to
//!   ENDPOINT when told `tell ENDPOINT TEXT`.
//! - `ask PORT SERVER…` asks each server `who` from one socket, printing `mapped SERVER ENDPOINT`;
//!   then prints each datagram as `got SOURCE TEXT`.
//! - `send PORT TARGET TEXT` sends one datagram.
//! - `ping SERVER COUNT` prints a round-trip time in microseconds a line.
//! - `blast TARGET COUNT LENGTH PER-SECOND` sends numbered datagrams evenly.
//! - `burst TARGET COUNT LENGTH` sends numbered datagrams with one call, which the kernel segments.
//! - `flows TARGET PER-SECOND COUNT` sends one small datagram from each of many ports, evenly, printing
//!   `open` after the first and `done` after the last.

use std::{
    env,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

/// Between two tries to reach a server.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Tries to reach a server.
const TRIES: usize = 10;
/// Between two pings: longer than any round trip that is measured.
const PING_INTERVAL: Duration = Duration::from_millis(10);
/// The ports that `flows` sends from: below those that the kernel gives to others.
const FLOW_PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Datagrams that `blast` sends without looking at the clock.
const BLAST_GROUP: u32 = 8;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match &words[..] {
        ["serve", ports @ ..] => serve(ports),
        ["ask", port, servers @ ..] => {
            let servers: Vec<SocketAddr> =
                servers.iter().map(|server| server.parse()).collect::<Result<_, _>>()?;
            let first = servers.first().context("no server named")?;
            ask(bind(port.parse()?, first)?, &servers)
        }
        ["send", port, target, text] => {
            let target = target.parse()?;
            bind(port.parse()?, &target)?.send_to(text.as_bytes(), target)?;
            Ok(())
        }
        ["ping", server, count] => ping(server, count.parse()?),
        ["blast", target, count, length, rate] => {
            blast(target, count.parse()?, length.parse()?, rate.parse()?)
        }
        ["burst", target, count, length] => burst(target, count.parse()?, length.parse()?),
        ["flows", target, per_second, count] => {
            flows(target.parse()?, per_second.parse()?, count.parse()?)
        }
        _ => bail!("unknown arguments {words:?}"),
    }
}

/// A socket at a port, of the family of its peer.
fn bind(port: u16, peer: &SocketAddr) -> anyhow::Result<UdpSocket> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, port)).with_context(|| format!("binding port {port}"))
}

/// Sockets at a port for both families, or for IPv4 where there is no IPv6.
fn bind_both(port: u16) -> anyhow::Result<Vec<UdpSocket>> {
    let mut sockets = vec![UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?];
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    socket.set_only_v6(true)?;
    match socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into()) {
        Ok(()) => sockets.push(socket.into()),
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {}
        Err(error) => return Err(error.into()),
    }
    Ok(sockets)
}

fn serve(ports: &[&str]) -> anyhow::Result<()> {
    let mut sockets = Vec::new();
    for port in ports {
        sockets.extend(bind_both(port.parse()?).with_context(|| format!("binding port {port}"))?);
    }
    println!("ready");
    thread::scope(|scope| {
        for socket in &sockets {
            scope.spawn(move || {
                let mut buffer = [0; 2048];
                // Errors are about datagrams sent before (ICMP), and concern nobody.
                loop {
                    let Ok((length, source)) = socket.recv_from(&mut buffer) else {
                        continue;
                    };
                    let text = String::from_utf8_lossy(&buffer[..length]);
                    let _ = match text.split_once(' ') {
                        Some(("tell", rest)) => match rest.split_once(' ') {
                            Some((target, told)) => socket.send_to(told.as_bytes(), target),
                            None => continue,
                        },
                        Some(("ping", _)) => socket.send_to(text.as_bytes(), source),
                        _ => socket.send_to(source.to_string().as_bytes(), source),
                    };
                }
            });
        }
    });
    Ok(())
}

fn ask(socket: UdpSocket, servers: &[SocketAddr]) -> anyhow::Result<()> {
    let mut buffer = [0; 2048];
    socket.set_read_timeout(Some(RETRY_INTERVAL))?;
    'servers: for server in servers {
        for _ in 0..TRIES {
            socket.send_to(b"who", server)?;
            while let Ok((length, source)) = socket.recv_from(&mut buffer) {
                if source == *server {
                    println!("mapped {server} {}", String::from_utf8_lossy(&buffer[..length]));
                    continue 'servers;
                }
            }
        }
        println!("silent {server}");
    }
    println!("asked");
    socket.set_read_timeout(None)?;
    loop {
        if let Ok((length, source)) = socket.recv_from(&mut buffer) {
            println!("got {source} {}", String::from_utf8_lossy(&buffer[..length]));
        }
    }
}

fn ping(server: &str, count: u32) -> anyhow::Result<()> {
    let socket = bind(0, &server.parse()?)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut buffer = [0; 2048];
    for number in 0..count {
        let text = format!("ping {number}");
        let sent_at = Instant::now();
        socket.send(text.as_bytes())?;
        let length =
            socket.recv(&mut buffer).with_context(|| format!("no answer to ping {number}"))?;
        println!("{}", sent_at.elapsed().as_micros());
        if &buffer[..length] != text.as_bytes() {
            bail!("expected {text:?}, got {:?}", String::from_utf8_lossy(&buffer[..length]));
        }
        thread::sleep(PING_INTERVAL);
    }
    Ok(())
}

fn blast(target: &str, count: u32, length: usize, per_second: u32) -> anyhow::Result<()> {
    // Not connected, so that answers of a kernel without a receiver are no errors.
    let socket = bind(0, &target.parse()?)?;
    let mut payload = vec![0; length.max(4)];
    let start = Instant::now();
    for number in 0..count {
        if number % BLAST_GROUP == 0 {
            let due_at = start + Duration::from_secs(1) * number / per_second.max(1);
            thread::sleep(due_at.saturating_duration_since(Instant::now()));
        }
        payload[..4].copy_from_slice(&number.to_be_bytes());
        socket.send_to(&payload, target)?;
    }
    println!("sent {count} in {:?}", start.elapsed());
    Ok(())
}

fn flows(target: SocketAddr, per_second: u32, count: u16) -> anyhow::Result<()> {
    if usize::from(count) > FLOW_PORTS.len() {
        bail!("{count} flows are more than the {} ports for them", FLOW_PORTS.len());
    }
    let start = Instant::now();
    for (number, port) in FLOW_PORTS.take(count.into()).enumerate() {
        let due_at = start + Duration::from_secs(1) * u32::try_from(number)? / per_second.max(1);
        thread::sleep(due_at.saturating_duration_since(Instant::now()));
        bind(port, &target)?.send_to(b"flow", target)?;
        if number == 0 {
            println!("open");
        }
    }
    println!("done");
    Ok(())
}

fn burst(target: &str, count: u32, length: u16) -> anyhow::Result<()> {
    let socket = bind(0, &target.parse()?)?;
    setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(length))
        .context("asking for segmentation")?;
    let mut payload = Vec::new();
    for number in 0..count {
        payload.extend(number.to_be_bytes());
        payload.resize(payload.len() + usize::from(length).saturating_sub(4), 0);
    }
    socket.send_to(&payload, target)?;
    Ok(())
}
