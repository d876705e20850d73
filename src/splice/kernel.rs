//! Carries bytes from one socket to another through a pipe, in the kernel: they are never copied into this process (splice(2)).

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe is to hold; where the system allows less, it holds less.
const PIPE: usize = 256 * 1024;
/// Pipes that are kept for the next who needs one. A connection on which nothing is said has none.
const MOST_POOLED: usize = 256;

static POOL: Mutex<Vec<Pipe>> = Mutex::new(Vec::new());

/// An empty pipe, but for what [`Flow`] has counted.
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Pipe {
    fn take() -> io::Result<Self> {
        if let Some(pipe) = POOL.lock().pop() {
            return Ok(pipe);
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let _ = fcntl_setpipe_size(&writer, PIPE);
        Ok(Self { reader, writer })
    }

    fn give_back(self) {
        let mut pool = POOL.lock();
        if pool.len() < MOST_POOLED {
            pool.push(self);
        }
    }
}

/// What is on its way in one direction.
#[derive(Default)]
pub struct Flow {
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
}

/// What came of taking bytes.
pub enum Taken {
    /// So many are held.
    Some,
    /// The reader has ended in order.
    End,
    /// The kernel does not splice these sockets, or has no pipe for them. Nothing was taken.
    Unable,
}

impl Flow {
    /// Gives the writer all that is held.
    pub fn poll_give(&mut self, writer: &TcpStream, count: &AtomicU64, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(pipe) = self.pipe.as_ref().filter(|_| self.held > 0) {
            ready!(writer.poll_write_ready(cx))?;
            let moved = writer.try_io(Interest::WRITABLE, || Ok(splice_once(&pipe.reader, writer, self.held)?));
            match moved {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(size) => {
                    self.held -= size;
                    count.fetch_add(size as u64, Ordering::Relaxed);
                }
                // Not ready after all: it says when.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what the reader has. Nothing is held when this is called.
    pub fn poll_take(&mut self, reader: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<Taken>> {
        loop {
            if reader.poll_read_ready(cx)?.is_pending() {
                // A direction that waits holds no pipe.
                self.pipe.take().into_iter().for_each(Pipe::give_back);
                return Poll::Pending;
            }
            let pipe = match &self.pipe {
                Some(pipe) => pipe,
                // Without descriptors for a pipe, bytes can still be copied.
                None => match Pipe::take() {
                    Ok(pipe) => self.pipe.insert(pipe),
                    Err(_) => return Poll::Ready(Ok(Taken::Unable)),
                },
            };
            match reader.try_io(Interest::READABLE, || Ok(splice_once(reader, &pipe.writer, PIPE)?)) {
                Ok(0) => return Poll::Ready(Ok(Taken::End)),
                Ok(size) => {
                    self.held = size;
                    return Poll::Ready(Ok(Taken::Some));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if is_inability(&error) => return Poll::Ready(Ok(Taken::Unable)),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // With bytes in it, it is of no use to others.
        if self.held == 0 {
            self.pipe.take().into_iter().for_each(Pipe::give_back);
        }
    }
}

fn splice_once(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, size: usize) -> rustix::io::Result<usize> {
    splice(from, None, to, None, size, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)
}

/// A socket of a kind that has no splice, or a filter of system calls that does not know it.
fn is_inability(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    [Errno::INVAL, Errno::NOSYS, Errno::PERM, Errno::OPNOTSUPP].iter().any(|no| number == Some(no.raw_os_error()))
}
