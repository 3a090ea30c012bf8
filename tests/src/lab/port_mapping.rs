//! Routers that map ports when they are asked: miniupnpd, which many real routers run.

use std::{fs, process::Command, time::Duration};

use transport::mapping::MappingProtocol;

use super::{
    error::{Doing, Result},
    keeper::require,
    process::Process,
    router::Router,
};

/// How long the daemon may take to listen on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The chains that the daemon fills, and, replacing them, an end to all that it has filled in. Of
/// PCP and NAT-PMP, which it speaks on one port, the one not wanted is told by the version in its
/// first byte, and dropped.
const CHAINS: &str = "\
table inet mapping
delete table inet mapping
table inet mapping {
  chain daemon_forward {
  }
  chain daemon_dstnat {
  }
  chain daemon_srcnat {
  }
  chain forward {
    type filter hook forward priority filter
    jump daemon_forward
  }
  chain dstnat {
    type nat hook prerouting priority dstnat - 1
    jump daemon_dstnat
  }
  chain srcnat {
    type nat hook postrouting priority srcnat - 1
    jump daemon_srcnat
  }
  chain input {
    type filter hook input priority filter
    VERSIONS
  }
}
";

impl Router {
    /// Starts a daemon that maps ports for hosts of the LAN by the protocols named, and returns when
    /// it listens. All earlier mappings are gone, so to start another one after killing the first is
    /// what a restart of the router does.
    ///
    /// A router attached to the core moves to another external address first, if it has not yet: see
    /// [`Router::external_address`].
    pub fn start_port_mapping(&self, protocols: &[MappingProtocol]) -> Result<Process> {
        require("miniupnpd", "miniupnpd-nftables")?;
        self.take_mappable_address()?;
        let speaks = |protocol| protocols.contains(&protocol);
        let versions = match (speaks(MappingProtocol::Pcp), speaks(MappingProtocol::NatPmp)) {
            (true, false) => "udp dport 5351 @th,64,8 0 drop",
            (false, true) => "udp dport 5351 @th,64,8 2 drop",
            _ => "",
        };
        let chains = CHAINS.replace("VERSIONS", versions);
        self.configure("making chains for mapped ports", &["nft", "-f", "-"], &chains)?;

        let yes = |wanted| if wanted { "yes" } else { "no" };
        let upnp = speaks(MappingProtocol::Upnp);
        let port_control = speaks(MappingProtocol::Pcp) || speaks(MappingProtocol::NatPmp);
        let settings = [
            ("ext_ifname", "wan"),
            ("listening_ip", "lan"),
            ("http_port", "5000"),
            ("enable_upnp", yes(upnp)),
            ("enable_natpmp", yes(port_control)),
            ("secure_mode", "yes"),
            ("system_uptime", "no"),
            ("min_lifetime", "1"),
            ("max_lifetime", "86400"),
            ("uuid", "9d1f4f3e-1f0d-4f62-8a52-6a3a4e3c7a10"),
            ("upnp_table_name", "mapping"),
            ("upnp_nat_table_name", "mapping"),
            ("upnp_forward_chain", "daemon_forward"),
            ("upnp_nat_chain", "daemon_dstnat"),
            ("upnp_nat_postrouting_chain", "daemon_srcnat"),
        ];
        let text: String = settings.map(|(key, value)| format!("{key}={value}\n")).concat();
        let path = self.keeper().folder().join(format!("{}-miniupnpd.conf", self.name()));
        fs::write(&path, text).doing(format!("writing {}", path.display()))?;

        let mut daemon = Command::new("miniupnpd");
        // In the foreground, and for IPv4 alone.
        daemon.args(["-d", "-4", "-f"]).arg(&path).arg("-P").arg(path.with_extension("pid"));
        let process = self.spawn("miniupnpd", &daemon)?;
        for (wanted, line) in
            [(upnp, "HTTP listening"), (port_control, "Listening for NAT-PMP/PCP")]
        {
            if wanted {
                process.wait_for_log_line(START_TIMEOUT, |text| text.contains(line))?;
            }
        }
        Ok(process)
    }
}
