//! The client of the command line: one request, one answer.

use super::Failure;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// Time for the gateway to start answering.
const PATIENCE: Duration = Duration::from_secs(30);

/// Talks to the gateway on a control socket.
pub struct Client {
    path: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("no gateway answers on {path} ({error}); is it running? --control names another socket")]
    NoGateway {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Not allowed.
    #[error("not allowed to ask the gateway on {path}; run as root")]
    NotAllowed {
        /// The socket.
        path: PathBuf,
    },
    /// The gateway said no.
    #[error("{0}")]
    Refused(String),
    /// What came back makes no sense.
    #[error("the gateway on {path} gave no proper answer: {what}")]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        what: String,
    },
}

impl Client {
    /// A client of the gateway on `path`.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// `GET`, as bytes.
    pub fn get_raw(&self, path: &str) -> Result<Bytes, ClientError> {
        self.request(Method::GET, path, Bytes::new())
    }

    /// `GET`.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.decode(&self.get_raw(path)?)
    }

    /// `PUT`.
    pub fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.garbled(error))?;
        self.decode(&self.request(Method::PUT, path, body.into())?)
    }

    /// `DELETE`.
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.decode(&self.request(Method::DELETE, path, Bytes::new())?)
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| self.garbled(error))?;
        let (status, body) = runtime.block_on(self.exchange(method, path, body))?;
        match status {
            StatusCode::OK => Ok(body),
            StatusCode::FORBIDDEN => Err(ClientError::NotAllowed { path: self.path.clone() }),
            _ => match serde_json::from_slice::<Failure>(&body) {
                Ok(failure) => Err(ClientError::Refused(failure.error)),
                Err(_) => Err(self.garbled(status)),
            },
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed { path: self.path.clone() },
            _ => ClientError::NoGateway { path: self.path.clone(), error },
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.garbled(error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "kamei")
            .body(Full::new(body))
            .map_err(|error| self.garbled(error))?;
        let response = tokio::time::timeout(PATIENCE, sender.send_request(request))
            .await
            .map_err(|_| self.garbled("it took too long"))?
            .map_err(|error| self.garbled(error))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| self.garbled(error))?;
        Ok((status, body.to_bytes()))
    }

    fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.garbled(error))
    }

    fn garbled(&self, what: impl ToString) -> ClientError {
        ClientError::Garbled { path: self.path.clone(), what: what.to_string() }
    }
}
