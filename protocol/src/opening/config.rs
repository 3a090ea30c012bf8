//! Times of an agent.

use std::time::Duration;

use super::credentials::Role;

/// Times of an agent; [`Config::for_role`] has the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// From the start to giving up without a path.
    pub deadline: Duration,
    /// Mean time from one check of the open path to the next; each is multiplied by a random factor
    /// from 0.8 to 1.2, so that checks of many peers do not meet (RFC 7675, section 5.1).
    pub check_interval: Duration,
    /// How the path is checked once a check went unanswered.
    pub retry: Retry,
    /// Whether checks go out although other authenticated words of the peer come in: the viewer's
    /// checks hold its NAT binding, the broadcaster's media does that by itself.
    pub always_checks: bool,
    /// Longest time without an authenticated word of the peer (RFC 7675, section 5.1).
    pub consent_timeout: Duration,
}

/// What is done when a check of the open path is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// From one repeated check to the next. The first follows after twice the round-trip time.
    pub interval: Duration,
    /// From the first unanswered check to giving the path up.
    pub timeout: Duration,
}

impl Config {
    /// The defaults.
    ///
    /// A viewer checks about each 2.5 s: that holds any NAT binding (the shortest timeout found among
    /// home routers is 30 s, some carriers' are 10 s, and many are refreshed by outbound packets
    /// only), and a dead path is noticed while its buffer lasts. It retries each 300 ms and gives up
    /// after 3 s: at 20% loss each way that is a false alarm once in 100,000 checks.
    ///
    /// A broadcaster has many viewers, and asks for consent as RFC 7675 says: each 5 s, expiring after
    /// 30 s, and each second while there is no answer, since six questions are too few where much is
    /// lost. It waits 2 s longer than the viewer for a path, since it may be told earlier.
    pub fn for_role(role: Role) -> Self {
        match role {
            Role::Viewer => Self {
                deadline: Duration::from_secs(8),
                check_interval: Duration::from_millis(2500),
                retry: Retry {
                    interval: Duration::from_millis(300),
                    timeout: Duration::from_secs(3),
                },
                always_checks: true,
                consent_timeout: Duration::from_secs(30),
            },
            Role::Broadcaster => Self {
                deadline: Duration::from_secs(10),
                check_interval: Duration::from_secs(5),
                retry: Retry { interval: Duration::from_secs(1), timeout: Duration::from_secs(30) },
                always_checks: false,
                consent_timeout: Duration::from_secs(30),
            },
        }
    }
}
