//! An invitation becomes a certificate.

use super::connect;
use super::connect::Http2;
use super::error::SessionError;
use super::relays::Joined;
use super::shared::Agent;
use crate::config::HostPort;
use crate::identity::Invitation;
use crate::session::requests::{ENROL_PATH, Enrolled, Enrolment};
use bytes::Bytes;
use data_encoding::BASE64;
use h2::RecvStream;
use http::{Method, Request, StatusCode};
use rustls::pki_types::CertificateDer;
use std::time::Duration;
use tokio::time::timeout;

/// Bytes of an answer.
const LARGEST_ANSWER: usize = 64 * 1024;
/// Time for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(15);

/// Joins a relay.
pub async fn enrol(agent: &Agent, relay: &HostPort, invitation: &Invitation) -> Result<(), SessionError> {
    let config = agent.keys.client_config(invitation.relay, connect::SESSION)?;
    let mut http = connect::http2(connect::tls(relay, agent.config().via.as_ref(), config).await?).await?;
    let enrolled = certify(agent, &mut http, relay, Some(invitation.to_string())).await?;
    let joined = Joined { key: invitation.relay, name: enrolled.name.clone() };
    agent.relays.lock().join(relay, joined)?;
    log::info!("{relay}: joined as {}; may publish {}", enrolled.name, enrolled.servers.join(", "));
    Ok(())
}

/// Has the relay give a certificate, for an invitation or a key that it knows.
pub async fn certify(
    agent: &Agent,
    http: &mut Http2,
    relay: &HostPort,
    invitation: Option<String>,
) -> Result<Enrolled, SessionError> {
    let body = Enrolment { invitation, request: BASE64.encode(&agent.keys.request()?) };
    let (status, text) = timeout(ANSWER_TIME, post(http, relay, &body))
        .await
        .map_err(|_| SessionError::TimedOut("the relay's certificate"))??;
    if status != StatusCode::OK {
        return Err(SessionError::NotInvited(sentence(&text)));
    }
    let enrolled: Enrolled = serde_json::from_slice(&text).map_err(|_| SessionError::Violation("its certificate"))?;
    let certificate = BASE64.decode(enrolled.certificate.as_bytes()).map(CertificateDer::from);
    agent.keys.keep(certificate.map_err(|_| SessionError::Violation("its certificate"))?)?;
    Ok(enrolled)
}

async fn post(http: &mut Http2, relay: &HostPort, body: &Enrolment) -> Result<(StatusCode, Vec<u8>), SessionError> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri(relay, ENROL_PATH)?;
    let (answer, mut sender) = http.requests.send_request(request, false)?;
    sender.send_data(Bytes::from(serde_json::to_vec(body).unwrap_or_default()), true)?;
    let answer = answer.await?;
    let status = answer.status();
    Ok((status, read(answer.into_body()).await?))
}

/// The URI of a path at the relay.
pub fn uri(relay: &HostPort, path: &str) -> Result<http::Uri, SessionError> {
    let built = http::Uri::builder().scheme("https").authority(relay.to_string()).path_and_query(path).build();
    built.map_err(|_| SessionError::Violation("its name cannot be asked for"))
}

/// A body, up to what makes sense.
pub async fn read(mut body: RecvStream) -> Result<Vec<u8>, SessionError> {
    let mut all = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        let _ = body.flow_control().release_capacity(piece.len());
        all.extend_from_slice(&piece);
        if all.len() > LARGEST_ANSWER {
            return Err(SessionError::Violation("its answer is too long"));
        }
    }
    Ok(all)
}

/// What a relay says, as one line for a person.
pub fn sentence(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().take(500).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
