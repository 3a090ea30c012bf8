//! `punchcast-rendezvous`.

use std::process::ExitCode;

use rendezvous::{Args, Config};
use service::exit::{Failure, finish};

fn main() -> ExitCode {
    finish("punchcast-rendezvous", service::cli::parse().and_then(start))
}

fn start(args: Args) -> Result<(), Failure> {
    let config = Config::load(args)?;
    service::log::init(config.log_format);
    tokio::runtime::Runtime::new()
        .map_err(|error| Failure::runtime(format!("cannot start: {error}")))?
        .block_on(rendezvous::run(config))
}
