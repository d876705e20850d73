//! A look at what a client has sent, without taking it from the socket.

use rustix::net::RecvFlags;
use std::io;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What `read` makes of the first bytes, `longest` of them at most: it is asked again with each that comes, until it has
/// enough. `None`: the client has ended or reset the connection before.
pub async fn peek<T>(stream: &TcpStream, longest: usize, read: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    let mut bytes = vec![0; longest];
    loop {
        let ready = stream.ready(Interest::READABLE).await.ok()?;
        let looked = stream.try_io(Interest::READABLE, || {
            let (length, _) = rustix::net::recv(stream, &mut *bytes, RecvFlags::PEEK)?;
            match read(bytes.get(..length).unwrap_or_default()) {
                // Woken by the next bytes.
                None if length > 0 => Err(io::ErrorKind::WouldBlock.into()),
                read => Ok(read),
            }
        });
        match looked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !ready.is_read_closed() => {}
            looked => return looked.ok().flatten(),
        }
    }
}
