//! `check`: what kind of NAT or firewall is here, and what will work.

mod object;
mod text;

use std::io::Write;
use std::net::SocketAddr;

use service::exit::{Code, Failure};
use transport::discovery::{Depth, DiscoveryError, Report, discover};

use crate::config::Check;
use crate::reach::{self, Silence};

/// Asks the server, and prints what was found.
pub(crate) async fn run(check: Check) -> Result<(), Failure> {
    let servers = resolve(&check).await?;
    let (server, report) = ask(&servers).await?;
    let printed = if check.json {
        let object = object::Object::new(server, &report);
        serde_json::to_string(&object).expect("plain fields serialize") + "\n"
    } else {
        text::report(server, &report)
    };
    // Whoever reads may have seen enough.
    let _ = std::io::stdout().write_all(printed.as_bytes());
    Ok(())
}

/// The server's addresses to try: one of each family, IPv4 first, since there the NATs are.
async fn resolve(check: &Check) -> Result<Vec<SocketAddr>, Failure> {
    let Check { host, port, .. } = check;
    let unreachable = |what: String| Failure::new(Code::RendezvousUnreachable, what);
    let found = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(|error| {
        unreachable(format!("the name '{host}' cannot be resolved: {error}; check it"))
    })?;
    let found: Vec<SocketAddr> = found.collect();
    let of_family = |wanted: fn(&SocketAddr) -> bool| found.iter().copied().find(wanted);
    let servers: Vec<_> = [of_family(SocketAddr::is_ipv4), of_family(SocketAddr::is_ipv6)]
        .into_iter()
        .flatten()
        .collect();
    if servers.is_empty() {
        return Err(unreachable(format!("the name '{host}' has no address; check it")));
    }
    Ok(servers)
}

async fn ask(servers: &[SocketAddr]) -> Result<(SocketAddr, Report), Failure> {
    let mut silent = None;
    let mut other = None;
    for &server in servers {
        match discover(server, Depth::Full).await {
            Ok(report) => return Ok((server, report)),
            Err(DiscoveryError::NoAnswer(error)) => silent = silent.or(Some((server, error))),
            Err(error) => other = other.or(Some(error)),
        }
    }
    Err(match (silent, other) {
        (Some((server, error)), _) => explain(server, &error).await,
        (None, Some(error @ DiscoveryError::Socket(_))) => Failure::runtime(error),
        (None, error) => {
            let reason = error.map_or_else(String::new, |error| error.to_string());
            let what = format!("{reason}; check this machine's network");
            Failure::new(Code::RendezvousUnreachable, what)
        }
    })
}

async fn explain(server: SocketAddr, error: &dyn std::error::Error) -> Failure {
    match reach::silence(server).await {
        Silence::UdpBlocked => Failure::new(
            Code::NoPath,
            format!(
                "no UDP gets out of here: {error}, though its host answers TCP; a firewall here blocks \
                 UDP: allow outgoing UDP, or use another network"
            ),
        ),
        Silence::NothingListens => Failure::new(
            Code::RendezvousUnreachable,
            format!(
                "nothing listens at {server}; check host and port, and that punchcast-rendezvous is \
                 running there"
            ),
        ),
        Silence::NoWord => Failure::new(
            Code::RendezvousUnreachable,
            format!("{error}; check host and port and this machine's network, and try again"),
        ),
    }
}
