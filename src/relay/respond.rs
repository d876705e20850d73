//! Answers to requests of HTTP/2.

use crate::session::VERSION;
use crate::session::requests::VERSION_HEADER;
use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{Response, StatusCode};

/// The head of an answer, with the version that this relay speaks.
pub fn answer(status: StatusCode) -> Response<()> {
    let mut answer = Response::new(());
    *answer.status_mut() = status;
    answer.headers_mut().insert(VERSION_HEADER, VERSION.into());
    answer
}

/// Answers with a sentence, which the agent shows.
pub fn refuse(mut respond: SendResponse<Bytes>, status: StatusCode, text: &str) {
    if let Ok(mut sender) = respond.send_response(answer(status), false) {
        let _ = sender.send_data(Bytes::copy_from_slice(text.as_bytes()), true);
    } else {
        respond.send_reset(Reason::REFUSED_STREAM);
    }
}
