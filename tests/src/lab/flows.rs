//! Counting datagrams by flow, with nftables.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde_json::Value;

use super::error::{LabError, Result};

/// The datagrams from one endpoint to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where they came from, as seen at the node that counts.
    pub source: SocketAddrV4,
    /// Where they went.
    pub destination: SocketAddrV4,
    /// How many.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
}

/// Counts at the earliest hook, before translation and filtering.
pub(crate) const RULES: &str = "\
table ip flows
delete table ip flows
table ip flows {
  set seen {
    type ipv4_addr . inet_service . ipv4_addr . inet_service
    flags dynamic
    size 65535
    counter
  }
  chain prerouting {
    type filter hook prerouting priority raw - 50
    meta l4proto udp update @seen { ip saddr . udp sport . ip daddr . udp dport }
  }
}
";

/// The command that shows what was counted.
pub(crate) const LIST: [&str; 7] = ["nft", "--json", "list", "set", "ip", "flows", "seen"];

/// Reads nft's JSON listing of the set.
pub(crate) fn parse(listing: &str) -> Result<Vec<Flow>> {
    let wrong = |what: &str| LabError::Command {
        what: "reading flow counters".to_owned(),
        output: format!("{what} in {listing}"),
    };
    let listing: Value =
        serde_json::from_str(listing).map_err(|error| wrong(&error.to_string()))?;
    let objects = listing["nftables"].as_array().ok_or_else(|| wrong("no `nftables`"))?;
    let elements = objects.iter().find_map(|object| object["set"]["elem"].as_array());
    // A set without elements is listed without `elem`.
    elements
        .into_iter()
        .flatten()
        .map(|element| flow(&element["elem"]).ok_or_else(|| wrong("an unexpected element")))
        .collect()
}

fn flow(element: &Value) -> Option<Flow> {
    let parts = element["val"]["concat"].as_array()?;
    let endpoint = |at: usize| {
        let address: Ipv4Addr = parts.get(at)?.as_str()?.parse().ok()?;
        let port = u16::try_from(parts.get(at + 1)?.as_u64()?).ok()?;
        Some(SocketAddrV4::new(address, port))
    };
    Some(Flow {
        source: endpoint(0)?,
        destination: endpoint(2)?,
        packets: element["counter"]["packets"].as_u64()?,
        bytes: element["counter"]["bytes"].as_u64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_listing() {
        let listing = r#"{"nftables": [{"metainfo": {"json_schema_version": 1}}, {"set": {"name": "seen", "elem": [
            {"elem": {"val": {"concat": ["198.18.1.2", 3478, "198.18.2.2", 40000]}, "counter": {"packets": 3, "bytes": 90}}}
        ]}}]}"#;
        let expected = Flow {
            source: "198.18.1.2:3478".parse().expect("a literal"),
            destination: "198.18.2.2:40000".parse().expect("a literal"),
            packets: 3,
            bytes: 90,
        };
        assert_eq!(parse(listing).expect("a listing as nft writes it"), [expected]);
    }
}
