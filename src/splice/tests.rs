use super::*;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

fn pattern(size: usize) -> Vec<u8> {
    (0..=250_u8).cycle().take(size).collect()
}

/// A client and a server with two legs joined between them.
async fn joined(idle: Option<Duration>) -> (TcpStream, TcpStream, tokio::task::JoinHandle<(Ended, u64, u64)>) {
    let ((client, mut first), (mut second, server)) = (pair().await, pair().await);
    let task = tokio::spawn(async move {
        let counts = Counts::default();
        let ended = join(&mut first, &mut second, &counts, idle).await;
        (ended, counts.forth.load(Ordering::Relaxed), counts.back.load(Ordering::Relaxed))
    });
    (client, server, task)
}

#[tokio::test]
async fn half_close_passes_and_the_other_direction_goes_on() {
    let (mut client, mut server, task) = joined(None).await;
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

#[tokio::test]
async fn a_reset_is_a_reset_at_the_other_end() {
    let (client, mut server, task) = joined(None).await;
    client.set_zero_linger().unwrap();
    drop(client);
    let error = server.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(matches!(task.await.unwrap().0, Ended::FirstFailed(_)));
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_the_writer_back() {
    let (mut client, mut server, task) = joined(None).await;
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

#[tokio::test(start_paused = true)]
async fn silence_ends_it_and_bytes_keep_it_alive() {
    let (mut client, mut server, task) = joined(Some(Duration::from_secs(60))).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(40)).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
    }
    let (ended, ..) = task.await.unwrap();
    assert!(matches!(ended, Ended::Idle), "{ended:?}");
    assert!(client.read_u8().await.is_err());
}
