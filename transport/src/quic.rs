//! QUIC over our socket: what quinn needs of a socket, and the settings of both ends.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use protocol::address::canonical;
use protocol::opening::Local;
use protocol::size::MAX_DATAGRAM;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller, VarInt};

use crate::connection_ids::ConnectionIds;
use crate::paths::{Paths, Peer};
use crate::repeats::{self, Repeats};
use crate::room::Room;
use crate::slow_start::CarefulCubicConfig;
use crate::unproved::Unproved;
use crate::ways::Ways;

/// QUIC datagrams waiting for quinn, at most. Control traffic is thin; more is a flood, unless it comes from
/// whom we asked for a stored file's contents: a whole window may arrive at once then.
const MOST_WAITING: usize = 1024;
const MOST_WAITING_OF_CONTENTS: usize = CONTENTS.connection as usize / MAX_DATAGRAM + MOST_WAITING;

/// Handshakes under way at once, at most, and bytes buffered for them.
const MOST_INCOMING: usize = 256;
const INCOMING_BUFFER: u64 = 64 * 1024;
const INCOMING_BUFFER_TOTAL: u64 = 4 << 20;

/// Without a word from a client that nobody introduced for this long its connection ends.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Streams a peer may have open at once: one to watch, and a further request. With whoever has a path there may be
/// several files' contents on their way as well.
const MOST_STREAMS: u32 = 4;
const MOST_STREAMS_OF_PEERS: u32 = 8;

/// How much may be on its way, in bytes.
#[derive(Debug, Clone, Copy)]
struct Windows {
    /// To us, on one stream.
    stream: u32,
    /// To us, on one connection.
    connection: u32,
    /// From us, on one connection. It takes memory only where so much is sent.
    sent: u32,
}

/// Control messages are small.
const CONTROL: Windows = Windows { stream: 128 * 1024, connection: 256 * 1024, sent: 256 * 1024 };

/// What a viewer takes of its broadcaster: 100 Mbit/s of a stored file's contents over a round trip of 300 ms on one
/// stream.
const CONTENTS: Windows = Windows { stream: 4 << 20, connection: 8 << 20, ..CONTROL };

/// What a broadcaster sends to a viewer, which sends it no more than anybody does.
const SERVING: Windows = Windows { sent: 4 << 20, ..CONTROL };

/// A server that has not answered by then is sent the first datagram again, so often and so far apart.
const BEGINNING_AGAIN: Duration = Duration::from_millis(100);
const BEGINNINGS: u32 = 20;
const BEGINNINGS_APART: Duration = Duration::from_millis(25);

/// What stands between quinn and the socket.
pub(crate) struct QuicSocket {
    room: Arc<Room>,
    ways: Arc<Ways>,
    paths: Arc<Paths>,
    inbox: Mutex<Inbox>,
    repeats: Mutex<Repeats>,
    /// Whether only last words are said.
    is_insistent: Arc<AtomicBool>,
    /// Servers that we begin to talk to, and whether one has answered.
    beginnings: Arc<Mutex<HashMap<SocketAddr, Arc<AtomicBool>>>>,
    /// Whoever asks us, where others may.
    unproved: Option<Mutex<Unproved>>,
    most_waiting: usize,
}

/// What begins a connection, without and with a token that we gave out: so much waits of each at most.
const MOST_BEGINNINGS: usize = 256;

/// What waits for quinn: in turns, so that a flood of beginnings holds up no connection, and no beginning that has
/// proved its address.
#[derive(Default)]
struct Inbox {
    waiting: [VecDeque<(SocketAddr, Vec<u8>)>; 3],
    turn: usize,
    waker: Option<Waker>,
}

/// The places of [`Inbox::waiting`], as the turns go.
const UNDER_WAY: usize = 0;
const WITH_TOKEN: usize = 1;
const WITHOUT: usize = 2;
const TURNS: [usize; 4] = [UNDER_WAY, WITH_TOKEN, UNDER_WAY, WITHOUT];

impl Inbox {
    fn pop(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        TURNS.iter().find_map(|_| {
            self.turn = (self.turn + 1) % TURNS.len();
            self.waiting[TURNS[self.turn]].pop_front()
        })
    }
}

