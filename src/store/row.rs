//! Rows as bytes and back. What comes from the file is believed only if its sum is right.

use crate::config::{is_inside_name, parse_callback};
use crate::nat::{BindingState, CallbackPolicy, StoredBinding, StoredContact};
use rusqlite::Row;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;

/// A contact as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContactRow {
    pub virtual_ip: IpAddr,
    pub created: u32,
    pub contact: StoredContact,
}

/// An address as a key: 4 or 16 bytes, so that a table is in the order of its virtual IPs.
pub fn key(address: IpAddr) -> Key {
    match address {
        IpAddr::V4(v4) => Key::V4(v4.octets()),
        IpAddr::V6(v6) => Key::V6(v6.octets()),
    }
}

/// See [`key`].
#[derive(Clone, Copy)]
pub enum Key {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Key {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Key::V4(bytes) => bytes,
            Key::V6(bytes) => bytes,
        }
    }
}

/// The number of a state in the file.
pub fn state_number(state: BindingState) -> i64 {
    match state {
        BindingState::Active => 1,
        BindingState::Dormant => 2,
        BindingState::Quarantined => 3,
    }
}

/// A policy as in the configuration; several prefixes with blanks between them.
pub fn policy_text(policy: &CallbackPolicy) -> String {
    policy.words().join(" ")
}

/// The sum of a binding's row, policy as [`policy_text`] has it.
pub fn binding_sum(binding: &StoredBinding, policy: Option<&str>) -> i64 {
    let mut hasher = SipHasher13::new();
    hasher.write(key(binding.virtual_ip).bytes());
    hasher.write_u8(b'/');
    hasher.write(key(binding.terminal).bytes());
    hasher.write_u8(b'/');
    hasher.write(binding.inside.as_bytes());
    hasher.write_u8(b'/');
    hasher.write_i64(state_number(binding.state));
    hasher.write_u8(binding.pinned.into());
    hasher.write_u32(binding.created);
    hasher.write_u32(binding.last_used);
    hasher.write_u64(binding.packets_out);
    hasher.write_u64(binding.packets_in);
    hasher.write_u32(binding.callbacks);
    if let Some(policy) = policy {
        hasher.write(policy.as_bytes());
    }
    // As the sums were before there was the column.
    if !binding.answered {
        hasher.write(b"/unanswered");
    }
    if binding.ended != 0 {
        hasher.write(b"/ended");
        hasher.write_u32(binding.ended);
    }
    if (binding.bytes_out, binding.bytes_in) != (0, 0) {
        hasher.write(b"/bytes");
        hasher.write_u64(binding.bytes_out);
        hasher.write_u64(binding.bytes_in);
    }
    hasher.finish().cast_signed()
}

/// The sum of a contact's row.
pub fn contact_sum(row: &ContactRow) -> i64 {
    let mut hasher = SipHasher13::new();
    hasher.write(key(row.virtual_ip).bytes());
    hasher.write_u8(b'/');
    hasher.write(key(row.contact.peer).bytes());
    hasher.write_u32(row.created);
    hasher.write_u32(row.contact.last);
    if row.contact.answered {
        hasher.write(b"/answered");
    }
    // As the sums were before there were the columns.
    if row.contact.first != 0 {
        hasher.write(b"/first");
        hasher.write_u32(row.contact.first);
    }
    if row.contact.called_back {
        hasher.write(b"/called back");
    }
    hasher.finish().cast_signed()
}

/// A row of [`super::state_file::BINDINGS`]; `None` if it is not what was written. `insides` saves memory: few names, many rows.
pub fn read_binding(row: &Row<'_>, insides: &mut Vec<Arc<str>>) -> rusqlite::Result<Option<StoredBinding>> {
    let (Some(virtual_ip), Some(terminal)) = (address(row, 0)?, address(row, 2)?) else { return Ok(None) };
    let Ok(name) = row.get_ref(1)?.as_str() else { return Ok(None) };
    let inside = match insides.iter().find(|known| &***known == name) {
        Some(known) => Arc::clone(known),
        None => {
            if !is_inside_name(name) {
                return Ok(None);
            }
            let known: Arc<str> = Arc::from(name);
            insides.push(Arc::clone(&known));
            known
        }
    };
    let state = match row.get_ref(3)?.as_i64() {
        Ok(1) => BindingState::Active,
        Ok(2) => BindingState::Dormant,
        Ok(3) => BindingState::Quarantined,
        _ => return Ok(None),
    };
    let Ok(policy) = row.get_ref(10)?.as_str_or_null() else { return Ok(None) };
    let callback = match policy.map(|text| parse_callback(&words(text))).transpose() {
        Ok(callback) => callback,
        Err(_) => return Ok(None),
    };
    let (Some(created), Some(last_used), Some(callbacks)) = (small(row, 5)?, small(row, 6)?, small(row, 9)?) else {
        return Ok(None);
    };
    let (Some(pinned), Some(out), Some(inward)) = (small(row, 4)?, number(row, 7)?, number(row, 8)?) else {
        return Ok(None);
    };
    let (Some(bytes_out), Some(bytes_in)) = (number(row, 14)?, number(row, 15)?) else { return Ok(None) };
    let (Some(answered), Some(ended)) = (flag(row, 12)?, small(row, 13)?) else { return Ok(None) };
    let binding = StoredBinding {
        inside,
        terminal,
        virtual_ip,
        state,
        pinned: pinned == 1,
        answered,
        created,
        last_used,
        ended,
        packets_out: out.cast_unsigned(),
        packets_in: inward.cast_unsigned(),
        bytes_out: bytes_out.cast_unsigned(),
        bytes_in: bytes_in.cast_unsigned(),
        callbacks,
        callback,
        contacts: Vec::new(),
    };
    let is_true = number(row, 11)? == Some(binding_sum(&binding, policy)) && virtual_ip.is_ipv4() == terminal.is_ipv4();
    Ok(is_true.then_some(binding))
}

/// A row of [`super::state_file::CONTACTS`]; `None` if it is not what was written.
pub fn read_contact(row: &Row<'_>) -> rusqlite::Result<Option<ContactRow>> {
    let (Some(virtual_ip), Some(peer)) = (address(row, 0)?, address(row, 1)?) else { return Ok(None) };
    let (Some(created), Some(last)) = (small(row, 2)?, small(row, 3)?) else { return Ok(None) };
    let (Some(answered), Some(first), Some(called_back)) = (flag(row, 5)?, small(row, 6)?, flag(row, 7)?) else {
        return Ok(None);
    };
    let contact = StoredContact { peer, first, last, answered, called_back };
    let contact = ContactRow { virtual_ip, created, contact };
    Ok((number(row, 4)? == Some(contact_sum(&contact))).then_some(contact))
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn address(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<IpAddr>> {
    let Ok(bytes) = row.get_ref(column)?.as_blob() else { return Ok(None) };
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok();
    Ok(v4.or_else(|| <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok()))
}

fn flag(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<bool>> {
    Ok(match number(row, column)? {
        Some(0) => Some(false),
        Some(1) => Some(true),
        _ => None,
    })
}

fn small(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u32>> {
    Ok(number(row, column)?.and_then(|number| u32::try_from(number).ok()))
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<i64>> {
    Ok(row.get_ref(column)?.as_i64().ok())
}
