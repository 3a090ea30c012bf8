//! Sealing and opening: SRTP with AEAD_AES_128_GCM (RFC 3711, RFC 7714) under one group key for
//! each channel.
//!
//! A packet is sealed **once** and the same bytes go to every viewer. One GCM key must never see
//! one nonce twice, or it is given away; the nonce is made of SSRC and packet index, so the sealer
//! owns both: it writes its own SSRC and its own sequence number (the low 16 bits of a 48-bit index
//! that only grows) over whatever a payloader wrote, however often that one restarts. Keys are
//! random for each process start and never stored.
//!
//! Behind the tag follows the MKI: one byte wire version, three bytes epoch. A new epoch is a new
//! master key; indices go on through it.

mod keys;
mod opener;
mod sealer;

pub(crate) use keys::derive;
pub use keys::{Epoch, MasterKey, WIRE_VERSION};
pub use opener::{OpenError, Opened, Opener, PacketIndex};
pub use sealer::{SealError, SealedBurst, Sealer, Segments};
