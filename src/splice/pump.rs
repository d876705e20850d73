//! Carries bytes between two legs until both directions have ended.

use super::kernel::{Flow, Taken};
use super::leg::{Leg, end_abruptly_if_killed, end_in_order};
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Bytes read at once. The buffer is the thread's: a connection that waits holds none.
const BUFFER: usize = 64 * 1024;

/// So often one direction reads before others have their turn: a connection that always has bytes keeps none waiting.
const TURN: usize = 4;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// What has been carried. Readable while it goes on.
#[derive(Debug, Default)]
pub struct Counts {
    /// Bytes that the second leg was given of the first.
    pub forth: AtomicU64,
    /// Bytes that the first leg was given of the second.
    pub back: AtomicU64,
}

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    /// Both legs have said that they say no more.
    InOrder,
    /// The first leg has failed, or could not be written to; the other is told by an abrupt end.
    FirstFailed(io::Error),
    /// The second leg, likewise.
    SecondFailed(io::Error),
    /// Nothing was said by either for as long as may be.
    Idle,
}

impl Ended {
    /// How it ended, in words, where the legs are called so.
    pub fn words(&self, first: &str, second: &str) -> String {
        match self {
            Self::InOrder => "in order".to_owned(),
            Self::FirstFailed(error) => format!("{first}: {error}"),
            Self::SecondFailed(error) => format!("{second}: {error}"),
            Self::Idle => "idle".to_owned(),
        }
    }
}

/// One direction.
struct Direction {
    way: Way,
    stage: Stage,
}

/// How bytes get from one leg to the other.
enum Way {
    /// Both are sockets with nothing in front: in the kernel.
    Kernel(Flow),
    /// By memory of this process.
    Memory(Copying),
}

/// Bytes that were read and not yet taken by the writer.
#[derive(Default)]
struct Copying {
    held: Vec<u8>,
    at: usize,
    is_unflushed: bool,
}

#[derive(PartialEq, Eq)]
enum Stage {
    Open,
    /// The reader has ended; the writer is being told.
    Closing,
    Closed,
}

/// Which leg has failed.
enum Failed {
    Reader(io::Error),
    Writer(io::Error),
}

impl Direction {
    fn new(reader: &impl Leg, writer: &impl Leg) -> Self {
        let is_plain = reader.socket().is_some() && writer.socket().is_some();
        let way = if is_plain { Way::Kernel(Flow::default()) } else { Way::Memory(Copying::default()) };
        Self { way, stage: Stage::Open }
    }

    fn poll(
        &mut self,
        reader: &mut impl Leg,
        writer: &mut impl Leg,
        count: &AtomicU64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        for _ in 0..TURN {
            ready!(self.give(writer, count, cx))?;
            match self.stage {
                Stage::Closed => return Poll::Ready(Ok(())),
                Stage::Closing => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Failed::Writer)?;
                    self.stage = Stage::Closed;
                }
                Stage::Open => ready!(self.carry(reader, writer, count, cx))?,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives the writer what is held.
    fn give(&mut self, writer: &mut impl Leg, count: &AtomicU64, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        match (&mut self.way, writer.socket()) {
            (Way::Kernel(flow), Some(socket)) => flow.poll_give(socket, count, cx).map_err(Failed::Writer),
            (Way::Kernel(_), None) => Poll::Ready(Ok(())),
            (Way::Memory(copying), _) => copying.give(writer, count, cx),
        }
    }

    /// Reads once.
    fn carry(
        &mut self,
        reader: &mut impl Leg,
        writer: &mut impl Leg,
        count: &AtomicU64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        let has_more = match (&mut self.way, reader.socket()) {
            (Way::Kernel(flow), Some(socket)) => match ready!(flow.poll_take(socket, cx)).map_err(Failed::Reader)? {
                Taken::Some => true,
                Taken::End => false,
                Taken::Unable => {
                    self.way = Way::Memory(Copying::default());
                    true
                }
            },
            (Way::Kernel(_), None) => false,
            (Way::Memory(copying), _) => ready!(copying.carry(reader, writer, count, cx))?,
        };
        if !has_more {
            self.stage = Stage::Closing;
        }
        Poll::Ready(Ok(()))
    }
}

impl Copying {
    /// Gives the writer what is held.
    fn give(
        &mut self,
        writer: &mut (impl AsyncWrite + Unpin),
        count: &AtomicU64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        while let Some(rest) = self.held.get(self.at..).filter(|rest| !rest.is_empty()) {
            let size = ready!(Pin::new(&mut *writer).poll_write(cx, rest)).map_err(Failed::Writer)?;
            self.wrote(size, count).map_err(Failed::Writer)?;
            self.at += size;
        }
        self.held = Vec::new();
        self.at = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads once, and gives the writer what it takes at once; `false` where the reader has ended.
    fn carry(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        count: &AtomicU64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, Failed>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            if Pin::new(reader).poll_read(cx, &mut buffer).map_err(Failed::Reader)?.is_pending() {
                if self.is_unflushed {
                    self.is_unflushed = Pin::new(&mut *writer).poll_flush(cx).map_err(Failed::Writer)?.is_pending();
                }
                return Poll::Pending;
            }
            let mut rest = buffer.filled();
            let has_more = !rest.is_empty();
            while !rest.is_empty() {
                match Pin::new(&mut *writer).poll_write(cx, rest).map_err(Failed::Writer)? {
                    Poll::Ready(size) => {
                        self.wrote(size, count).map_err(Failed::Writer)?;
                        rest = rest.get(size..).unwrap_or_default();
                    }
                    Poll::Pending => {
                        self.held = rest.to_vec();
                        break;
                    }
                }
            }
            Poll::Ready(Ok(has_more))
        })
    }

