//! Control messages on QUIC streams.

use minicbor::{Decode, Encode};
use protocol::message::{self, LENGTH_PREFIX, MessageError};
use quinn::{ReadExactError, RecvStream, SendStream, WriteError};

/// Most bytes taken from a stream at once.
const MOST_AT_ONCE: usize = 16 * 1024;

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The peer finished the stream; there is no further message.
    #[error("the stream ended")]
    Finished,
    /// The connection or stream broke.
    #[error("the connection broke: {0}")]
    Broken(ReadExactError),
    /// The peer sent something that is no message.
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// Reads one message.
pub async fn read<T>(stream: &mut RecvStream) -> Result<T, ReadError>
where
    T: for<'a> Decode<'a, ()>,
{
    let mut prefix = [0; LENGTH_PREFIX];
    match stream.read_exact(&mut prefix).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Err(ReadError::Finished),
        Err(error) => return Err(ReadError::Broken(error)),
    }
    let mut bytes = vec![0; message::announced_length(prefix)?];
    stream.read_exact(&mut bytes).await.map_err(ReadError::Broken)?;
    Ok(message::decode(&bytes)?)
}

/// Reads message after message. A wait that is given up loses nothing: what had come of a message is
/// kept for the next one.
#[derive(Debug)]
pub struct Reader {
    stream: RecvStream,
    received: Vec<u8>,
}

impl Reader {
    /// Reads from the beginning of a message.
    pub fn new(stream: RecvStream) -> Self {
        Self { stream, received: Vec::new() }
    }

    /// The next message.
    pub async fn next<T>(&mut self) -> Result<T, ReadError>
    where
        T: for<'a> Decode<'a, ()>,
    {
        loop {
            if let Some((prefix, rest)) = self.received.split_first_chunk::<LENGTH_PREFIX>() {
                let length = message::announced_length(*prefix)?;
                if let Some(bytes) = rest.get(..length) {
                    let message = message::decode(bytes)?;
                    self.received.drain(..LENGTH_PREFIX + length);
                    return Ok(message);
                }
            }
            let chunk = self.stream.read_chunk(MOST_AT_ONCE, true).await;
            match chunk.map_err(|error| ReadError::Broken(ReadExactError::ReadError(error)))? {
                Some(chunk) => self.received.extend_from_slice(&chunk.bytes),
                None if self.received.is_empty() => return Err(ReadError::Finished),
                None => {
                    let early = ReadExactError::FinishedEarly(self.received.len());
                    return Err(ReadError::Broken(early));
                }
            }
        }
    }
}

/// Writes one message.
pub async fn write<T: Encode<()>>(stream: &mut SendStream, message: &T) -> Result<(), WriteError> {
    stream.write_all(&message::encode(message)).await
}
