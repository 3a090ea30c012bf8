//! Whom one allocation may exchange datagrams with: its permissions and channels (RFC 8656, sections 9
//! and 12). Pure: time comes in as an argument.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How long a permission lasts (RFC 8656, section 9).
const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);

/// How long a channel lasts (RFC 8656, section 12).
const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

/// Most permissions, and most channels, of one allocation: a broadcaster's candidates twice over.
const MOST: usize = 32;

/// Why a permission or channel is not installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BindError {
    /// The channel belongs to another peer, or the peer to another channel.
    Conflict,
    /// There are as many as there may be.
    Full,
}

/// The permissions and channels of one allocation.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    permissions: Vec<Permission>,
    channels: Vec<Channel>,
}

#[derive(Debug)]
struct Permission {
    ip: IpAddr,
    expires_at: Instant,
}

#[derive(Debug)]
struct Channel {
    number: u16,
    peer: SocketAddr,
    expires_at: Instant,
}

impl Bindings {
    /// Installs or renews permissions for all of these addresses, or for none.
    pub(super) fn permit(&mut self, ips: &[IpAddr], now: Instant) -> Result<(), BindError> {
        self.permissions.retain(|permission| permission.expires_at > now);
        let mut new: Vec<IpAddr> = ips.to_vec();
        new.sort_unstable();
        new.dedup();
        new.retain(|ip| self.permissions.iter().all(|permission| permission.ip != *ip));
        if self.permissions.len() + new.len() > MOST {
            return Err(BindError::Full);
        }
        let expires_at = now + PERMISSION_LIFETIME;
        for permission in &mut self.permissions {
            if ips.contains(&permission.ip) {
                permission.expires_at = expires_at;
            }
        }
        self.permissions.extend(new.into_iter().map(|ip| Permission { ip, expires_at }));
        Ok(())
    }

    /// Binds a channel, or renews it, and the permission with it.
    pub(super) fn bind(
        &mut self,
        number: u16,
        peer: SocketAddr,
        now: Instant,
    ) -> Result<(), BindError> {
        self.channels.retain(|channel| channel.expires_at > now);
        let known = self.channels.iter().position(|channel| channel.number == number);
        match known {
            Some(at) if self.channels[at].peer != peer => return Err(BindError::Conflict),
            None if self.channels.iter().any(|channel| channel.peer == peer) => {
                return Err(BindError::Conflict);
            }
            None if self.channels.len() >= MOST => return Err(BindError::Full),
            _ => {}
        }
        self.permit(&[peer.ip()], now)?;
        let expires_at = now + CHANNEL_LIFETIME;
        match known {
            Some(at) => self.channels[at].expires_at = expires_at,
            None => self.channels.push(Channel { number, peer, expires_at }),
        }
        Ok(())
    }

    /// Whether datagrams may be exchanged with this address.
    pub(super) fn permits(&self, ip: IpAddr, now: Instant) -> bool {
        self.permissions.iter().any(|permission| permission.ip == ip && permission.expires_at > now)
    }

    /// The peer that a channel is bound to.
    pub(super) fn peer(&self, number: u16, now: Instant) -> Option<SocketAddr> {
        self.channels
            .iter()
            .find(|channel| channel.number == number && channel.expires_at > now)
            .map(|channel| channel.peer)
    }

    /// The channel that a peer is bound to.
    pub(super) fn channel(&self, peer: SocketAddr, now: Instant) -> Option<u16> {
        self.channels
            .iter()
            .find(|channel| channel.peer == peer && channel.expires_at > now)
            .map(|channel| channel.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], port))
    }

    #[test]
    fn permissions_are_for_an_address_and_expire() {
        let mut bindings = Bindings::default();
        let now = Instant::now();
        assert!(!bindings.permits(peer(1, 1).ip(), now));
        bindings.permit(&[peer(1, 1).ip(), peer(1, 2).ip(), peer(2, 1).ip()], now).expect("room");
        let last = now + PERMISSION_LIFETIME - Duration::from_secs(1);
        assert!(bindings.permits(peer(1, 9).ip(), last));
        bindings.permit(&[peer(2, 1).ip()], last).expect("room");
        let later = now + PERMISSION_LIFETIME;
        assert!(!bindings.permits(peer(1, 1).ip(), later));
        assert!(bindings.permits(peer(2, 1).ip(), later));
    }

    #[test]
    fn a_channel_and_its_peer_belong_together() {
        let mut bindings = Bindings::default();
        let now = Instant::now();
        bindings.bind(0x4000, peer(1, 1), now).expect("free");
        assert_eq!(bindings.bind(0x4000, peer(1, 2), now), Err(BindError::Conflict));
        assert_eq!(bindings.bind(0x4001, peer(1, 1), now), Err(BindError::Conflict));
        bindings.bind(0x4001, peer(1, 2), now).expect("free");
        assert_eq!(bindings.peer(0x4000, now), Some(peer(1, 1)));
        assert_eq!(bindings.channel(peer(1, 2), now), Some(0x4001));
        assert!(bindings.permits(peer(1, 1).ip(), now));

        let renewed = now + CHANNEL_LIFETIME - Duration::from_secs(1);
        bindings.bind(0x4000, peer(1, 1), renewed).expect("its own");
        let later = now + CHANNEL_LIFETIME;
        assert_eq!(bindings.peer(0x4000, later), Some(peer(1, 1)));
        assert_eq!(bindings.channel(peer(1, 2), later), None);
        bindings.bind(0x4001, peer(3, 3), later).expect("free again");
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mut bindings = Bindings::default();
        let now = Instant::now();
        for at in 0..u8::try_from(MOST).expect("few") {
            bindings.bind(0x4000 + u16::from(at), peer(at, 1), now).expect("room");
        }
        assert_eq!(bindings.permit(&[peer(200, 1).ip()], now), Err(BindError::Full));
        assert_eq!(bindings.bind(0x5000, peer(0, 2), now), Err(BindError::Full));
        bindings.permit(&[peer(0, 1).ip()], now).expect("its own");
        let later = now + CHANNEL_LIFETIME;
        bindings.bind(0x5000, peer(0, 2), later).expect("room again");
    }
}
