//! Invitations become members: an agent shows its invitation, and is given a certificate for its key.

use super::caller::Caller;
use super::clock::wall;
use super::respond::refuse;
use super::shared::Relay;
use crate::identity::{Invitation, REFUSED, RegisterError, fingerprint_of_request};
use crate::session::requests::{Enrolled, Enrolment};
use bytes::Bytes;
use data_encoding::BASE64;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Response, StatusCode};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Bytes of a request.
const LARGEST_BODY: usize = 16 * 1024;
/// Time for a request to come.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Every refusal takes so long: who guesses invitations is slow, and learns nothing from the time.
const REFUSAL_TIME: Duration = Duration::from_millis(500);

/// Serves one request.
pub async fn serve(relay: &Relay, caller: Caller, body: RecvStream, respond: SendResponse<Bytes>) {
    let read = timeout(BODY_TIME, read(body)).await.ok().flatten();
    // The register waits for the disk.
    let enrolled = read
        .ok_or(Refused::told("no request has come"))
        .and_then(|body| tokio::task::block_in_place(|| enrol(relay, caller, &body)));
    match enrolled {
        Ok(enrolled) => {
            let servers = enrolled.servers.join(", ");
            log::info!("agent {} at {} has a new certificate; it may publish {servers}", enrolled.name, caller.address);
            tell(respond, &enrolled);
        }
        Err(Refused { told, cause }) => {
            log::warn!("an invitation shown by {} is refused: {cause}", caller.address);
            sleep(REFUSAL_TIME).await;
            refuse(respond, StatusCode::FORBIDDEN, &told);
        }
    }
}

fn enrol(relay: &Relay, caller: Caller, body: &[u8]) -> Result<Enrolled, Refused> {
    let asked: Enrolment = serde_json::from_slice(body).map_err(|_| Refused::told("the request cannot be read"))?;
    let request = BASE64.decode(asked.request.as_bytes());
    let request = request.map_err(|_| Refused::told("the certificate request cannot be read"))?;
    // The key that the connection has proved, and no other.
    let key = caller.key.filter(|key| fingerprint_of_request(&request) == Some(*key));
    let key = key.ok_or(Refused::told("the certificate request is of another key"))?;
    let member = match asked.invitation {
        Some(invitation) => {
            let invitation: Invitation = invitation.parse().map_err(|_| Refused::told("this is no invitation"))?;
            relay.register.redeem(&invitation.secret, key, wall())?
        }
        None => relay.register.by_key(&key)?.ok_or(Refused::stranger())?,
    };
    let certificate = relay.authority.sign(&request, &member.name, wall()).map_err(RegisterError::from)?;
    Ok(Enrolled { name: member.name, certificate: BASE64.encode(&certificate), servers: member.servers })
}

/// What the agent is told, and what the log has.
struct Refused {
    told: String,
    cause: String,
}

impl Refused {
    fn told(text: &str) -> Self {
        Self { told: text.to_owned(), cause: text.to_owned() }
    }

    fn stranger() -> Self {
        Self { told: REFUSED.to_owned(), cause: "no member has this key".to_owned() }
    }
}

impl From<RegisterError> for Refused {
    fn from(error: RegisterError) -> Self {
        let told = if error.is_refusal() { REFUSED } else { "the relay's register cannot be used; its log says why" };
        Self { told: told.to_owned(), cause: error.to_string() }
    }
}

impl From<crate::identity::IdentityError> for Refused {
    fn from(error: crate::identity::IdentityError) -> Self {
        RegisterError::from(error).into()
    }
}

async fn read(mut body: RecvStream) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.ok()?;
        let _ = body.flow_control().release_capacity(piece.len());
        all.extend_from_slice(&piece);
        if all.len() > LARGEST_BODY {
            return None;
        }
    }
    Some(all)
}

fn tell(mut respond: SendResponse<Bytes>, enrolled: &Enrolled) {
    let text = serde_json::to_vec(enrolled).unwrap_or_default();
    if let Ok(mut sender) = respond.send_response(Response::new(()), false) {
        let _ = sender.send_data(text.into(), true);
    }
}
