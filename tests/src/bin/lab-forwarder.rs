//! The wire of an impaired link: moves Ethernet frames between two TAP devices in two network
//! namespaces, and does to them on the way what the lab asks for.
//!
//! `lab-forwarder LOWER-NAMESPACE LOWER-INTERFACE UPPER-NAMESPACE UPPER-INTERFACE SEED`, then one
//! JSON [`Link`] a line on standard input, each answered with `ok`. It ends with its input.

use std::{
    env,
    fs::File,
    io::{self, BufRead, ErrorKind},
    os::fd::AsFd,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sched::{CloneFlags, setns},
    sys::{prctl, time::TimeSpec},
};
use tests::lab::{Impairment, Link, impairment::Direction};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// Frames read before those that are due are sent.
const READS_AT_ONCE: usize = 64;

/// Larger than any Ethernet frame of the lab.
const FRAME_LENGTH: usize = 2048;

/// How late the kernel may wake a direction; by default it is 50 µs.
const TIMER_SLACK: Duration = Duration::from_micros(1);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [lower_namespace, lower_interface, upper_namespace, upper_interface, seed] = &arguments[..]
    else {
        bail!(
            "expected LOWER-NAMESPACE LOWER-INTERFACE UPPER-NAMESPACE UPPER-INTERFACE SEED, got {arguments:?}"
        );
    };
    let seed: u64 = seed.parse().with_context(|| format!("{seed} is not a seed"))?;
    let lower = Arc::new(tap(lower_namespace, lower_interface)?);
    let upper = Arc::new(tap(upper_namespace, upper_interface)?);
    let up = start("up", lower.clone(), upper.clone(), seed)?;
    let down = start("down", upper, lower, seed ^ u64::MAX)?;
    for line in io::stdin().lock().lines() {
        let link: Link = serde_json::from_str(&line?).context("the control line is not a link")?;
        up.send(link.up).context("the direction up has ended")?;
        down.send(link.down).context("the direction down has ended")?;
        println!("ok");
    }
    Ok(())
}

/// Makes a TAP device in a namespace. It stays down, but has carrier, so it works as soon as it is
/// brought up.
fn tap(namespace: &str, interface: &str) -> anyhow::Result<SyncDevice> {
    let file = File::open(format!("/run/netns/{namespace}"))
        .with_context(|| format!("no namespace {namespace}"))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {namespace}"))?;
    let device = DeviceBuilder::new()
        .name(interface)
        .layer(Layer::L2)
        .enable(false)
        .build_sync()
        .with_context(|| {
        format!(
            "making {interface} in {namespace} (/dev/net/tun must be there and open to this user)"
        )
    })?;
    device.set_nonblocking(true)?;
    Ok(device)
}

/// Starts the thread that moves frames one way.
fn start(
    name: &str,
    from: Arc<SyncDevice>,
    to: Arc<SyncDevice>,
    seed: u64,
) -> io::Result<Sender<Impairment>> {
    let (sender, changes) = channel();
    let direction = Direction::new(Impairment::default(), seed);
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Err(error) = forward(&from, &to, direction, &changes) {
            eprintln!("a link broke: {error}");
        }
    })?;
    Ok(sender)
}

fn forward(
    from: &SyncDevice,
    to: &SyncDevice,
    mut direction: Direction,
    changes: &Receiver<Impairment>,
) -> io::Result<()> {
    // Without it frames are a little late, which is better than not at all.
    let _ = prctl::set_timerslack(u64::try_from(TIMER_SLACK.as_nanos()).unwrap_or(1));
    let mut buffer = [0; FRAME_LENGTH];
    loop {
        while let Some(frame) = direction.poll_frame(Instant::now()) {
            send(to, &frame)?;
        }
        let timeout = direction
            .next_release_at()
            .map(|at| TimeSpec::from_duration(at.saturating_duration_since(Instant::now())));
        let mut readable = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut readable, timeout, None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        for _ in 0..READS_AT_ONCE {
            let length = match from.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The interface is down.
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => break,
                Err(error) => return Err(error),
            };
            while let Ok(impairment) = changes.try_recv() {
                direction.set_impairment(impairment);
            }
            direction.handle_frame(Instant::now(), buffer[..length].to_vec());
        }
    }
}

fn send(to: &SyncDevice, frame: &[u8]) -> io::Result<()> {
    match to.send(frame) {
        Ok(_) => Ok(()),
        // A full queue or an interface that is down loses the frame, as a wire would.
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => Ok(()),
        Err(error) => Err(error),
    }
}
