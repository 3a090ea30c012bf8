//! What a result was measured on.

use std::fs;
use std::process::Command;

/// Kernel, processor, compiler, GStreamer and date, in one line.
pub fn describe() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let gstreamer = gstreamer::version_string();
    format!(
        "Linux {}, {}, {}, {gstreamer}, {}",
        kernel.trim(),
        processor(),
        first_line("rustc", "--version"),
        first_line("date", "+%F"),
    )
}

fn processor() -> String {
    let listing = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let mut lines = listing.lines().filter(|line| line.starts_with(name));
        lines.find_map(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!(
        "{cores} × {}",
        field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned())
    )
}

fn first_line(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    match text.ok().as_deref().and_then(|text| text.lines().next()) {
        Some(line) => line.to_owned(),
        None => format!("{program} not found"),
    }
}
