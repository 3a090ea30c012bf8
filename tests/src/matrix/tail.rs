//! Following a program's log without reading all of it again and again.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::Output;

/// Short against the 10 ms that a message takes from the rendezvous to either party.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// A place in a log.
#[derive(Debug)]
pub(super) struct Tail {
    file: File,
    rest: String,
}

impl Tail {
    /// Begins at the log's end.
    pub(super) fn new(output: &Output) -> Self {
        let mut file = File::open(output.path()).expect("the lab keeps every log");
        file.seek(SeekFrom::End(0)).expect("a file can be sought in");
        Self { file, rest: String::new() }
    }

    /// Waits for a line and gives it. Those before it are gone.
    pub(super) fn wait(&mut self, timeout: Duration, wanted: &str) -> Option<String> {
        let deadline = Instant::now() + timeout;
        loop {
            let mut new = Vec::new();
            self.file.read_to_end(&mut new).expect("a log can be read");
            self.rest += &String::from_utf8_lossy(&new);
            while let Some(end) = self.rest.find('\n') {
                let line: String = self.rest.drain(..=end).collect();
                if line.contains(wanted) {
                    return Some(line);
                }
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }
}
