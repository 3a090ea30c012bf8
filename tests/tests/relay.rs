//! The relay, both ends, and each of them with coturn at the other end.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tests::coturn;
use tests::lab::{self, Host, Lab, Nat, Process, Result, Signal, eventually};

const LONG: Duration = Duration::from_secs(20);

/// The relay's port; the rendezvous's is two below.
const PORT: u16 = 3480;

/// Where the rendezvous's metrics are, on its own loopback.
const METRICS: &str = "127.0.0.1:9401";

/// What the rendezvous and coturn share.
const SECRET: &str = "between-the-two-of-us";

/// Names that credentials are made for; each has its own quota.
const NAMES: [&str; 8] = ["one", "two", "three", "four", "five", "six", "seven", "eight"];

/// A relay with credentials for it.
struct Relay {
    at: SocketAddr,
    /// The rendezvous, which has made the credentials.
    rendezvous: Process,
    /// Ends with the lab.
    _coturn: Option<Process>,
}

impl Relay {
    fn ours(lab: &Lab, host: &Host, settings: &str) -> Result<Self> {
        let rendezvous = rendezvous(lab, host, settings)?;
        Ok(Self { at: (host.address(), PORT).into(), rendezvous, _coturn: None })
    }

    fn coturn(lab: &Lab, host: &Host) -> Result<Self> {
        let address = host.address();
        let coturn = coturn::start(lab, host, PORT, SECRET)?;
        let settings = format!("mode: external\n  server: {address}:{PORT}\n  secret: {SECRET}");
        let rendezvous = rendezvous(lab, host, &settings)?;
        Ok(Self { at: (host.address(), PORT).into(), rendezvous, _coturn: Some(coturn) })
    }

    /// Username and password of this kind for this name.
    fn credentials(&self, kind: &str, name: &str) -> [String; 2] {
        let lines = self.rendezvous.stdout().lines();
        let prefix = format!("{kind} {name} ");
        let found = lines.iter().find_map(|line| line.strip_prefix(&prefix)?.split_once(' '));
        let (username, password) = found.expect("credentials for every name");
        [username.to_owned(), password.to_owned()]
    }

    /// The error codes of the answers to these steps, 0 for a success.
    fn probe(&self, from: &Host, credentials: &[String; 2], steps: &[&str]) -> Result<Vec<u16>> {
        let server = self.at.to_string();
        let out = from.run(
            Command::new(lab::binary("lab-turn")?)
                .args(["probe", &server])
                .args(credentials)
                .args(steps),
        )?;
        let code = |line: &str| line.rsplit(' ').next()?.parse().ok();
        Ok(out.lines().map(|line| code(line).expect("a code")).collect())
    }

    /// Starts our client, and waits until as many pings were answered. Gives its relayed address.
    fn carry(&self, from: &Host, name: &str, peer: SocketAddr) -> Result<(Process, SocketAddr)> {
        let [server, peer] = [self.at, peer].map(|address| address.to_string());
        let mut command = Command::new(lab::binary("lab-turn")?);
        command.args(["carry", &server]).args(self.credentials("good", name));
        command.args([peer.as_str(), "20"]);
        let client = from.spawn(name, &command)?;
        client.wait_for_line(LONG, |line| line == "pinged")?;
        let relayed = client.wait_for_line(LONG, |line| line.starts_with("relayed"))?;
        let relayed = relayed.split(' ').next_back().and_then(|address| address.parse().ok());
        Ok((client, relayed.expect("an address")))
    }
}

fn rendezvous(lab: &Lab, host: &Host, settings: &str) -> Result<Process> {
    let config = lab.folder().join("rendezvous.yaml");
    let listen = PORT - 2;
    let yaml = format!("listen: 0.0.0.0:{listen}\nrelay:\n  {settings}\n");
    fs::write(&config, yaml).expect("the lab's folder can be written");
    let mut command = Command::new(lab::binary("lab-turn")?);
    command.arg("serve").arg(&config).arg(METRICS).args(NAMES);
    let process = host.spawn("rendezvous", &command)?;
    process.wait_for_line(LONG, |line| line == "ready")?;
    Ok(process)
}

/// What one of the rendezvous's metrics says now.
fn metric(host: &Host, series: &str) -> Result<u64> {
    let url = format!("http://{METRICS}/metrics");
    let text = host.run(Command::new("curl").args(["--silent", "--fail", &url]))?;
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    Ok(value.unwrap_or_else(|| panic!("no {series} in:\n{text}")))
}

/// A relay, a peer that answers pings, and a viewer whose NAT leaves it no other way.
fn network() -> Result<(Lab, Host, Host, Host, SocketAddr)> {
    let mut lab = Lab::new()?;
    let server = lab.public_host("server")?;
    let broadcaster = lab.public_host("broadcaster")?;
    let router = lab.router("router", Nat::RandomPerDestination)?;
    let viewer = lab.host_behind(&router, "viewer")?;
    let answering = broadcaster
        .spawn("probe", Command::new(lab::binary("lab-probe")?).args(["serve", "5000"]))?;
    answering.wait_for_line(LONG, |line| line == "ready")?;
    let peer = (broadcaster.address(), 5000).into();
    Ok((lab, server, broadcaster, viewer, peer))
}

