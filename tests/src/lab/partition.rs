//! Places that do not reach each other although each of them reaches everything else.

use std::net::Ipv4Addr;

use super::{error::Result, network::Lab};

/// In the core, which all traffic between public addresses passes.
const RULES: &str = "\
table ip partition
delete table ip partition
table ip partition {
  chain forward {
    type filter hook forward priority filter
    ip saddr A ip daddr B drop
    ip saddr B ip daddr A drop
  }
}
";
const NO_RULES: &str = "table ip partition\ndelete table ip partition\n";

impl Lab {
    /// Drops everything between two public addresses from now on, in place of a pair before.
    pub fn part(&self, one: Ipv4Addr, other: Ipv4Addr) -> Result<()> {
        let rules = RULES.replace(" A", &format!(" {one}")).replace(" B", &format!(" {other}"));
        self.core().configure("parting two addresses", &["nft", "-f", "-"], &rules).map(drop)
    }

    /// Lets everything pass again.
    pub fn unite(&self) -> Result<()> {
        self.core().configure("uniting two addresses", &["nft", "-f", "-"], NO_RULES).map(drop)
    }
}
