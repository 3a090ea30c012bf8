use std::future::{pending, ready};

use super::*;

#[tokio::test]
async fn the_other_is_waited_for_only_after_a_failure() {
    assert_eq!(prefer(ready(Ok::<_, ()>(1)), pending::<()>()).await, Ok(1));
    assert_eq!(prefer(ready(Err::<(), _>(1)), ready(2)).await, Err((1, 2)));
    let late = async {
        tokio::task::yield_now().await;
        3
    };
    assert_eq!(prefer(ready(Err::<(), _>(1)), late).await, Err((1, 3)));
    let slow = async {
        tokio::task::yield_now().await;
        Err::<(), _>(4)
    };
    assert_eq!(prefer(slow, ready(2)).await, Err((4, 2)));
}

#[test]
fn only_addresses_that_peers_reach_are_used() {
    let port = NonZeroU16::new(5000).expect("it is not zero");
    for (address, is_usable) in [
        ("198.18.2.2", true),
        ("100.64.0.1", true),
        ("192.168.0.2", false),
        ("10.0.0.2", false),
        ("0.0.0.0", false),
        ("127.0.0.1", false),
        ("169.254.1.1", false),
        ("224.0.0.1", false),
        ("::ffff:10.0.0.1", false),
        ("::ffff:198.18.2.2", true),
    ] {
        let judged = usable(address.parse().expect("an address of the table"), port);
        assert_eq!(judged.is_ok(), is_usable, "{address}: {judged:?}");
    }
}

#[tokio::test]
async fn port_zero_is_never_mapped() {
    let mapping = PortMapping::start(0);
    let mut changes = mapping.watch();
    assert_eq!(*changes.borrow_and_update(), None);
    assert!(changes.changed().await.is_err(), "the task ends at once");
    mapping.release().await;
}

#[test]
fn tries_become_rarer_until_something_changes() {
    let (sender, _changes) = watch::channel(None);
    let port = NonZeroU16::new(5000).expect("it is not zero");
    let mut keeper = Keeper::new(port, Timing::default(), sender);
    let mut waits = Vec::new();
    for _ in 0..8 {
        let before = Instant::now();
        keeper.put_off(&[Refusal::NoTime]);
        waits.push((keeper.retry_at - before).as_secs().div_euclid(60));
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 32, 32]);
    keeper.try_soon();
    assert!(keeper.retry_at <= Instant::now());
    keeper.put_off(&[]);
    assert!(keeper.retry_at - Instant::now() <= Duration::from_secs(60));
}