/// Where a datagram waits.
fn place(datagram: &[u8]) -> usize {
    match token_length(datagram) {
        None => UNDER_WAY,
        Some(0) => WITHOUT,
        Some(_) => WITH_TOKEN,
    }
}

/// How long the token is of a datagram that begins with an Initial packet (RFC 9000, section 17.2.2), by its first
/// byte; `None` for others.
fn token_length(datagram: &[u8]) -> Option<u8> {
    let (first, rest) = datagram.split_first()?;
    if first & 0xb0 != 0x80 {
        return None;
    }
    let mut rest = rest.get(4..)?;
    for _ in ["destination", "source"] {
        let (length, behind) = rest.split_first()?;
        rest = behind.get(usize::from(*length)..)?;
    }
    rest.first().copied()
}

impl fmt::Debug for QuicSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicSocket").finish_non_exhaustive()
    }
}

impl QuicSocket {
    /// On these ways. `is_server` says that others ask here, so that nobody is asked for contents.
    pub(crate) fn new(ways: Arc<Ways>, paths: Arc<Paths>, is_server: bool) -> Arc<Self> {
        let most_waiting = if is_server { MOST_WAITING } else { MOST_WAITING_OF_CONTENTS };
        Arc::new(Self {
            room: Room::new(Arc::clone(ways.main())),
            ways,
            paths,
            inbox: Mutex::default(),
            repeats: Mutex::default(),
            is_insistent: Arc::default(),
            beginnings: Arc::default(),
            unproved: is_server.then(Mutex::default),
            most_waiting,
        })
    }

    /// Queues a datagram for quinn. False when there is no room.
    pub(crate) fn deliver(&self, from: SocketAddr, datagram: &[u8]) -> bool {
        let mut beginnings = self.beginnings.lock().unwrap_or_else(PoisonError::into_inner);
        if !beginnings.is_empty()
            && let Some(answered) = beginnings.remove(&from)
        {
            answered.store(true, Ordering::Relaxed);
        }
        drop(beginnings);
        // Those with a path have proved it.
        let unproved = self.unproved.as_ref().filter(|_| Peer::from_address(from).is_none());
        if let Some(unproved) = unproved {
            let mut unproved = unproved.lock().unwrap_or_else(PoisonError::into_inner);
            unproved.received(canonical(from), datagram);
        }
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let place = place(datagram);
        let most = if place == UNDER_WAY { self.most_waiting } else { MOST_BEGINNINGS };
        if inbox.waiting[place].len() >= most {
            return false;
        }
        // The family that `local_addr` promised: quinn compares addresses as they are.
        let from = match from {
            SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            v6 => v6,
        };
        inbox.waiting[place].push_back((from, datagram.to_vec()));
        let waker = inbox.waker.take();
        drop(inbox);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// From now on repeats every datagram to somebody who is known, and holds none back.
    pub(crate) fn insist(&self) {
        self.is_insistent.store(true, Ordering::Relaxed);
    }

    /// Whether it insists, to be shared with what could hold something back.
    pub(crate) fn insistence(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_insistent)
    }

