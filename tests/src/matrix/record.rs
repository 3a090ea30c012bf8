//! What one try came to, as a line of JSON.

use serde::{Deserialize, Serialize};

use super::expect::{DIRECT_WITHIN, RELAYED_WITHIN};

/// What the network was like.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Default,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// 40 ms between the parties, and nothing else going on.
    #[default]
    Quiet,
    /// Behind the viewer's router somebody else opens 20 flows a second.
    Competing,
    /// 5% of the packets lost on both parties' links, in each direction.
    #[value(name = "loss-5")]
    #[serde(rename = "loss-5")]
    Loss5,
    /// 20% of the packets lost.
    #[value(name = "loss-20")]
    #[serde(rename = "loss-20")]
    Loss20,
}

impl Profile {
    /// The share of packets lost, 0 to 1.
    pub fn loss(self) -> f64 {
        match self {
            Self::Quiet | Self::Competing => 0.0,
            Self::Loss5 => 0.05,
            Self::Loss20 => 0.2,
        }
    }
}

/// One try. Times are in milliseconds from the introduction's arrival at the side that measured them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What the network was like.
    pub profile: Profile,
    /// The broadcaster's kind.
    pub broadcaster: String,
    /// The viewer's kind.
    pub viewer: String,
    /// Which try of the pair.
    pub number: usize,
    /// The lab's seed.
    pub seed: u64,
    /// By how much the broadcaster was held back (negative: the viewer), where a router takes ports.
    pub skew_ms: i64,
    /// The viewer's first path: how it came to be.
    pub first: Option<String>,
    /// And when.
    pub open_ms: Option<f64>,
    /// When the first direct path came.
    pub direct_ms: Option<f64>,
    /// When the broadcaster's first path was proved there.
    pub proved_ms: Option<f64>,
    /// The viewer's whole way from its start to the first path and a connection on it.
    pub total_ms: Option<f64>,
    /// How the viewer ended, where it had no path.
    pub exit: Option<i32>,
    /// And after how long.
    pub ended_ms: Option<f64>,
    /// Its last words, where it had no path.
    pub message: Option<String>,
}

impl Record {
    /// Whether a direct path came in time.
    pub fn is_direct(&self) -> bool {
        self.direct_ms.is_some_and(|ms| ms <= DIRECT_WITHIN.as_secs_f64() * 1000.0)
    }

    /// Whether there was a relayed path in time.
    pub fn is_relayed_in_time(&self) -> bool {
        let in_time = |ms: f64| ms <= RELAYED_WITHIN.as_secs_f64() * 1000.0;
        self.first.as_deref() == Some("relayed") && self.open_ms.is_some_and(in_time)
    }
}
