//! `punchcast-viewer`.

use std::process::ExitCode;
use std::time::Instant;

use service::exit::{Failure, finish};
use viewer::Args;

fn main() -> ExitCode {
    let started_at = Instant::now();
    finish("punchcast-viewer", service::cli::parse().and_then(|args| start(args, started_at)))
}

fn start(args: Args, started_at: Instant) -> Result<(), Failure> {
    let command = viewer::Command::load(args)?;
    viewer::start_log(&command);
    // What it may do no more holds for threads that start later.
    if let viewer::Command::Play { outputs, .. } = &command {
        return viewer::play(outputs);
    }
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::runtime(format!("cannot start: {error}")))?;
    let result = runtime.block_on(viewer::run(command, started_at));
    // Name look-ups may still be under way; nobody waits for them.
    runtime.shutdown_background();
    result
}
