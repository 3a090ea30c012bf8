//! What a viewer asks of the broadcaster over their connection, and refusals in words.

use std::time::Duration;

use protocol::control::{Admission, Refusal, Request, Response, close};
use protocol::library::Take;
use protocol::link::{Link, Target};
use protocol::tag::TAG;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use service::exit::{Code, Failure};
use transport::stream;

use crate::meeting::Met;

/// How long the broadcaster may take to answer a request: its source may only be starting.
const ANSWER: Duration = Duration::from_secs(12);

/// After so long without an answer people want to know why.
const WONDER: Duration = Duration::from_secs(3);

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::runtime(format!("the broadcaster broke off: {error}; try again"))
}

/// The broadcaster answered something else.
pub(crate) fn not_asked() -> Failure {
    broken("it answered what was not asked")
}

/// Asks to be admitted to a live channel.
pub(crate) async fn watch(
    met: &Met,
    link: &Link,
    latency: Duration,
) -> Result<(SendStream, RecvStream, Admission), Failure> {
    let Target::Channel(channel) = &link.target else {
        return Err(Failure::usage("the link names a stored file, and no channel"));
    };
    let watch = Request::Watch {
        channel: channel.clone(),
        secret: link.secret.clone(),
        latency_ms: u32::try_from(latency.as_millis()).unwrap_or(u32::MAX),
    };
    let (send, receive, response) = ask(met, &watch).await?;
    match response {
        Response::Admitted { admission } => Ok((send, receive, understood(admission)?)),
        Response::Refused { reason } => Err(refused(reason, channel)),
        _ => Err(not_asked()),
    }
}

/// An admission by whose words media can be taken.
fn understood(admission: Admission) -> Result<Admission, Failure> {
    match usize::from(admission.viewer_tag) {
        TAG => Ok(admission),
        other => Err(broken(format!("it tags media with {other} bytes; it is of another version"))),
    }
}

/// A take that begins.
pub(crate) struct Begun {
    pub(crate) send: SendStream,
    pub(crate) receive: RecvStream,
    pub(crate) admission: Admission,
    pub(crate) take: Take,
}

/// Asks for a take.
pub(crate) async fn play(
    connection: Connection,
    request: Request,
    link: &Link,
) -> Result<Begun, Failure> {
    let path = match &link.target {
        Target::File(path) | Target::Channel(path) => path,
    };
    let (send, receive, response) = ask_on(&connection, &request).await?;
    match response {
        Response::Playing { admission, take } => {
            Ok(Begun { send, receive, admission: understood(admission)?, take })
        }
        Response::Refused { reason } => Err(refused(reason, path)),
        // Trying again does not help.
        Response::Unplayable { reason } => {
            Err(Failure::new(Code::Unknown, format!("'{path}' cannot be played: {reason}")))
        }
        _ => Err(not_asked()),
    }
}

/// Asks the broadcaster, and waits for its answer.
pub(crate) async fn ask(
    met: &Met,
    request: &Request,
) -> Result<(SendStream, RecvStream, Response), Failure> {
    ask_on(&met.connection, request).await
}

/// Asks the broadcaster on a connection to it, and waits for its answer.
pub(crate) async fn ask_on(
    connection: &Connection,
    request: &Request,
) -> Result<(SendStream, RecvStream, Response), Failure> {
    let answer = tokio::time::timeout(ANSWER, exchange(connection, request)).await;
    let answer = answer.map_err(|_| broken(format_args!("no answer within {ANSWER:?}")));
    let let_in = async { let_in(answer??).await };
    let_in.await.map_err(|failure| removed(connection).unwrap_or(failure))
}

/// What there is to say where the broadcaster ended a connection because its operator removed this viewer.
pub(crate) fn removed(connection: &Connection) -> Option<Failure> {
    let code = VarInt::from_u32(close::REFUSED);
    match connection.close_reason() {
        Some(ConnectionError::ApplicationClosed(closed)) if closed.error_code == code => {
            Some(refused(Refusal::Removed, ""))
        }
        _ => None,
    }
}

/// Where the operator is to let us in first, waits for that as long as the connection lives.
async fn let_in(
    (send, mut receive, mut response): (SendStream, RecvStream, Response),
) -> Result<(SendStream, RecvStream, Response), Failure> {
    while matches!(response, Response::Knocking) {
        tracing::info!(
            event = "knocking",
            "knocked; waiting for the broadcaster's operator to let us in (Ctrl-C gives up)"
        );
        response = stream::read(&mut receive).await.map_err(broken)?;
    }
    Ok((send, receive, response))
}

/// Asks for what may take the broadcaster long, and waits for as long as the connection lives. `takes_long` is
/// called where people may wonder.
pub(crate) async fn ask_for_long(
    connection: &Connection,
    request: &Request,
    takes_long: impl FnOnce(),
) -> Result<(SendStream, RecvStream, Response), Failure> {
    let exchange = exchange(connection, request);
    tokio::pin!(exchange);
    let answer = match tokio::time::timeout(WONDER, &mut exchange).await {
        Ok(answer) => answer,
        Err(_) => {
            takes_long();
            exchange.await
        }
    };
    let let_in = async { let_in(answer?).await };
    let_in.await.map_err(|failure| removed(connection).unwrap_or(failure))
}

async fn exchange(
    connection: &Connection,
    request: &Request,
) -> Result<(SendStream, RecvStream, Response), Failure> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(broken)?;
    stream::write(&mut send, request).await.map_err(broken)?;
    let response = stream::read(&mut receive).await.map_err(broken)?;
    Ok((send, receive, response))
}

/// A refusal as the user reads it.
pub(crate) fn refused(reason: Refusal, channel: &str) -> Failure {
    let (code, text) = match reason {
        Refusal::UnknownChannel => (
            Code::Unknown,
            format!(
                "the broadcaster has no channel '{channel}'; punchcast-viewer list shows what it has"
            ),
        ),
        Refusal::Secret => (
            Code::Refused,
            "the broadcaster refused: the link's secret is wrong or missing; ask for a new link"
                .into(),
        ),
        Refusal::Full => (
            Code::Refused,
            "the broadcaster refused: the broadcast is full; try again later".into(),
        ),
        Refusal::Removed => (
            Code::Refused,
            "the broadcaster refused: its operator removed this viewer; ask them for a new link, \
             or to start the broadcaster again"
                .into(),
        ),
        Refusal::NotReady => {
            (Code::Runtime, "the broadcaster's source has not started yet; try again".into())
        }
        Refusal::UnknownFile => (
            Code::Unknown,
            format!(
                "the broadcaster has no stored file '{channel}'; punchcast-viewer list shows what it has"
            ),
        ),
        Refusal::TooMany => (
            Code::Refused,
            "the broadcaster refused: that is more at once than one viewer may have; end another \
             of your household, or try again later"
                .into(),
        ),
        Refusal::Malformed => {
            (Code::Runtime, "the broadcaster did not understand; are both of one version?".into())
        }
    };
    Failure::new(code, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_says_what_to_try() {
        let all = [
            Refusal::UnknownChannel,
            Refusal::Secret,
            Refusal::Full,
            Refusal::Removed,
            Refusal::NotReady,
            Refusal::UnknownFile,
            Refusal::TooMany,
            Refusal::Malformed,
        ];
        for reason in all {
            let line = refused(reason, "live").message;
            let (_, to_try) = line.split_once(';').unwrap_or_else(|| panic!("{reason:?}: {line}"));
            assert!(!to_try.trim().is_empty(), "{line}");
        }
    }
}
