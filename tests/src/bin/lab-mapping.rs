//! Holds a port mapping, and tells what comes of it.
//!
//! `lab-mapping PORT LIFETIME CHECK-INTERVAL`, the last two in whole seconds, prints
//! `mapped PROTOCOL ENDPOINT` or `none` whenever that changes, and `got SOURCE TEXT` for each datagram
//! that comes to the port. On SIGTERM it releases the mapping, prints `released` and ends; on SIGINT
//! it drops the mapping, prints `dropped` and goes on.

use std::{env, net::Ipv4Addr, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    net::UdpSocket,
    signal::unix::{SignalKind, signal},
};
use tracing::Level;
use transport::mapping::{PortMapping, Timing};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(Level::DEBUG)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let arguments: Vec<u16> = env::args()
        .skip(1)
        .map(|argument| argument.parse())
        .collect::<Result<_, _>>()
        .context("arguments must be numbers")?;
    let [port, lifetime, check_interval] = arguments[..] else {
        bail!("expected PORT LIFETIME CHECK-INTERVAL, got {arguments:?}");
    };
    let seconds = |number: u16| Duration::from_secs(number.into());
    let timing = Timing { lifetime: seconds(lifetime), check_interval: seconds(check_interval) };

    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    let (mut terminated, mut interrupted) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mapping = PortMapping::start_with(port, timing);
    let mut changes = mapping.watch();
    let mut mapping = Some(mapping);
    let mut buffer = [0; 2048];
    loop {
        tokio::select! {
            // Without a mapping there are no more changes.
            Ok(()) = changes.changed() => match *changes.borrow_and_update() {
                Some(mapped) => println!("mapped {} {}", mapped.protocol, mapped.external),
                None => println!("none"),
            },
            received = socket.recv_from(&mut buffer) => {
                let (length, source) = received?;
                println!("got {source} {}", String::from_utf8_lossy(&buffer[..length]));
            }
            _ = interrupted.recv() => {
                drop(mapping.take());
                println!("dropped");
            }
            _ = terminated.recv() => {
                if let Some(mapping) = mapping {
                    mapping.release().await;
                }
                println!("released");
                return Ok(());
            }
        }
    }
}
