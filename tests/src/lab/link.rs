//! Links between nodes: a veth pair, or two TAP devices with a forwarder between them.

use std::{
    io::{BufRead, BufReader, Write},
    net::Ipv4Addr,
    process::{Child, ChildStdin, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    build::binary,
    error::{Doing, LabError, Result},
    impairment::Impairment,
    keeper::Keeper,
};

/// What a link does to packets, seen from the node that it was made for. The default does nothing,
/// but can be changed while the link works.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// To packets that leave the node, towards the core.
    pub up: Impairment,
    /// To packets that come to it.
    pub down: Impairment,
}

impl Link {
    /// The same in both directions.
    pub fn both(impairment: Impairment) -> Self {
        Self { up: impairment.clone(), down: impairment }
    }

    /// A delay in each direction, so that the round trip takes twice as long.
    pub fn delay(one_way: Duration) -> Self {
        Self::both(Impairment::delay(one_way))
    }
}

/// One end of a link: an interface to be made in a namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) interface: &'a str,
}

/// The MAC address of the interface with an address: locally administered, and readable in captures.
pub(crate) fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Makes a plain link. Segmentation offload is off, so that what goes over it are packets as a
/// network would see them, and captures and counters see each datagram.
pub(crate) fn plain(keeper: &Keeper, lower: End<'_>, upper: End<'_>) -> Result<()> {
    let what = format!("linking {} and {}", lower.namespace, upper.namespace);
    let make = format!(
        "ip -n {} link add {} gso_max_segs 1 type veth peer name {} netns {}\n\
         ip -n {} link set {} gso_max_segs 1",
        lower.namespace,
        lower.interface,
        upper.interface,
        upper.namespace,
        upper.namespace,
        upper.interface,
    );
    keeper.script(&what, &make)
}

/// Packets that may wait in a TAP device: more than a burst to a thousand viewers.
const TAP_QUEUE_LENGTH: u32 = 16_384;

/// The control line to a running forwarder.
#[derive(Debug)]
pub(crate) struct Forwarder {
    name: String,
    control: Mutex<Control>,
}

#[derive(Debug)]
struct Control {
    stdin: ChildStdin,
    answers: BufReader<std::process::ChildStdout>,
    child: Child,
}

impl Forwarder {
    /// Makes both interfaces of a link and starts to move frames between them.
    pub(crate) fn start(
        keeper: &Keeper,
        lower: End<'_>,
        upper: End<'_>,
        link: &Link,
        seed: u64,
    ) -> Result<Self> {
        let name = format!("link of {}", lower.namespace);
        let (_, log) = keeper.add_log(&format!("{}-link.stderr", lower.namespace))?;
        let mut child = keeper
            .command(None, binary("lab-forwarder")?)
            .args([lower.namespace, lower.interface, upper.namespace, upper.interface])
            .arg(seed.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .doing(format!("starting the {name}"))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(LabError::Topology(format!("the {name} has no control line")));
        };
        let control = Control { stdin, answers: BufReader::new(stdout), child };
        let forwarder = Self { name, control: Mutex::new(control) };
        // The forwarder makes the interfaces before it reads its first line.
        forwarder.impair(link)?;
        let lengthen: String = [lower, upper]
            .map(|End { namespace, interface }| {
                format!("ip -n {namespace} link set {interface} txqueuelen {TAP_QUEUE_LENGTH}\n")
            })
            .concat();
        keeper.script(&format!("lengthening the queues of the {}", forwarder.name), &lengthen)?;
        Ok(forwarder)
    }

    /// Changes what the link does; in force for all packets sent after this returns.
    pub(crate) fn impair(&self, link: &Link) -> Result<()> {
        let what = || format!("telling the {} what to do", self.name);
        let line = serde_json::to_string(link).doing(what())?;
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(control.stdin, "{line}").doing(what())?;
        let mut answer = String::new();
        control.answers.read_line(&mut answer).doing(what())?;
        if answer.trim() == "ok" {
            return Ok(());
        }
        Err(LabError::Command {
            what: what(),
            output: format!(
                "it answered `{}`; is /dev/net/tun there, and may this user open it? ({:?})",
                answer.trim(),
                control.child.try_wait()
            ),
        })
    }
}
