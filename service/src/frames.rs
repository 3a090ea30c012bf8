//! Frames between processes of one program, over a Unix socket: a length (4 bytes, big-endian), a kind (1 byte), and a
//! body.

use std::io::{self, Read};

use minicbor::Encode;

/// Bytes in front of a body.
const HEADER: usize = 5;

/// A frame under way: its body is appended.
#[derive(Debug)]
pub struct Frame(Vec<u8>);

impl Frame {
    /// An empty one, with room for a body of so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut frame = Vec::with_capacity(HEADER + bytes);
        frame.resize(HEADER, 0);
        Self(frame)
    }

    /// What has been appended so far follows it.
    pub fn body(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// The bytes to send, as a frame of this kind.
    pub fn finish(mut self, kind: u8) -> Vec<u8> {
        let length = (self.0.len() - HEADER) as u32;
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0[4] = kind;
        self.0
    }
}

/// A frame of this kind with something in CBOR (RFC 8949).
pub fn words<T: Encode<()>>(kind: u8, words: &T) -> Vec<u8> {
    let mut frame = Frame::with_capacity(0);
    // Writing to memory does not fail.
    if let Err(error) = minicbor::encode(words, frame.body()) {
        tracing::error!(%error, "words that cannot be written");
    }
    frame.finish(kind)
}

/// Something read makes no sense.
pub fn nonsense(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Kind and body of the next frame, of at most so many bytes; `None` at the end.
///
/// # Errors
///
/// Where reading fails, or the frame is too long.
pub fn read(from: &mut impl Read, most: usize) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut header = [0; HEADER];
    let begun = loop {
        match from.read(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            begun => break begun?,
        }
    };
    if begun == 0 {
        return Ok(None);
    }
    from.read_exact(&mut header[begun..])?;
    let [a, b, c, d, kind] = header;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > most {
        return Err(nonsense("a frame that is too long"));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(Some((kind, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = Frame::with_capacity(body.len());
        frame.body().extend(body);
        frame.finish(kind)
    }

    #[test]
    fn frames_come_as_they_went() {
        let bytes = [frame(1, b"one"), frame(2, b""), frame(3, &[7; 1000])].concat();
        let mut from = &bytes[..];
        assert_eq!(read(&mut from, 1000).expect("whole"), Some((1, b"one".to_vec())));
        assert_eq!(read(&mut from, 1000).expect("whole"), Some((2, Vec::new())));
        assert_eq!(read(&mut from, 1000).expect("whole"), Some((3, vec![7; 1000])));
        assert_eq!(read(&mut from, 1000).expect("the end"), None);
        assert!(read(&mut &bytes[..], 2).is_err(), "too long");
        assert!(read(&mut &bytes[..6], 9).is_err(), "cut");
    }
}
