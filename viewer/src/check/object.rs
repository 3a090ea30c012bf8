//! What `check --json` prints.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use protocol::behaviour::{Chance, Kind, Ports, direct};
use serde::Serialize;
use transport::discovery::Report;

/// One JSON object; what is not known is null. docs/nat.md explains the keys.
#[derive(Debug, Serialize)]
pub(crate) struct Object {
    kind: &'static str,
    translated: Option<bool>,
    mapping: Option<&'static str>,
    filtering: Option<&'static str>,
    ports: Option<&'static str>,
    port_step: Option<i16>,
    port_parity: Option<&'static str>,
    next_port: Option<u16>,
    takes_unsolicited: Option<bool>,
    hairpin: Option<bool>,
    local: SocketAddr,
    external: SocketAddr,
    server: SocketAddr,
    second_port: bool,
    second_address: bool,
    rtt_ms: f64,
    /// By the kind of the other side.
    direct: BTreeMap<&'static str, &'static str>,
}

impl Object {
    pub(crate) fn new(server: SocketAddr, report: &Report) -> Self {
        let behaviour = &report.behaviour;
        let chance = |kind: Kind| (kind.as_str(), direct(behaviour, &kind.behaviour()));
        let parity = |kept| if kept { "preserved" } else { "not_preserved" };
        Self {
            kind: behaviour.kind().as_str(),
            translated: behaviour.translated,
            mapping: behaviour.mapping.map(|mapping| mapping.as_str()),
            filtering: behaviour.filtering.map(|filtering| filtering.as_str()),
            ports: behaviour.ports.map(|ports| ports.as_str()),
            port_step: behaviour.ports.and_then(|ports| match ports {
                Ports::Sequential { step } => Some(step),
                _ => None,
            }),
            port_parity: report.parity_preserved.map(parity),
            next_port: report.next_port,
            takes_unsolicited: behaviour.takes_unsolicited,
            hairpin: behaviour.hairpin,
            local: report.local,
            external: report.external,
            server,
            second_port: report.second_port,
            second_address: report.second_address,
            rtt_ms: (report.rtt.as_secs_f64() * 1e5).round() / 100.0,
            direct: Kind::KNOWN
                .into_iter()
                .map(chance)
                .map(|(kind, chance): (_, Chance)| (kind, chance.as_str()))
                .collect(),
        }
    }
}