    fn wrote(&mut self, size: usize, count: &AtomicU64) -> io::Result<()> {
        if size == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.is_unflushed = true;
        count.fetch_add(size as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Carries bytes both ways. A leg that ends one direction leaves the other open for as long as its ends like, unless nothing
/// is said for `idle`. Legs that did not end in order are aborted, also where the returned future is dropped.
pub async fn join(first: &mut impl Leg, second: &mut impl Leg, counts: &Counts, idle: Option<Duration>) -> Ended {
    let (mut forth, mut back) = (Direction::new(first, second), Direction::new(second, first));
    let mut silence = idle.map(|idle| Silence::new(idle, counts));
    let mut legs = Legs::new(first, second);
    let ended = std::future::poll_fn(|cx| {
        // A socket tells of its reset once. To a direction that reads it after that, it looks like an end in order.
        let there = match forth.poll(legs.first, legs.second, &counts.forth, cx) {
            Poll::Ready(Err(Failed::Reader(error))) => return Poll::Ready(Ended::FirstFailed(error)),
            Poll::Ready(Err(Failed::Writer(error))) => return Poll::Ready(Ended::SecondFailed(error)),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        let here = match back.poll(legs.second, legs.first, &counts.back, cx) {
            Poll::Ready(Err(Failed::Reader(error))) => return Poll::Ready(Ended::SecondFailed(error)),
            Poll::Ready(Err(Failed::Writer(error))) => return Poll::Ready(Ended::FirstFailed(error)),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        if there && here {
            return Poll::Ready(Ended::InOrder);
        }
        match silence.as_mut().map(|silence| silence.poll(counts, cx)) {
            Some(Poll::Ready(())) => Poll::Ready(Ended::Idle),
            _ => Poll::Pending,
        }
    })
    .await;
    legs.is_in_order = matches!(ended, Ended::InOrder);
    ended
}

/// Two legs, which are aborted where they have not ended in order: also when nobody waits for their end any more.
struct Legs<'a, First: Leg, Second: Leg> {
    first: &'a mut First,
    second: &'a mut Second,
    is_in_order: bool,
}

impl<'a, First: Leg, Second: Leg> Legs<'a, First, Second> {
    fn new(first: &'a mut First, second: &'a mut Second) -> Self {
        [first.socket(), second.socket()].into_iter().flatten().for_each(end_abruptly_if_killed);
        Self { first, second, is_in_order: false }
    }
}

impl<First: Leg, Second: Leg> Drop for Legs<'_, First, Second> {
    fn drop(&mut self) {
        if self.is_in_order {
            [self.first.socket(), self.second.socket()].into_iter().flatten().for_each(end_in_order);
        } else {
            self.first.abort();
            self.second.abort();
        }
    }
}

/// Waits until nothing has been carried for so long.
struct Silence {
    idle: Duration,
    carried: u64,
    timer: Pin<Box<Sleep>>,
}

impl Silence {
    fn new(idle: Duration, counts: &Counts) -> Self {
        Self { idle, carried: carried(counts), timer: Box::pin(sleep_until(Instant::now() + idle)) }
    }

    /// The timer is not moved for each byte: when it rings, it is looked whether there were any.
    fn poll(&mut self, counts: &Counts, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = carried(counts);
            if now == self.carried {
                return Poll::Ready(());
            }
            self.carried = now;
            self.timer.as_mut().reset(Instant::now() + self.idle);
        }
    }
}

fn carried(counts: &Counts) -> u64 {
    counts.forth.load(Ordering::Relaxed).wrapping_add(counts.back.load(Ordering::Relaxed))
}
