use super::*;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

fn pattern(size: usize) -> Vec<u8> {
    (0..=250_u8).cycle().take(size).collect()
}

/// A socket of which only its bytes are known.
struct Copied(TcpStream);

impl AsyncRead for Copied {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Copied {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Leg for Copied {
    fn abort(&mut self) {
        self.0.abort();
    }
}

/// Whether the kernel carries the bytes, or this process.
const WAYS: [bool; 2] = [true, false];

type Joined = (TcpStream, TcpStream, tokio::task::JoinHandle<(Ended, u64, u64)>);

/// A client and a server with two legs joined between them.
async fn joined(is_spliced: bool, idle: Option<Duration>) -> Joined {
    let ((client, first), (second, server)) = (pair().await, pair().await);
    let leg =
        |stream: TcpStream| -> Box<dyn Leg> { if is_spliced { Box::new(stream) } else { Box::new(Copied(stream)) } };
    let (mut first, mut second) = (leg(first), leg(second));
    let task = tokio::spawn(async move {
        let counts = Counts::default();
        let ended = join(&mut first, &mut second, &counts, idle).await;
        (ended, counts.forth.load(Ordering::Relaxed), counts.back.load(Ordering::Relaxed))
    });
    (client, server, task)
}

#[tokio::test]
async fn half_close_passes_and_the_other_direction_goes_on() {
    for is_spliced in WAYS {
        let (mut client, mut server, task) = joined(is_spliced, None).await;
        let (question, answer) = (pattern(100_000), pattern(3_000_000));
        let (expected, given) = (question.clone(), answer.clone());
        let serving = tokio::spawn(async move {
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, expected);
            server.write_all(&given).await.unwrap();
            server.shutdown().await.unwrap();
        });
        client.write_all(&question).await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert!(heard == answer);
        serving.await.unwrap();
        let (ended, forth, back) = task.await.unwrap();
        assert!(matches!(ended, Ended::InOrder) && (forth, back) == (100_000, 3_000_000), "{ended:?}");
    }
}

#[tokio::test]
async fn a_reset_is_a_reset_at_the_other_end() {
    for is_spliced in WAYS {
        let (client, mut server, task) = joined(is_spliced, None).await;
        client.set_zero_linger().unwrap();
        drop(client);
        let error = server.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(matches!(task.await.unwrap().0, Ended::FirstFailed(_)));
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_the_writer_back() {
    for is_spliced in WAYS {
        let (mut client, mut server, task) = joined(is_spliced, None).await;
        let piece = pattern(1 << 20);
        let mut sent = 0;
        while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), client.write(&piece)).await {
            sent += written.unwrap();
            assert!(sent < 64 << 20, "nobody reads, and all is taken");
        }
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard.len(), sent);
        drop(server);
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_it_and_bytes_keep_it_alive() {
    for is_spliced in WAYS {
        let (mut client, mut server, task) = joined(is_spliced, Some(Duration::from_secs(60))).await;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(40)).await;
            client.write_all(b"x").await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), b'x');
        }
        let (ended, ..) = task.await.unwrap();
        assert!(matches!(ended, Ended::Idle), "{ended:?}");
        assert!(client.read_u8().await.is_err());
    }
}

/// The socket tells of its reset once: to the direction that writes to it, which must not leave an end in order to the other.
#[tokio::test]
async fn a_reset_while_bytes_are_written_is_no_end_in_order() {
    for is_spliced in WAYS {
        for _ in 0..100 {
            let (mut client, server, task) = joined(is_spliced, None).await;
            let piece = pattern(1 << 16);
            while tokio::time::timeout(Duration::from_millis(2), client.write_all(&piece)).await.is_ok() {}
            server.set_zero_linger().unwrap();
            drop(server);
            let error = client.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert!(matches!(task.await.unwrap().0, Ended::SecondFailed(_)));
        }
    }
}