    /// Sends the first datagram to a server again, in close succession, until one has answered: one that is flooded
    /// leaves most beginnings out, and QUIC alone would wait longer and longer for the next try.
    fn begin(&self, transmit: &Transmit<'_>, local: Local, to: SocketAddr) {
        let is_server = self.paths.is_server(transmit.destination);
        if !is_server || token_length(transmit.contents).is_none() {
            return;
        }
        let mut beginnings = self.beginnings.lock().unwrap_or_else(PoisonError::into_inner);
        if beginnings.contains_key(&to) {
            return;
        }
        let answered = Arc::new(AtomicBool::new(false));
        beginnings.insert(to, Arc::clone(&answered));
        drop(beginnings);
        let (ways, contents) = (Arc::clone(&self.ways), transmit.contents.to_vec());
        let all = Arc::clone(&self.beginnings);
        tokio::spawn(async move {
            tokio::time::sleep(BEGINNING_AGAIN).await;
            for _ in 0..BEGINNINGS {
                if answered.load(Ordering::Relaxed) {
                    return;
                }
                let contents = &contents;
                let copy = Transmit {
                    destination: to,
                    ecn: None,
                    contents,
                    segment_size: None,
                    src_ip: None,
                };
                // As good as lost on the way.
                let _ = ways.transmit(local, to, &copy);
                tokio::time::sleep(BEGINNINGS_APART).await;
            }
            // QUIC's own next try begins anew.
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, other| !Arc::ptr_eq(other, &answered));
        });
    }

    /// Sends a datagram again and again, if it is to somebody who is known and the exchange takes long.
    fn repeat(&self, transmit: &Transmit<'_>, local: Local, to: SocketAddr) {
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // A stranger may not be who it says, and would be sent more than it sent (RFC 9000, section 8).
        let is_due = self.paths.is_known(transmit.destination)
            && (repeats.note(transmit.destination, now)
                || self.is_insistent.load(Ordering::Relaxed)
                || self.paths.is_urgent(transmit.destination, now));
        drop(repeats);
        if !is_due {
            return;
        }
        let ways = Arc::clone(&self.ways);
        let (contents, ecn) = (transmit.contents.to_vec(), transmit.ecn);
        let segment_size = transmit.segment_size;
        tokio::spawn(async move {
            for _ in 0..repeats::COPIES {
                tokio::time::sleep(repeats::APART).await;
                let contents = &contents;
                let copy = Transmit { destination: to, ecn, contents, segment_size, src_ip: None };
                // As good as lost on the way.
                let _ = ways.transmit(local, to, &copy);
            }
        });
    }
}

impl AsyncUdpSocket for QuicSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.room.poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some((local, to)) = self.paths.outbound(transmit.destination) else {
            // A peer without a path: as if the network had lost it. QUIC sends it again.
            return Ok(());
        };
        let is_peer = Peer::from_address(transmit.destination).is_some();
        if let Some(unproved) = self.unproved.as_ref().filter(|_| !is_peer) {
            let mut unproved = unproved.lock().unwrap_or_else(PoisonError::into_inner);
            let is_ours = self.paths.is_server(transmit.destination);
            if !is_ours && !unproved.may_send(to, transmit.contents, Instant::now()) {
                // As if the network had lost it.
                return Ok(());
            }
        }
        match self.ways.transmit(local, to, transmit) {
            // Of a socket or a relay beside the main one nobody waits for room: as if the network had lost it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && local == Local::MAIN => {
                self.room.ran_out();
                Err(error)
            }
            Err(error) => {
                // One unreachable peer must not end the endpoint for all.
                tracing::debug!(%error, %to, "QUIC datagram not sent");
                Ok(())
            }
            Ok(()) => {
                self.begin(transmit, local, to);
                self.repeat(transmit, local, to);
                Ok(())
            }
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Some((addr, datagram)) = inbox.pop() else { break };
            let len = datagram.len().min(buffer.len());
            buffer[..len].copy_from_slice(&datagram[..len]);
            *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        inbox.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        // Of the IPv6 family always, so that quinn takes made-up and mapped addresses alike.
        Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), self.ways.main().local_addr()?.port()))
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// Settings of the endpoint.
pub(crate) fn endpoint_config(ids: &ConnectionIds) -> quinn::EndpointConfig {
    let mut config = quinn::EndpointConfig::default();
    let ids = ids.clone();
    config.cid_generator(move || Box::new(ids.clone()));
    // Other standards share the port: the QUIC bit tells us apart (RFC 9443).
    config.grease_quic_bit(false);
    config.max_udp_payload_size(1472).expect("above QUIC's least");
    config
}

/// How a client holds a connection.
#[derive(Debug, Clone, Copy)]
pub struct KeepAlive {
    /// How often it says a word when there is nothing else to say.
    pub interval: Duration,
    /// How long it believes in a server that says nothing.
    pub idle_timeout: Duration,
}

/// The round trip that is expected of whoever is not known yet.
pub(crate) const USUAL_RTT: Duration = Duration::from_millis(100);

