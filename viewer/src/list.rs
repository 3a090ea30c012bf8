//! Showing what a broadcaster offers.

use std::io::Write;

use protocol::control::{Request, Response, close};
use quinn::VarInt;
use service::exit::Failure;

use crate::config::Target;
use crate::meeting::Viewer;
use crate::session::{ask, refused};

/// Meets the broadcaster, asks, and prints one line for each channel.
pub(crate) async fn run(target: Target) -> Result<(), Failure> {
    let (viewer, _media) = Viewer::open(None)?;
    let met = viewer.meet(&target, false, |_| {}).await?;
    let broken = |error: &dyn std::fmt::Display| {
        Failure::runtime(format!("the broadcaster broke off: {error}; try again"))
    };
    let list = Request::List { secret: target.link.secret.clone() };
    let (_send, _receive, response) = ask(&met, &list).await?;
    met.connection.close(VarInt::from_u32(close::DONE), b"");
    match response {
        Response::Catalogue { channels } => {
            let mut table = format!("{:<24} TRACKS\n", "CHANNEL");
            for channel in channels {
                let tracks: Vec<String> = channel
                    .formats
                    .iter()
                    .map(|format| format!("{} {}", format.kind, format.encoding_name))
                    .collect();
                table += &format!("{:<24} {}\n", channel.name, tracks.join(", "));
            }
            // Whoever reads may have seen enough.
            let _ = std::io::stdout().write_all(table.as_bytes());
            viewer.port.endpoint().wait_idle().await;
            Ok(())
        }
        Response::Refused { reason } => Err(refused(reason, "")),
        _ => Err(broken(&"it answered what was not asked")),
    }
}
