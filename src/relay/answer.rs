//! What a client hears of how its call went.

use crate::session::{RefuseReason, http_connect, socks5};
use crate::splice::{self, Leg};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a client that was refused may take to read that.
const READING_TIME: Duration = Duration::from_secs(2);

/// How a client hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has connected to a server, as far as it knows: nothing but the server's bytes, or a reset.
    None,
    /// As SOCKS5 has it.
    Socks5,
    /// As HTTP has it.
    Http,
}

impl Answer {
    /// The way stands: what is said before the server's bytes.
    pub fn granted(self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Socks5 => socks5::request_reply(socks5::SUCCEEDED),
            Self::Http => http_connect::GRANTED.into(),
        }
    }

    /// Refuses the client: tells it why, or resets the connection.
    pub async fn refuse(self, mut client: TcpStream, reason: RefuseReason) {
        match self {
            Self::None => client.abort(),
            Self::Socks5 => end(client, &socks5::request_reply(socks5::reply_code(reason))).await,
            Self::Http => end(client, http_connect::refusal_reply(reason).as_bytes()).await,
        }
    }
}

/// Says this last word, and waits until it was read: a socket that is closed with bytes unread is reset, and the word with it.
pub async fn end(mut client: TcpStream, word: &[u8]) {
    splice::end_in_order(&client);
    let said = async {
        client.write_all(word).await?;
        client.shutdown().await?;
        let mut rest = [0; 1024];
        while client.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = timeout(READING_TIME, said).await;
}
