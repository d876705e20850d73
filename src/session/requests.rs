//! The requests that begin channels and enrol agents: paths, headers, bodies.

use serde::{Deserialize, Serialize};

/// `:protocol` of the control channel (RFC 8441).
pub const LISTEN: &str = "connect-listen";
/// Its path: any target, any protocol.
pub const LISTEN_PATH: &str = "/.well-known/masque/listen/*/*/";
/// `:protocol` of a data channel, or its upgrade token (RFC 9110 §7.8).
pub const ACCEPT: &str = "connect-accept";
/// Its path; the connection ID follows, and a slash.
pub const ACCEPT_PATH: &str = "/.well-known/masque/accept/";
/// What stands before the token of a data channel in the clear, in the header `authorization` (RFC 6750 §2.1).
pub const BEARER: &str = "Bearer ";
/// Where an invitation becomes a member.
pub const ENROL_PATH: &str = "/.well-known/kamei/enrol";
/// The header with the version of the protocol.
pub const VERSION_HEADER: &str = "kamei-version";

/// What an agent asks that has an invitation, or whose certificate is to be renewed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// The invitation, as it was pasted; none from a key that is registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<String>,
    /// A certificate request of PKCS #10 (RFC 2986) for the key of the connection, DER in Base64.
    pub request: String,
}

/// What it is given.
#[derive(Debug, Serialize, Deserialize)]
pub struct Enrolled {
    /// Its name.
    pub name: String,
    /// Its certificate, DER in Base64.
    pub certificate: String,
    /// What it may publish.
    pub servers: Vec<String>,
}
