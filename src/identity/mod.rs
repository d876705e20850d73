//! Who is who: the keys of relay and agents, invitations, and the relay's register of members.
//!
//! | file | what |
//! | --- | --- |
//! | `fingerprint.rs` | a public key in 32 bytes, and as text |
//! | `invitation.rs` | the secret of an invitation, and the token that carries it |
//! | `password.rs` | passwords of clients that have no key, and their hashes |
//! | `register.rs` | the relay's members, open invitations and clients with a password, in SQLite |
//! | `authority.rs` | the relay's side: its key, its CA, its TLS settings |
//! | `keys.rs` | the agent's side: its key, its certificate, its TLS settings |
//! | `tls.rs` | how each side judges the certificate of the other |
//! | `roots.rs` | the operator's own CA, whose certificates need no invitation |
//! | `key.rs` | one private key and what is made of it |
//! | `files.rs` | files that only their owner can read, written whole or not at all |
//! | `error.rs` | what is wrong with a file, a key or a request |
//!
//! An invitation names the relay's key by its fingerprint and has a secret that is good for one member. The agent dials,
//! TLS proves both keys, the agent shows the secret, and the register notes the agent's key under the invited name. From
//! then on the key alone says who the agent is: TLS proves that the agent has it, [`Register::by_key`] says whose it is.
//! Certificates only carry keys. An agent whose certificate has expired is known by its key and gets another certificate.
//!
//! An operator with a CA of their own gives it to the relay instead ([`Roots`]): then the certificate counts, and the
//! register only says which names are taken or revoked ([`Register::vouched`]).
//!
//! A refused proof tells its sender [`REFUSED`] and nothing else: secrets are looked up by their hash and keys by their
//! fingerprint, so neither the answer nor its time depends on which names exist (requirement C2).

mod authority;
mod error;
pub mod files;
mod fingerprint;
mod invitation;
mod key;
mod keys;
mod password;
mod register;
mod roots;
mod tls;

pub use authority::{Authority, CERTIFICATE_LIFE};
pub use error::IdentityError;
pub use fingerprint::{Fingerprint, FingerprintError, fingerprint_of, fingerprint_of_request};
pub use invitation::{Invitation, InvitationError, Secret};
pub use keys::Keys;
pub use password::{Password, PasswordError, is_password};
pub use register::{
    INVITATION_LIFE, Member, MemberKind, OpenInvitation, PasswordClient, REFUSED, Refusal, Register, RegisterError,
    Revoked,
};
pub use roots::Roots;
pub use tls::WrongRelay;

#[cfg(test)]
mod tests;
