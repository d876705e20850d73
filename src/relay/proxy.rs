//! Ports at which clients ask for a server themselves: SOCKS5 and HTTP CONNECT are both spoken at each of them. A client hears
//! that it is granted when the server has answered the agent, not before.

use super::answer::{self, Answer};
use super::call;
use super::connections::Origin;
use super::shared::Relay;
use super::unproved::Place;
use crate::session::http_connect::{self, ConnectRequest, read_connect};
use crate::session::socks5::{self, Method};
use crate::session::{Credentials, Published, RefuseReason, Target, TargetHost, Transport};
use crate::splice::peek;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Time for a client to ask.
const ASKING_TIME: Duration = Duration::from_secs(10);
/// Time until the next try where no connection can be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What a client has asked for.
struct Asked {
    target: Target,
    /// Who it has proved to be.
    name: Option<String>,
    answer: Answer,
}

/// Serves the clients that ask at this port, until it is aborted.
pub async fn accept(relay: Arc<Relay>, listener: Arc<TcpListener>) {
    loop {
        // Who has not proved anything takes no place from who has: more wait in the kernel's queue.
        let Some(permit) = relay.asking.wait().await else { return };
        let (client, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                relay.refuse(RefuseReason::OutOfResources);
                log::warn!("no client that asks can be accepted: {error}");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        match relay.asking.enter(permit, address.ip(), false) {
            Some(place) => drop(tokio::spawn(serve(Arc::clone(&relay), client, address, place))),
            None => log::debug!("{address} has as many connections as one may have that has asked nothing"),
        }
    }
}

async fn serve(relay: Arc<Relay>, client: TcpStream, address: SocketAddr, place: Place) {
    let asked = timeout(ASKING_TIME, ask(&relay, client, address)).await;
    drop(place);
    let Ok(asked) = asked else { return log::debug!("{address} has not asked for a server in time") };
    let Some((client, Asked { target, name, answer })) = asked else { return };
    let Some(published) = named(&relay, &target) else {
        relay.refuse(RefuseReason::NoServer);
        log::info!("{address} asks for {target}, which is no server here");
        return answer.refuse(client, RefuseReason::NoServer).await;
    };
    let server = Arc::new(relay.server(&published));
    call::serve(relay, server, client, (address, Origin::Asked(name), answer)).await;
}

/// The server that is called so: by its name, whatever the port, by a TLS server name, or by its virtual IP and port.
fn named(relay: &Relay, target: &Target) -> Option<Published> {
    match &target.host {
        TargetHost::Address(address) => {
            relay.virtual_ips.all().get(&SocketAddr::new(address.to_canonical(), target.port)).cloned()
        }
        TargetHost::Name(name) => {
            let by_tls_name = relay.config().named(name).map(|server| server.published.clone());
            let by_name = || Some(Published { name: name.parse().ok()?, transport: Transport::Tcp });
            by_tls_name.or_else(by_name).filter(|published| relay.knows(published))
        }
    }
}

/// Hears what a client asks for. One that asks for what cannot be, or proves nothing, is told so and gone.
async fn ask(relay: &Relay, client: TcpStream, address: SocketAddr) -> Option<(TcpStream, Asked)> {
    match peek(&client, 1, |bytes| bytes.first().copied()).await? {
        socks5::VERSION => ask_socks5(relay, client, address).await,
        _ => ask_http(relay, client, address).await,
    }
}

async fn ask_socks5(relay: &Relay, mut client: TcpStream, address: SocketAddr) -> Option<(TcpStream, Asked)> {
    let methods = take(&mut client, socks5::LONGEST, socks5::read_methods).await?.ok()?;
    // Many clients offer a password that they do not have: it is asked for only where it is needed.
    let method = match methods {
        _ if methods.none && relay.config().proxy.trusts(address.ip()) => Method::None,
        _ if methods.password => Method::Password,
        _ => Method::Refused,
    };
    let reply = socks5::methods_reply(method);
    if method == Method::Refused {
        refused(relay, address, None);
        answer::end(client, &reply).await;
        return None;
    }
    client.write_all(&reply).await.ok()?;
    let mut name = None;
    if method == Method::Password {
        let proof = take(&mut client, socks5::LONGEST, socks5::read_credentials).await?.ok()?;
        name = prove(relay, &proof, address.ip()).await;
        let reply = socks5::credentials_reply(name.is_some());
        if name.is_none() {
            refused(relay, address, Some(&proof));
            answer::end(client, &reply).await;
            return None;
        }
        client.write_all(&reply).await.ok()?;
    }
    match take(&mut client, socks5::LONGEST, socks5::read_request).await? {
        Ok(target) => Some((client, Asked { target, name, answer: Answer::Socks5 })),
        Err(error) => {
            log::info!("{address} asks by SOCKS5 for what is not served: {error}");
            answer::end(client, &socks5::request_reply(socks5::error_code(error))).await;
            None
        }
    }
}

async fn ask_http(relay: &Relay, mut client: TcpStream, address: SocketAddr) -> Option<(TcpStream, Asked)> {
    let ConnectRequest { target, credentials } = match take(&mut client, http_connect::LONGEST, read_connect).await? {
        Ok(request) => request,
        Err(error) => {
            log::info!("{address} asks by HTTP for what is not served: {error}");
            answer::end(client, http_connect::error_reply(error).as_bytes()).await;
            return None;
        }
    };
    let name = match &credentials {
        Some(proof) => prove(relay, proof, address.ip()).await,
        None => None,
    };
    // Wrong is not as good as none.
    if name.is_none() && (credentials.is_some() || !relay.config().proxy.trusts(address.ip())) {
        refused(relay, address, credentials.as_ref());
        Answer::Http.refuse(client, RefuseReason::NotProved).await;
        return None;
    }
    Some((client, Asked { target, name, answer: Answer::Http }))
}

async fn prove(relay: &Relay, proof: &Credentials, from: IpAddr) -> Option<String> {
    relay.proofs.prove(&relay.register, proof, from).await
}

fn refused(relay: &Relay, address: SocketAddr, proof: Option<&Credentials>) {
    relay.refuse(RefuseReason::NotProved);
    let who = proof.map(|proof| format!(" to be '{}'", proof.name.escape_ascii())).unwrap_or_default();
    log::info!("{address} has not proved{who}, and is refused");
}

/// Waits for a message, and takes it from the socket and nothing behind it: that is the server's. `None`: the client is gone.
async fn take<T, E>(
    client: &mut TcpStream,
    longest: usize,
    read: impl Fn(&[u8]) -> Result<Option<(T, usize)>, E>,
) -> Option<Result<T, E>> {
    match peek(client, longest, |bytes| read(bytes).transpose()).await? {
        Ok((message, length)) => {
            client.read_exact(&mut vec![0; length]).await.ok()?;
            Some(Ok(message))
        }
        Err(error) => Some(Err(error)),
    }
}