/// Bursts as a fan-out sends them come through whole, in order and in time.
fn check_bursts(client: &Process, broadcaster: &Host, relayed: SocketAddr) -> Result<()> {
    let target = relayed.to_string();
    for burst in 1..=10 {
        broadcaster
            .run(Command::new(lab::binary("lab-probe")?).args(["burst", &target, "50", "1200"]))?;
        let received = || client.stdout().lines().iter().filter(|l| l.ends_with(" 1200")).count();
        assert!(eventually(LONG, || received() == burst * 50), "{} of {}", received(), burst * 50);
    }
    Ok(())
}

#[test]
fn our_relay_carries_data_both_ways() -> Result<()> {
    let (lab, server, broadcaster, viewer, peer) = network()?;
    let relay = Relay::ours(&lab, &server, "mode: embedded")?;
    let (client, relayed) = relay.carry(&viewer, "one", peer)?;
    assert_eq!(relayed.ip(), server.address());
    assert_eq!(metric(&server, "punchcast_relay_allocations ")?, 1);
    check_bursts(&client, &broadcaster, relayed)?;
    assert!(metric(&server, "punchcast_relay_bytes_total ")? > 500 * 1200);
    client.kill(Signal::SIGTERM)?;
    assert!(client.wait(LONG)?.success());
    let allocations = || metric(&server, "punchcast_relay_allocations ");
    assert!(eventually(LONG, || allocations().is_ok_and(|now| now == 0)));
    relay.rendezvous.kill(Signal::SIGTERM)?;
    assert!(relay.rendezvous.wait(LONG)?.success());
    Ok(())
}

#[test]
fn coturn_carries_data_both_ways() -> Result<()> {
    let (lab, server, broadcaster, viewer, peer) = network()?;
    let relay = Relay::coturn(&lab, &server)?;
    let (client, relayed) = relay.carry(&viewer, "one", peer)?;
    assert_eq!(relayed.ip(), server.address());
    check_bursts(&client, &broadcaster, relayed)?;
    client.kill(Signal::SIGTERM)?;
    assert!(client.wait(LONG)?.success());
    Ok(())
}

/// As behind a 1:1 NAT, whose address the machine itself does not have.
#[test]
fn an_external_address_is_told() -> Result<()> {
    let (lab, server, _, viewer, peer) = network()?;
    let told = server.add_address()?;
    let relay = Relay::ours(&lab, &server, &format!("external_address: {told}"))?;
    let (_client, relayed) = relay.carry(&viewer, "one", peer)?;
    assert_eq!(relayed.ip(), told);
    Ok(())
}

#[test]
fn our_relay_refuses_what_coturn_refuses() -> Result<()> {
    let mut lab = Lab::new()?;
    let hosts = [lab.public_host("ours")?, lab.public_host("coturn")?];
    let client = lab.public_host("client")?;
    let ours = Relay::ours(&lab, &hosts[0], "allocations_per_viewer: 2")?;
    let coturn = Relay::coturn(&lab, &hosts[1])?;
    let good = |relay: &Relay, name: &str| relay.credentials("good", name);
    let wrong = |relay: &Relay, name: &str| [good(relay, name)[0].clone(), "wrong".to_owned()];
    let expired = |relay: &Relay, name: &str| relay.credentials("expired", name);
    type Credentials<'a> = &'a dyn Fn(&Relay, &str) -> [String; 2];
    let table: [(&str, Credentials<'_>, &[&str], &[u16]); 8] = [
        ("no credentials", &good, &["bare"], &[401]),
        ("a wrong password", &wrong, &["allocate"], &[401]),
        ("expired credentials", &expired, &["allocate"], &[401]),
        (
            "forbidden peers",
            &good,
            &[
                "allocate",
                "permit:127.0.0.1",
                "permit:0.0.0.0",
                "permit:224.0.0.1",
                "bind:127.0.0.1:9",
                "bind:224.0.0.1:9",
                "permit:198.18.0.9",
            ],
            &[0, 403, 403, 403, 403, 403, 0],
        ),
        (
            "a quota",
            &good,
            &["allocate", "another", "allocate", "another", "allocate"],
            &[0, 0, 0, 0, 486],
        ),
        (
            "channels",
            &good,
            &["allocate", "bind:198.18.0.9:9", "rebind:198.18.0.9:9", "rebind:198.18.0.8:9"],
            &[0, 0, 0, 400],
        ),
        (
            "allocations",
            &good,
            &["refresh", "no-transport", "unknown", "stale", "allocate", "allocate", "refresh"],
            &[437, 400, 420, 438, 0, 437, 0],
        ),
        (
            "another family",
            &good,
            &["allocate", "permit:2001:db8::1", "bind:[2001:db8::1]:9", "free"],
            &[0, 443, 443, 0],
        ),
    ];
    for (name, (what, credentials, steps, expected)) in NAMES.into_iter().zip(table) {
        let codes = |relay: &Relay| relay.probe(&client, &credentials(relay, name), steps);
        assert_eq!(codes(&coturn)?, expected, "{what}, coturn");
        assert_eq!(codes(&ours)?, expected, "{what}, ours");
    }
    // coturn keeps a freed allocation for a while.
    let steps = ["allocate", "free", "permit:198.18.0.9"];
    assert_eq!(ours.probe(&client, &good(&ours, "eight"), &steps)?, [0, 0, 437]);
    let rejected = |reason: &str| {
        metric(&hosts[0], &format!("punchcast_relay_rejected_total{{reason=\"{reason}\"}} "))
    };
    assert_eq!(rejected("unauthorized")?, 2);
    assert_eq!(rejected("forbidden")?, 5);
    assert_eq!(rejected("quota")?, 1);
    Ok(())
}
