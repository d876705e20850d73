//! A stream of HTTP/2 as a stream of bytes.

use super::leg::Leg;
use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes given to HTTP/2 at once: one frame of the size that every peer takes (RFC 9113 §4.2).
const LARGEST_FRAME: usize = 16 * 1024;

/// Both directions of a stream. END_STREAM ends one of them in order; RST_STREAM aborts both.
pub struct H2Leg {
    sender: SendStream<Bytes>,
    receiver: RecvStream,
    /// What has come and was not read yet; its part of the window is not given back before it is.
    unread: Bytes,
    has_ended: bool,
}

impl H2Leg {
    /// Joins the two directions.
    pub fn new(sender: SendStream<Bytes>, receiver: RecvStream) -> Self {
        Self { sender, receiver, unread: Bytes::new(), has_ended: false }
    }
}

impl AsyncRead for H2Leg {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.receiver.poll_data(cx)) {
                Some(Ok(piece)) => self.unread = piece,
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let size = self.unread.len().min(buffer.remaining());
        buffer.put_slice(self.unread.get(..size).unwrap_or_default());
        self.unread.advance(size);
        self.receiver.flow_control().release_capacity(size).map_err(io_error)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Leg {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let wanted = bytes.len().min(LARGEST_FRAME);
        self.sender.reserve_capacity(wanted);
        loop {
            let room = match self.sender.capacity() {
                0 => match ready!(self.sender.poll_capacity(cx)) {
                    Some(Ok(room)) => room,
                    Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                    None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                },
                room => room,
            };
            if room > 0 {
                let size = room.min(wanted);
                let piece = Bytes::copy_from_slice(bytes.get(..size).unwrap_or_default());
                self.sender.send_data(piece, false).map_err(io_error)?;
                return Poll::Ready(Ok(size));
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // the task of the connection writes
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_ended {
            self.has_ended = true;
            self.sender.send_data(Bytes::new(), true).map_err(io_error)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Leg for H2Leg {
    fn abort(&mut self) {
        self.sender.send_reset(Reason::CANCEL);
    }
}

/// Sends all of it, as the peer takes it; `false` if it takes nothing more.
pub async fn send_all(sender: &mut SendStream<Bytes>, mut bytes: Bytes) -> bool {
    while !bytes.is_empty() {
        sender.reserve_capacity(bytes.len());
        let Some(Ok(room)) = std::future::poll_fn(|cx| sender.poll_capacity(cx)).await else { return false };
        let piece = bytes.split_to(room.min(bytes.len()));
        if sender.send_data(piece, false).is_err() {
            return false;
        }
    }
    true
}

fn io_error(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
