//! A look at what a client has sent, without taking it from the socket.

use rustix::net::RecvFlags;
use std::io;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpStream;

/// What most have sent at first fits into so many bytes.
const USUAL: usize = 2048;
/// What ends the head of a message of HTTP/1.1.
const BLANK_LINE: &[u8] = b"\r\n\r\n";

/// What `read` makes of the first bytes, `longest` of them at most: it is asked again with each that comes, until it has
/// enough. `None`: the client has ended or reset the connection before.
pub async fn peek<T>(stream: &TcpStream, longest: usize, read: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    let mut bytes = vec![0; longest.min(USUAL)];
    loop {
        let ready = stream.ready(Interest::READABLE).await.ok()?;
        let looked = stream.try_io(Interest::READABLE, || {
            loop {
                let (length, _) = rustix::net::recv(stream, &mut *bytes, RecvFlags::PEEK)?;
                match read(bytes.get(..length).unwrap_or_default()) {
                    None if length == bytes.len() && length < longest => bytes.resize(longest, 0),
                    // Woken by the next bytes.
                    None if length > 0 => return Err(io::ErrorKind::WouldBlock.into()),
                    read => return Ok(read),
                }
            }
        });
        match looked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !ready.is_read_closed() => {}
            looked => return looked.ok().flatten(),
        }
    }
}

/// Takes the head of a message of HTTP/1.1 from the socket, the blank line included, and nothing of what is behind it.
///
/// # Errors
/// What the system said, the socket's end, or `InvalidData` if the head is longer than this.
pub async fn take_head(stream: &mut TcpStream, longest: usize) -> io::Result<Vec<u8>> {
    let length = peek(stream, longest, |bytes| {
        let end = bytes.windows(BLANK_LINE.len()).position(|window| window == BLANK_LINE);
        let length: Option<io::Result<usize>> = end.map(|end| Ok(end + BLANK_LINE.len()));
        length.or_else(|| (bytes.len() >= longest).then(|| Err(io::ErrorKind::InvalidData.into())))
    });
    let length = length.await.ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut head = vec![0; length?];
    stream.read_exact(&mut head).await?;
    Ok(head)
}
