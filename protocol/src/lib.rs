//! The pure part of punchcast: everything that can be said about its packets without a socket, a
//! clock, a thread or a line of GStreamer. Time and randomness come in as arguments, so every timer
//! and loss pattern can be tested in microseconds.
//!
//! # The method
//!
//! A broadcaster and its viewers all sit behind firewalls and NAPT routers that nobody reconfigures.
//! One small public server, the rendezvous, is spoken to by both **from the very socket that will
//! carry the media**, and so sees the external address of each (steps 1–4). It tells each side the
//! other's (steps 5, 6: [`signalling`]), with credentials minted for this one introduction.
//!
//! # Opening a path
//!
//! Each side runs an [`opening::Agent`] for the introduction. On each of its ways out, which are sockets
//! and perhaps a relay, it sends opening packets to every address that the other side named and that may
//! be sent to at all ([`candidate`], [`address`]): STUN Binding requests ([`stun`]) authenticated with
//! the introduction's credentials. The first ones may die at the other firewall; but each one that
//! leaves opens the own firewall for the answer (steps 7, 8). An answer that comes back from where the
//! request went *proves* the pair: the address receives what is sent to it, and wants it. Media goes to
//! proved addresses only. The viewer nominates the best proved pair, and checks go on for as long as the
//! path is used: they hold the NAT bindings, renew consent (RFC 7675), and notice a path that died. A
//! path that broke is opened again on the same introduction. Ports that nobody knows are predicted or
//! searched ([`opening::plan()`] says when), and where nothing helps a relay carries the sealed packets.
//! The page at the head of [`opening`] tells it all.
//!
//! Whether a direct path can open at all depends on what the NATs and firewalls on both sides do.
//! [`behaviour`] has the words for it, finds it out with the help of the rendezvous, and says what
//! opens with what.
//!
//! # One port, several standards
//!
//! STUN, QUIC and SRTP share the port, told apart by the first byte ([`demux`]). On the opened path
//! the viewer speaks QUIC to the broadcaster, whose key it knows from the link ([`link`]); over it go
//! admission and keys ([`control`], framed by [`message`]). Neither media nor feedback rides in QUIC: that
//! would seal the one again for every viewer, and wake tasks and send acknowledgements for each of the
//! other. Feedback ([`feedback`]) is sealed as SRTCP under a key of each viewer's own ([`srtcp`]).
//!
//! # Sealing once
//!
//! A frame is encoded once, packetized once and sealed once: the packets of one access unit lie in one
//! buffer ([`burst`]), are sealed there in place as SRTP under one group key for the channel
//! ([`seal`]), and the same bytes go to every viewer. The sealer owns SSRC and packet index, so that
//! no nonce ever comes twice. Behind each datagram stands a short tag for the one viewer that it goes to ([`tag`]):
//! all viewers hold the group key, and none may pass for the broadcaster to another. [`size`] has every length on the wire. For the live viewers bursts are laid
//! out as a [`volley`], in which sound rides in the picture's last datagram, and a [`schedule`] says what
//! goes next where the [`uplink`] does not carry all at once.
//!
//! # Joining and repair
//!
//! A [`channel::Channel`] keeps sealed bursts since the last keyframe. A new viewer is sent that
//! history, paced, until it has caught up, and is then one of those that every new burst goes to: it
//! sees a picture at once, and the encoder makes no keyframe for it. What a viewer's [`receiver`] misses
//! ([`reception`]) it asks for while an answer can still be in time, and the same sealed bytes are sent
//! again out of the same history, with Reed-Solomon packets beside them where little time is left
//! ([`repair`]). A path that does not carry the stream is found by [`congestion`], and sent less; where the picture comes
//! in several sizes, each path gets the best that it carries ([`renditions`]).
//! [`timeline`] says when each packet, old or live, belongs
//! on the viewer's clock. Stored files are played the same way, each take of one as a channel made for one viewer
//! ([`library`]). [`rtp`] and [`media`] are the formats in between, and [`units`] rates as
//! people write them.

pub mod address;
pub mod behaviour;
pub mod bucket;
pub mod burst;
pub mod candidate;
pub mod channel;
pub mod congestion;
pub mod control;
pub mod demux;
pub mod feedback;
pub mod library;
pub mod link;
pub mod media;
pub mod message;
pub mod offer;
pub mod opening;
mod pacing;
pub mod receiver;
pub mod reception;
pub mod renditions;
pub mod repair;
pub mod rtp;
pub mod schedule;
pub mod seal;
pub mod signalling;
pub mod size;
pub mod srtcp;
pub mod stun;
pub mod tag;
pub mod timeline;
pub mod units;
pub mod uplink;
pub mod volley;
