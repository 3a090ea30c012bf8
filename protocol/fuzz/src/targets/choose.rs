//! Values made of a fuzzer's bytes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use punchcast_protocol::candidate::{Candidate, CandidateKind};

/// What a fuzzer decided.
pub(super) type Input<'a> = Unstructured<'a>;

/// Whether there is more to do: a loop over this ends when the input does.
pub(super) fn goes_on(input: &Input<'_>) -> bool {
    !input.is_empty()
}

/// 0–64 bytes, so that long inputs buy more steps rather than longer steps.
pub(super) fn few_bytes(input: &mut Input<'_>) -> Result<Vec<u8>> {
    let length = input.int_in_range(0..=64usize)?.min(input.len());
    input.bytes(length).map(<[u8]>::to_vec)
}

/// Text of at most 64 bytes.
pub(super) fn text(input: &mut Input<'_>) -> Result<String> {
    few_bytes(input).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Up to `most` values.
pub(super) fn several<'a, T>(
    input: &mut Input<'a>,
    most: usize,
    mut one: impl FnMut(&mut Input<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..input.int_in_range(0..=most)?).map(|_| one(input)).collect()
}

/// Any address.
pub(super) fn address(input: &mut Input<'_>) -> Result<SocketAddr> {
    let ip: IpAddr = if input.arbitrary()? {
        input.arbitrary::<[u8; 4]>()?.into()
    } else {
        input.arbitrary::<[u8; 16]>()?.into()
    };
    Ok(SocketAddr::new(ip, input.arbitrary()?))
}

/// Any candidate.
pub(super) fn candidate(input: &mut Input<'_>) -> Result<Candidate> {
    Ok(Candidate::new(address(input)?, *input.choose(&CandidateKind::ALL)?))
}

/// A step in time: mostly milliseconds, sometimes microseconds or minutes.
pub(super) fn step(input: &mut Input<'_>) -> Result<Duration> {
    let amount = u64::from(input.arbitrary::<u16>()?);
    Ok(match input.int_in_range(0..=7u8)? {
        0 => Duration::from_micros(amount),
        1 => Duration::from_secs(amount / 256),
        _ => Duration::from_millis(amount / 32),
    })
}

/// Changes a message: some bytes set, then perhaps cut, then perhaps made longer.
pub(super) fn mutate(input: &mut Input<'_>, bytes: &mut Vec<u8>) -> Result<()> {
    for _ in 0..input.int_in_range(0..=3u8)? {
        if !bytes.is_empty() {
            let at = input.choose_index(bytes.len())?;
            bytes[at] ^= input.arbitrary::<u8>()?;
        }
    }
    match input.int_in_range(0..=3u8)? {
        0 => bytes.truncate(input.int_in_range(0..=bytes.len())?),
        1 => bytes.extend(few_bytes(input)?),
        _ => {}
    }
    Ok(())
}
