//! Bindings as text: JSON, one a line, behind a header line that says so.
//!
//! ```text
//! {"kamei":"bindings","version":1}
//! {"inside":"inside","terminal":"10.0.0.11","virtual_ip":"198.18.1.22","state":"active","created":1763724000,…}
//! ```
//!
//! Behind them there may be the history, with a header line of its own: see [`super::history`].
//!
//! | field | what |
//! | --- | --- |
//! | `inside` | name of the inside realm |
//! | `terminal`, `virtual_ip` | addresses of one family |
//! | `state` | `active`, `dormant` or `quarantined` |
//! | `pinned` | tied by the operator; may be left out, as all below |
//! | `answered` | whether a peer has ever answered the terminal; left out: yes |
//! | `created`, `last_used` | seconds since the Unix epoch |
//! | `ended` | when its quarantine began, seconds since the Unix epoch; left out: not known |
//! | `packets_out`, `packets_in`, `bytes_out`, `bytes_in`, `callbacks` | counted so far |
//! | `callback` | a policy of its own: `["contacted"]`, `["answered"]`, `["anyone"]` or prefixes |
//! | `contacts` | array of `{"peer": ADDRESS, "first": SECONDS, "last": SECONDS, "answered": BOOLEAN, "called_back": BOOLEAN}`: first
//!   and last call, since the Unix epoch; without `first`: not known, without the others: no |

use crate::config::{is_inside_name, parse_callback};
use crate::nat::{BindingState, CallbackPolicy, StoredBinding, StoredContact};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io::{self, BufRead, Read, Write};
use std::net::IpAddr;
use std::sync::Arc;

/// Version of the format.
const VERSION: u32 = 1;
/// The longest line: a binding with 65,536 contacts has some eight megabytes, and for four minutes it may have twice as many.
const LONGEST: u64 = 32 << 20;

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
#[error("{line}: {what}")]
pub struct LineError {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub what: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    kamei: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    inside: String,
    terminal: IpAddr,
    virtual_ip: IpAddr,
    state: BindingState,
    #[serde(default)]
    pinned: bool,
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    answered: bool,
    #[serde(default)]
    created: u32,
    #[serde(default)]
    last_used: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    ended: u32,
    #[serde(default)]
    packets_out: u64,
    #[serde(default)]
    packets_in: u64,
    #[serde(default)]
    bytes_out: u64,
    #[serde(default)]
    bytes_in: u64,
    #[serde(default)]
    callbacks: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    callback: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    contacts: Vec<Contact>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contact {
    peer: IpAddr,
    #[serde(default, skip_serializing_if = "is_zero")]
    first: u32,
    last: u32,
    #[serde(default, skip_serializing_if = "is_no")]
    answered: bool,
    #[serde(default, skip_serializing_if = "is_no")]
    called_back: bool,
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

fn is_no(value: &bool) -> bool {
    !value
}

/// Writes bindings as lines.
pub fn write(bindings: &[StoredBinding], out: &mut dyn Write) -> io::Result<()> {
    let header = Header { kamei: "bindings".to_owned(), version: VERSION };
    writeln!(out, "{}", serde_json::to_string(&header)?)?;
    for binding in bindings {
        let line = Line {
            inside: binding.inside.to_string(),
            terminal: binding.terminal,
            virtual_ip: binding.virtual_ip,
            state: binding.state,
            pinned: binding.pinned,
            answered: binding.answered,
            created: binding.created,
            last_used: binding.last_used,
            ended: binding.ended,
            packets_out: binding.packets_out,
            packets_in: binding.packets_in,
            bytes_out: binding.bytes_out,
            bytes_in: binding.bytes_in,
            callbacks: binding.callbacks,
            callback: binding.callback.as_ref().map(CallbackPolicy::words),
            contacts: binding.contacts.iter().map(Contact::from).collect(),
        };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    }
    Ok(())
}

/// Reads lines; all of them or an error. Whatever the bytes, never panics. Lines of a history are passed over.
pub fn read(input: &mut dyn BufRead) -> Result<Vec<StoredBinding>, LineError> {
    read_with(input, &mut |_| Ok(()))
}

/// The same, and has those of a history read by `history`, its header line first.
pub fn read_with(
    input: &mut dyn BufRead,
    history: &mut dyn FnMut(&[u8]) -> Result<(), String>,
) -> Result<Vec<StoredBinding>, LineError> {
    let mut bindings = Vec::new();
    let mut known = HashSet::new();
    let (mut number, mut is_history) = (0, false);
    let mut bytes = Vec::new();
    loop {
        number += 1;
        bytes.clear();
        let wrong = |what: String| LineError { line: number, what };
        let length = input.take(LONGEST).read_until(b'\n', &mut bytes).map_err(|error| wrong(error.to_string()))?;
        if length as u64 == LONGEST {
            return Err(wrong(format!("longer than {LONGEST} bytes")));
        }
        if number == 1 {
            check_header(&bytes).map_err(wrong)?;
        } else if length == 0 {
            return Ok(bindings);
        } else if is_history || bytes.starts_with(super::history::BEGIN) {
            is_history = true;
            history(&bytes).map_err(wrong)?;
        } else {
            let binding = binding(&bytes).map_err(wrong)?;
            if !known.insert(binding.virtual_ip) {
                return Err(wrong(format!("{} is in an earlier line already", binding.virtual_ip)));
            }
            bindings.push(binding);
        }
    }
}

fn check_header(bytes: &[u8]) -> Result<(), String> {
    let expected = "the first line must be {\"kamei\":\"bindings\",\"version\":1}";
    match serde_json::from_slice(bytes) {
        Ok(Header { kamei, version: VERSION }) if kamei == "bindings" => Ok(()),
        Ok(Header { kamei, version }) if kamei == "bindings" => {
            Err(format!("version {version} is not known here; {expected}"))
        }
        _ => Err(expected.to_owned()),
    }
}

fn binding(bytes: &[u8]) -> Result<StoredBinding, String> {
    let line: Line = serde_json::from_slice(bytes).map_err(|error| {
        let text = error.to_string();
        // "at line 1 column 9": the line is known better.
        text.rsplit_once(" at line ").map_or(text.clone(), |(what, _)| what.to_owned())
    })?;
    if line.terminal.is_ipv4() != line.virtual_ip.is_ipv4() {
        return Err(format!("{} and {} are of different address families", line.terminal, line.virtual_ip));
    }
    if !is_inside_name(&line.inside) {
        return Err(format!("{:?} is not the name of an inside", line.inside));
    }
    let callback = line.callback.map(|words| parse_callback(&words)).transpose().map_err(|wrong| wrong.to_string())?;
    Ok(StoredBinding {
        inside: Arc::from(line.inside),
        terminal: line.terminal,
        virtual_ip: line.virtual_ip,
        state: line.state,
        pinned: line.pinned,
        answered: line.answered,
        created: line.created,
        last_used: line.last_used,
        ended: line.ended,
        packets_out: line.packets_out,
        packets_in: line.packets_in,
        bytes_out: line.bytes_out,
        bytes_in: line.bytes_in,
        callbacks: line.callbacks,
        callback,
        contacts: line.contacts.into_iter().map(StoredContact::from).collect(),
    })
}

impl From<&StoredContact> for Contact {
    fn from(contact: &StoredContact) -> Self {
        let StoredContact { peer, first, last, answered, called_back } = *contact;
        Self { peer, first, last, answered, called_back }
    }
}

impl From<Contact> for StoredContact {
    fn from(Contact { peer, first, last, answered, called_back }: Contact) -> Self {
        Self { peer, first, last, answered, called_back }
    }
}
