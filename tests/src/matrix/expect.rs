//! What theory allows between two kinds, and what is asked of the programs.

use std::time::Duration;

use super::kind::Kind;
use super::record::{Profile, Record};

/// How long an outcome other than a direct path may take, from introduction to a relayed path.
pub(super) const RELAYED_WITHIN: Duration = Duration::from_secs(2);

/// How long a search or a prediction may take.
pub(super) const DIRECT_WITHIN: Duration = Duration::from_secs(10);

/// What a pair of kinds should come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// A few openers suffice.
    Direct,
    /// A port has to be guessed.
    Predicted,
    /// A port has to be guessed on both sides.
    Forecast,
    /// Ports have to be searched.
    Searched,
    /// No direct path.
    Relayed,
    /// No path at all.
    Nothing,
}

impl Expect {
    /// For a broadcaster and a viewer; it makes no difference which is which.
    pub fn of(broadcaster: &Kind, viewer: &Kind) -> Self {
        let pair = [broadcaster, viewer];
        let is_known = |kind: &Kind| !kind.is_random() && !kind.is_sequential();
        if pair.iter().any(|kind| kind.is_blocked()) {
            Self::Nothing
        } else if pair.iter().any(|kind| kind.is_lenient()) || pair.iter().all(|k| is_known(k)) {
            Self::Direct
        } else if pair.iter().all(|kind| kind.is_sequential()) {
            Self::Forecast
        } else if !pair.iter().any(|kind| is_known(kind)) {
            Self::Relayed
        } else if pair.iter().any(|kind| kind.is_sequential()) {
            Self::Predicted
        } else {
            Self::Searched
        }
    }

    /// Whether a direct path may come after a relayed one.
    pub fn may_improve(self) -> bool {
        matches!(self, Self::Predicted | Self::Forecast | Self::Searched)
    }

    /// The share of tries, 0 to 1, that must end with a direct path within [`DIRECT_WITHIN`].
    pub fn direct_share(self, profile: Profile) -> f64 {
        match self {
            Self::Direct => 1.0,
            Self::Predicted if profile == Profile::Competing => 0.9,
            Self::Predicted | Self::Searched => 0.95,
            Self::Forecast => 0.9,
            Self::Relayed | Self::Nothing => 0.0,
        }
    }

    /// Whether one try came out as it should, or as it may.
    pub fn allows(self, record: &Record) -> bool {
        match self {
            Self::Direct => record.is_direct(),
            Self::Nothing => record.open_ms.is_none(),
            _ => record.is_direct() || record.is_relayed_in_time(),
        }
    }
}
