//! A viewer that names addresses which are not its own: it has itself introduced to a broadcaster, and
//! says that it is reached where a victim is, and at addresses that nobody may be sent to.
//!
//! `lab-liar RENDEZVOUS LINK VICTIM RENEWALS [MORE]` prints `introduced ID` for the introduction and for each
//! renewal, has itself introduced so many more times, prints `lied`, and stays until it is killed.

use std::{env, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use protocol::{
    behaviour::{Behaviour, Dependence, Ports},
    candidate::{Candidate, CandidateKind},
    link::Link,
    signalling::{Forecast, FromRendezvous, Introduction, Party, ToRendezvous, Update},
};
use transport::{
    port::{Deaf, Port},
    signalling::Signalling,
};

/// Nobody may be sent to at these on the word of a peer: loopback, link-local, multicast, broadcast,
/// unspecified, and forms of them, and a private address of somebody's network.
const FORBIDDEN: [&str; 8] = [
    "127.0.0.1:9",
    "169.254.1.1:9",
    "224.0.0.1:9",
    "255.255.255.255:9",
    "0.0.0.0:9",
    "192.168.1.1:53",
    "[::1]:9",
    "[::ffff:127.0.0.1]:9",
];

/// From one renewal to the next.
const RENEWAL_INTERVAL: Duration = Duration::from_millis(500);

/// Further introductions that it asks for on one connection.
const EACH: u32 = 20;

/// Sockets that it says it has opened, for the broadcaster to search.
const SOCKETS: u16 = 256;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (more, arguments) = match &arguments[..] {
        [first @ .., more] if first.len() == 4 => (more.parse::<u32>()?, first),
        all => (0, all),
    };
    let [rendezvous, link, victim, renewals] = arguments else {
        bail!("expected RENDEZVOUS LINK VICTIM RENEWALS [MORE], got {arguments:?}");
    };
    let (rendezvous, link): (SocketAddr, Link) = (rendezvous.parse()?, link.parse()?);
    let (victim, renewals): (SocketAddr, u32) = (victim.parse()?, renewals.parse()?);
    let port = Port::open(None, None, |_, _| Arc::new(Deaf))?;
    let mut signalling = Signalling::connect(&port, &[rendezvous], None).await?;

    let behaviour = Behaviour {
        mapping: Some(Dependence::AddressAndPort),
        ports: Some(Ports::Random),
        ..Behaviour::default()
    };
    let party = Party { candidates: lies(victim, CandidateKind::Host), behaviour };
    let mut renews = None;
    for _ in 0..=renewals {
        let ask =
            ToRendezvous::Introduce { broadcaster: link.broadcaster, party: party.clone(), renews };
        signalling.send(&ask).await?;
        let introduction = introduction(&mut signalling).await?;
        println!("introduced {}", introduction.id);
        renews = Some(introduction.id);
        for kind in CandidateKind::ALL {
            let candidates = lies(victim, kind);
            let forecast = Some(Forecast { attempt: 0, next: victim.port(), step: 1 });
            let update = Update { candidates, forecast, ..Update::default() };
            signalling
                .send(&ToRendezvous::Update { introduction: introduction.id, update })
                .await?;
        }
        let update = Update { sockets: Some(SOCKETS), ..Update::default() };
        signalling.send(&ToRendezvous::Update { introduction: introduction.id, update }).await?;
        tokio::time::sleep(RENEWAL_INTERVAL).await;
    }
    let mut kept = Vec::new();
    for at in 0..more {
        if at % EACH == 0 {
            kept.push(Signalling::connect(&port, &[rendezvous], None).await?);
        }
        let signalling = kept.last_mut().context("a connection")?;
        let party = Party { candidates: ports(victim), behaviour: Behaviour::default() };
        let broadcaster = link.broadcaster;
        signalling.send(&ToRendezvous::Introduce { broadcaster, party, renews: None }).await?;
        introduction(signalling).await?;
    }
    println!("lied");
    std::future::pending().await
}

/// As many ports of the victim's as an introduction may name and more.
fn ports(victim: SocketAddr) -> Vec<Candidate> {
    let at = |ahead| SocketAddr::new(victim.ip(), victim.port() + ahead);
    (0..16).map(|ahead| Candidate::new(at(ahead), CandidateKind::Host)).collect()
}

async fn introduction(signalling: &mut Signalling) -> anyhow::Result<Introduction> {
    loop {
        match signalling.receive().await? {
            FromRendezvous::Introduction { introduction } => return Ok(introduction),
            FromRendezvous::Refused { reason } => bail!("refused: {}", reason.as_str()),
            FromRendezvous::Registered { .. } | FromRendezvous::Update { .. } => {}
        }
    }
}

/// Forbidden addresses, and ports of the victim's.
fn lies(victim: SocketAddr, kind: CandidateKind) -> Vec<Candidate> {
    let forbidden =
        FORBIDDEN.map(|address| address.parse::<SocketAddr>().context(address).expect("a literal"));
    let victims = (0..4).map(|ahead| SocketAddr::new(victim.ip(), victim.port() + ahead));
    // What a receiver may cut off comes last.
    victims.chain(forbidden).map(|address| Candidate::new(address, kind)).collect()
}
