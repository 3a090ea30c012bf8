//! `punchcast-broadcaster`.

use std::io::Write;
use std::process::ExitCode;

use broadcaster::{Args, Config, arguments};
use service::exit::{Failure, finish};

fn main() -> ExitCode {
    let args = arguments::hide_logins()
        .and_then(|()| service::cli::parse())
        .and_then(arguments::with_login);
    finish("punchcast-broadcaster", args.and_then(start))
}

fn start(args: Args) -> Result<(), Failure> {
    // Before there are threads.
    transport::kernel::share_heap();
    if let Some(action) = &args.action {
        let text = action.run(&args)?;
        // Whoever reads may have seen enough.
        let _ = std::io::stdout().write_all(text.as_bytes());
        return Ok(());
    }
    let config = Config::load(args)?;
    service::log::init(config.log_format);
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::runtime(format!("cannot start: {error}")))?;
    let result = runtime.block_on(broadcaster::run(config));
    // Name look-ups may still be under way; nobody waits for them.
    runtime.shutdown_background();
    result
}
