//! Control messages on QUIC streams.

use minicbor::{Decode, Encode};
use protocol::message::{self, LENGTH_PREFIX, MessageError};
use quinn::{ReadExactError, RecvStream, SendStream, WriteError};

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

/// Writes one message.
pub async fn write<T: Encode<()>>(stream: &mut SendStream, message: &T) -> Result<(), WriteError> {
    stream.write_all(&message::encode(message)).await
}