/// Settings of a connection. Between peers that share a path the opening agents' consent decides how
/// long a silent one lives: QUIC asks nobody, and times nothing out once the handshake is done. A first
/// packet without an answer is sent again after three times `first_rtt`. Once `all_end`, nothing is held back.
fn transport_config(
    idle_timeout: Option<Duration>,
    keep_alive_interval: Option<Duration>,
    first_rtt: Duration,
    windows: Windows,
    most_streams: u32,
    all_end: Arc<AtomicBool>,
) -> Arc<quinn::TransportConfig> {
    let mut config = quinn::TransportConfig::default();
    config
        .max_idle_timeout(idle_timeout.map(|time| time.try_into().expect("seconds fit")))
        .keep_alive_interval(keep_alive_interval)
        .initial_mtu(MAX_DATAGRAM as u16)
        .mtu_discovery_config(None)
        .enable_segmentation_offload(false)
        .initial_rtt(first_rtt)
        .congestion_controller_factory(Arc::new(CarefulCubicConfig::new(all_end)))
        .max_concurrent_bidi_streams(VarInt::from_u32(most_streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(windows.stream))
        .receive_window(VarInt::from_u32(windows.connection))
        .send_window(u64::from(windows.sent))
        // Nothing goes in QUIC datagrams.
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0);
    Arc::new(config)
}

/// Settings of a server, around its TLS. One that times nobody out is for peers with a path.
pub(crate) fn server_config(
    tls: rustls::ServerConfig,
    idle_timeout: Option<Duration>,
    all_end: Arc<AtomicBool>,
) -> quinn::ServerConfig {
    let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls)
        .expect("the provider has TLS 1.3's AES-128-GCM");
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let (windows, most_streams) = match idle_timeout {
        Some(_) => (CONTROL, MOST_STREAMS),
        None => (SERVING, MOST_STREAMS_OF_PEERS),
    };
    let transport = transport_config(idle_timeout, None, USUAL_RTT, windows, most_streams, all_end);
    config
        .transport_config(transport)
        .max_incoming(MOST_INCOMING)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL);
    config
}

/// Settings of a client, around its TLS, how it keeps the connection alive, if it does, and the round trip
/// that it expects. One that keeps nothing alive is for a peer with a path.
pub(crate) fn client_config(
    tls: rustls::ClientConfig,
    keep_alive: Option<KeepAlive>,
    first_rtt: Duration,
    all_end: Arc<AtomicBool>,
) -> quinn::ClientConfig {
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls)
        .expect("the provider has TLS 1.3's AES-128-GCM");
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    let idle_timeout = keep_alive.map(|keep_alive| keep_alive.idle_timeout);
    let interval = keep_alive.map(|keep_alive| keep_alive.interval);
    let windows = if keep_alive.is_some() { CONTROL } else { CONTENTS };
    let transport =
        transport_config(idle_timeout, interval, first_rtt, windows, MOST_STREAMS, all_end);
    config.transport_config(transport);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Initial packet with a token of so many bytes.
    fn initial(token: u8) -> Vec<u8> {
        let ids = [&[8][..], &[1; 8], &[3], &[2; 3]].concat();
        [&[0xc0, 0, 0, 0, 1][..], &ids, &[token], &vec![7; usize::from(token)], &[0x41, 0]].concat()
    }

    #[test]
    fn beginnings_are_told_from_what_is_under_way() {
        assert_eq!(place(&initial(0)), WITHOUT);
        assert_eq!(place(&initial(60)), WITH_TOKEN);
        for other in [&[0xe0, 0, 0, 0, 1, 0, 0, 0][..], &[0x40; 20], &[], &initial(0)[..9], &[0xc0]]
        {
            assert_eq!(place(other), UNDER_WAY, "{other:02x?}");
        }
    }

    #[test]
    fn nobody_waits_for_a_flood_of_others() {
        let mut inbox = Inbox::default();
        let from = ([192, 0, 2, 1], 1).into();
        for place in [UNDER_WAY, WITH_TOKEN, WITHOUT] {
            inbox.waiting[place].extend((0..100).map(|_| (from, vec![place as u8])));
        }
        let popped: Vec<u8> =
            (0..8).filter_map(|_| inbox.pop()).map(|(_, datagram)| datagram[0]).collect();
        for (place, most) in [(UNDER_WAY, 4), (WITH_TOKEN, 2), (WITHOUT, 2)] {
            let count = popped.iter().filter(|other| usize::from(**other) == place).count();
            assert_eq!(count, most, "{popped:?}");
        }
        while inbox.pop().is_some() {}
        assert!(inbox.waiting.iter().all(VecDeque::is_empty));
    }
}
