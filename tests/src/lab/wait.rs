//! Waiting for conditions.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Pause between two looks at a condition: short against anything a test measures, long enough not
/// to load the machine.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Looks at `condition` until it holds or `timeout` has passed, and tells whether it held.
#[must_use = "the condition may not have come to hold"]
pub fn eventually(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    until(timeout, || condition().then_some(())).is_some()
}

/// Calls `look` until it gives a value or `timeout` has passed.
pub(crate) fn until<T>(timeout: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline_at = Instant::now() + timeout;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= deadline_at {
            return None;
        }
        thread::sleep(LOOK_INTERVAL);
    }
}
