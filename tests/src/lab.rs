//! The network lab: hosts, routers and links made from network namespaces, veth pairs and
//! nftables, inside a user namespace, so that nothing needs root and nothing outlives the test.
//!
//! ```text
//!   rendezvous (198.18.1.2)
//!        |
//!      core ----- home (wan 198.18.2.2, lan 192.168.1.1) ----- cam (192.168.1.10)
//!        |
//!     office (wan 198.18.3.2, lan 192.168.2.1) ----- viewer (192.168.2.10)
//! ```
//!
//! The core routes: each thing attached to it has a small network of its own, so time-to-live
//! values count hops as they do outside. A link is a veth pair, or, where the test asks for delay
//! or loss, a pair of TAP devices with a seeded forwarder between them.
//!
//! ```no_run
//! use std::{process::Command, time::Duration};
//! use tests::lab::{self, Lab, Link, Nat};
//!
//! # fn main() -> Result<(), lab::LabError> {
//! let mut lab = Lab::new()?;
//! let rendezvous = lab.public_host("rendezvous")?;
//! let home = lab.router("home", Nat::PortRestricted)?;
//! let cam = lab.host_behind(&home, "cam")?;
//! let office = lab.router_with("office", Nat::Unrestricted, Link::delay(Duration::from_millis(20)))?;
//! let desk = lab.host_behind(&office, "desk")?;
//!
//! let server = rendezvous.spawn("rendezvous", &Command::new(lab::binary("punchcast-rendezvous")?))?;
//! server.wait_for_log_line(Duration::from_secs(5), |line| line.contains("listening"))?;
//! # drop((cam, desk));
//! # Ok(())
//! # }
//! ```

mod build;
mod capture;
mod error;
mod flows;
pub mod impairment;
mod keeper;
mod link;
mod nat;
mod network;
mod node;
mod output;
mod partition;
pub mod pcap;
mod port_mapping;
mod process;
mod router;
mod wait;

pub use build::binary;
pub use capture::Capture;
pub use error::{LabError, Result};
pub use flows::Flow;
pub use impairment::{Impairment, Loss, Meanwhile, Rate, Reorder};
pub use link::Link;
pub use nat::Nat;
pub use network::Lab;
pub use nix::sys::signal::Signal;
pub use node::{Counters, Host, Node};
pub use output::Output;
pub use pcap::Datagram;
pub use process::Process;
pub use router::Router;
pub use wait::eventually;
