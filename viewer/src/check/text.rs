//! What `check` prints for people.

use std::fmt::{Display, Write};
use std::net::SocketAddr;

use protocol::behaviour::{Behaviour, Chance, Dependence, Kind, direct};
use transport::discovery::Report;

pub(crate) fn report(server: SocketAddr, report: &Report) -> String {
    let mut text = String::new();
    facts(&mut text, server, report);
    chances(&mut text, &report.behaviour);
    let _ = writeln!(text, "\nWhat to do");
    for advice in advice(report) {
        let _ = writeln!(text, "  - {advice}");
    }
    text
}

fn facts(text: &mut String, server: SocketAddr, report: &Report) {
    let Report { behaviour, local, external, .. } = report;
    let mut line = |name: &str, value: &dyn Display| {
        let _ = writeln!(text, "{name:<22}{value}");
    };
    let milliseconds = report.rtt.as_secs_f64() * 1e3;
    line("Server", &format_args!("{server}, {milliseconds:.1} ms away and back"));
    line("Address here", local);
    line("Address outside", external);
    line("Kind", &behaviour.kind());
    let dependence = |known: Option<Dependence>| match known {
        // Only a second address could tell.
        Some(Dependence::Independent) if !report.second_address => {
            "endpoint-independent, or address-dependent: the server has one address, and cannot \
             tell them apart"
                .to_owned()
        }
        known => or_unknown(known),
    };
    line("Mapping", &dependence(behaviour.mapping));
    line("Filtering", &dependence(behaviour.filtering));
    line("External ports", &or_unknown(behaviour.ports));
    if let Some(next) = report.next_port {
        line("Next external port", &next);
    }
    let yes_no = |known: Option<bool>, yes: &str, no: &str| match known {
        Some(true) => yes.to_owned(),
        Some(false) => no.to_owned(),
        None => UNKNOWN.to_owned(),
    };
    line("Port parity", &yes_no(report.parity_preserved, "kept", "not kept"));
    let unsolicited = yes_no(
        behaviour.takes_unsolicited,
        "taken by the router itself, so that they block their port",
        "dropped or let in, never taken by the router itself",
    );
    line("Unsolicited packets", &unsolicited);
    line("Hairpinning", &yes_no(behaviour.hairpin, "yes", "no"));
}

const UNKNOWN: &str = "not known";

fn or_unknown(known: Option<impl Display>) -> String {
    known.map_or_else(|| UNKNOWN.to_owned(), |known| known.to_string())
}

fn chances(text: &mut String, here: &Behaviour) {
    let _ = writeln!(text, "\nThe path to a broadcaster or viewer behind");
    for kind in Kind::KNOWN {
        let chance = direct(here, &kind.behaviour());
        let kind = kind.to_string();
        let _ = writeln!(text, "  {kind:<60}{chance}");
    }
}

/// What would change the table for the better.
fn advice(report: &Report) -> Vec<&'static str> {
    const FORWARD: &str = "Forward a UDP port of the router to the broadcaster, and set it there with \
        --bind; or switch on UPnP, NAT-PMP or PCP in the router.";
    const IPV6: &str = "Use IPv6 on both sides if the providers offer it: there is no NAT.";
    const PROVIDER: &str = "If there is nothing to set in the router, ask the provider for a public \
        address, or for a NAT with endpoint-independent mapping (RFC 4787).";
    let behaviour = &report.behaviour;
    let mut advice = Vec::new();
    if behaviour.kind() == Kind::Unknown {
        advice.push(
            "The server cannot show more: check with a rendezvous whose second UDP port (3479 \
             beside 3478) is let through its firewall.",
        );
    }
    if behaviour.is_dependent() {
        advice.push(FORWARD);
        advice.push(IPV6);
        advice.push(PROVIDER);
    }
    if behaviour.takes_unsolicited == Some(true) {
        advice.push(
            "Let the router drop what comes from outside unasked: a peer that starts earlier than \
             this side can block the path, until another try from a new port.",
        );
    }
    let kinds = Kind::KNOWN.map(|kind| direct(behaviour, &kind.behaviour()));
    if advice.is_empty() {
        if kinds.iter().all(|chance| *chance == Chance::Direct) {
            advice.push("Nothing: a direct path opens to everybody.");
        } else {
            advice.push(
                "Nothing, for most peers. For one whose NAT takes another port for each destination \
                 the help must come from either side:",
            );
            advice.push(FORWARD);
            advice.push(IPV6);
        }
    }
    advice
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn text(kind: Kind) -> String {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let found = Report {
            behaviour: kind.behaviour(),
            local: address("192.168.1.10:5000"),
            external: address("198.51.100.1:5000"),
            second_port: true,
            second_address: true,
            next_port: None,
            parity_preserved: None,
            rtt: Duration::from_millis(20),
        };
        report(address("192.0.2.1:3478"), &found)
    }

    #[test]
    fn every_kind_gets_advice_of_its_own() {
        for (kind, words) in [
            (Kind::Open, &["opens to everybody", "198.51.100.1:5000", "20.0 ms"][..]),
            (Kind::EndpointIndependent, &["opens to everybody"]),
            (Kind::PortRestricted, &["for most peers", "--bind"]),
            (Kind::Random, &["endpoint-independent mapping (RFC 4787)", "search", "only through"]),
            (Kind::Sequential, &["predicted", "+1 from the latest"]),
            (Kind::Unknown, &["3479", "not known"]),
        ] {
            let text = text(kind);
            for word in words {
                assert!(text.contains(word), "{word} is not in:\n{text}");
            }
        }
    }
}
