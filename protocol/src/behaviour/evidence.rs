//! What the answers to discovery's questions mean.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::discovery::{FIRST, STOLEN};
use super::ports::{self, Mapped};
use super::probe::{Probe, Purpose};
use super::{Behaviour, Dependence, Ports, Report};

pub(super) struct Evidence<'a> {
    pub(super) probes: &'a [Probe],
    pub(super) local: &'a [SocketAddr],
    pub(super) server: SocketAddr,
    pub(super) other_address: Option<IpAddr>,
    pub(super) other_port: Option<u16>,
    pub(super) rtt: Duration,
}

impl Evidence<'_> {
    /// All that can be concluded; `None` if there was no answer.
    pub(super) fn report(&self) -> Option<Report> {
        let external = self.first_mapped(FIRST)?;
        let mapping = self.mapping();
        let mapped = self.new_mappings();
        let ports = match mapping {
            Some(Dependence::Independent) => ports::of_independent(&mapped),
            Some(_) => ports::of_dependent(&mapped),
            // Without other destinations: ports that are kept for all, or follow one another.
            None => ports::of_dependent(&mapped).filter(|ports| *ports != Ports::Random),
        };
        let translated = self.translated();
        let behaviour = Behaviour {
            translated,
            mapping,
            filtering: self.filtering(),
            ports,
            takes_unsolicited: self.takes_unsolicited(),
            hairpin: self.hairpin(),
        };
        let next_port = match ports {
            Some(Ports::Sequential { step }) => ports::next(&mapped, step),
            _ => None,
        };
        Some(Report {
            behaviour,
            local: self.local[FIRST],
            external,
            second_port: self.reaches_port(),
            second_address: self.reaches_address(),
            next_port,
            parity_preserved: ports::parity_preserved(&mapped).filter(|_| translated == Some(true)),
            rtt: self.rtt,
        })
    }

    pub(super) fn translated(&self) -> Option<bool> {
        Some(self.first_mapped(FIRST)? != self.local[FIRST])
    }

    /// RFC 5780, section 4.3, with all four destinations asked at once.
    pub(super) fn mapping(&self) -> Option<Dependence> {
        let first = self.first_mapped(FIRST)?;
        let towards =
            |ip: Option<IpAddr>, port: Option<u16>| self.mapped(FIRST, SocketAddr::new(ip?, port?));
        let (ip, port) = (Some(self.server.ip()), Some(self.server.port()));
        let other_port = towards(ip, self.other_port);
        let other_address = towards(self.other_address, port);
        let both = towards(self.other_address, self.other_port);
        if other_port.is_some_and(|other| other != first) {
            return Some(Dependence::AddressAndPort);
        }
        match (other_address, both) {
            (Some(one), Some(two)) if one != two => Some(Dependence::AddressAndPort),
            (Some(same), _) | (None, Some(same)) if same == first => Some(Dependence::Independent),
            (Some(_), Some(_)) => Some(Dependence::Address),
            (Some(_), None) | (None, Some(_)) => other_port.map(|_| Dependence::Address),
            (None, None) => other_port.map(|_| Dependence::Independent),
        }
    }

    /// RFC 5780, section 4.4, with both questions asked at once. That an answer does not come in counts
    /// only if the place that it should come from is known to be reached.
    fn filtering(&self) -> Option<Dependence> {
        let mut asked = self.probes.iter().filter(|probe| is_filtering(probe)).peekable();
        asked.peek()?;
        let refused = asked.clone().any(|probe| probe.refused);
        let came: Vec<SocketAddr> = asked.filter_map(|probe| Some(probe.seen?.from)).collect();
        if came.iter().any(|from| from.ip() != self.server.ip()) {
            Some(Dependence::Independent)
        } else if came.iter().any(|from| *from != self.server) {
            Some(if self.reaches_address() { Dependence::Address } else { Dependence::Independent })
        } else {
            // Or it answered from where it was asked, as if it had not understood.
            let obeyed = came.is_empty() && !refused;
            (obeyed && self.reaches_port()).then_some(Dependence::AddressAndPort)
        }
    }

    /// Where an answer was to come from that did not come in, if asking there can tell whether the
    /// router took it.
    pub(super) fn unsolicited_from(&self) -> Option<SocketAddr> {
        let probe = self.probes.iter().find(|probe| is_unsolicited(probe))?;
        let Purpose::Unsolicited(change) = probe.purpose else { return None };
        let ip = if change.address { self.other_address? } else { self.server.ip() };
        let place = SocketAddr::new(ip, self.other_port?);
        let telling = probe.seen.is_none()
            && !probe.refused
            && self.mapping() == Some(Dependence::Independent)
            && self.first_mapped(STOLEN).is_some()
            && self.mapped(FIRST, place).is_some();
        telling.then_some(place)
    }

    fn takes_unsolicited(&self) -> Option<bool> {
        let probe = self.probes.iter().find(|probe| is_unsolicited(probe))?;
        if probe.seen.is_some_and(|seen| seen.from != self.server) {
            // It came in.
            return Some(false);
        }
        let before = self.first_mapped(STOLEN)?;
        Some(self.mapped(STOLEN, self.unsolicited_from()?)? != before)
    }

    fn hairpin(&self) -> Option<bool> {
        let mut asked =
            self.probes.iter().filter(|probe| probe.purpose == Purpose::Hairpin).peekable();
        asked.peek()?;
        Some(asked.any(|probe| probe.seen.is_some()))
    }

    /// The external address and port of a socket towards the server.
    pub(super) fn first_mapped(&self, socket: usize) -> Option<SocketAddr> {
        self.mapped(socket, self.server)
    }

    fn mapped(&self, socket: usize, to: SocketAddr) -> Option<SocketAddr> {
        self.mappings().find(|probe| probe.socket == socket && probe.to == to)?.mapped()
    }

    /// Questions for a mapping that were answered, in the order in which they were asked.
    fn mappings(&self) -> impl Iterator<Item = &Probe> {
        let asked = |probe: &&Probe| probe.purpose == Purpose::Mapping && probe.seen.is_some();
        self.probes.iter().filter(asked)
    }

    /// The mappings of all sockets, each once, in the order in which they were made, without one that
    /// may have been stolen.
    fn new_mappings(&self) -> Vec<Mapped> {
        let mut seen = Vec::new();
        let honest = |probe: &&Probe| probe.socket != STOLEN || probe.to == self.server;
        for probe in self.mappings().filter(honest) {
            let inner = self.local[probe.socket].port();
            let outer = probe.mapped().map_or(inner, |mapped| mapped.port());
            let mapped = Mapped { inner, outer };
            if !seen.contains(&mapped) {
                seen.push(mapped);
            }
        }
        seen
    }

    /// Whether the server answered at its other port.
    fn reaches_port(&self) -> bool {
        self.mappings().any(|probe| probe.to.port() != self.server.port())
    }

    /// Whether the server answered at its other address.
    fn reaches_address(&self) -> bool {
        self.mappings().any(|probe| probe.to.ip() != self.server.ip())
    }
}

fn is_filtering(probe: &Probe) -> bool {
    matches!(probe.purpose, Purpose::Filtering(_))
}

fn is_unsolicited(probe: &Probe) -> bool {
    matches!(probe.purpose, Purpose::Unsolicited(_))
}
