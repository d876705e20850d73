//! ICMP errors: the outer header is translated like any packet, the header they quote is restored to what its sender
//! sent (RFC 5508 REQ-4, REQ-5). They neither make, refresh nor end a binding (REQ-6).

use super::Nat;
use super::admin::BindingState;
use super::slots::Usage;
use super::verdict::{DropReason, Realm};
use crate::time::Time;
use crate::wire::{self, Address, Field, Fragment, Headers, Packet, Quote, Stored, Unreadable};

/// What to write into an ICMP error.
struct Restored {
    to: Realm,
    /// Address of the outer header.
    outer: Option<(Field, Address)>,
    /// Address of the quoted header.
    quoted: (Field, Address),
}

impl Nat {
    /// Translates an ICMP error in place; says where it goes.
    pub(super) fn error(
        &self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        realm: Realm,
        now: Time,
    ) -> Result<Realm, DropReason> {
        let stored = headers.stored(packet.checksum_start);
        let whole = headers.fragment == Fragment::Whole;
        if whole && stored != Stored::PseudoHeader && !wire::is_intact(packet.bytes, headers) {
            return Err(DropReason::IcmpChecksum);
        }
        let quote = Quote::read(packet.bytes, headers).map_err(|unreadable| match unreadable {
            Unreadable::Malformed | Unreadable::Version => DropReason::IcmpErrorTruncated,
            other => other.into(),
        })?;
        let restored = match realm {
            Realm::Outside if self.selection.of_virtual_ip(headers.destination).is_some() => {
                self.error_from_outside(headers, &quote, now)?
            }
            Realm::Outside => match self.error_of_our_own(headers, &quote, now)? {
                Some(restored) => restored,
                None => return Ok(Realm::Outside),
            },
            Realm::Inside(inside) => self.error_from_inside(headers, &quote, inside)?,
        };
        write(packet, headers, stored, &quote, &restored);
        Ok(restored.to)
    }

    /// Somebody outside could not deliver what a terminal sent.
    fn error_from_outside(&self, headers: &Headers, quote: &Quote, now: Time) -> Result<Restored, DropReason> {
        let (table, found) = self.callee(headers.destination)?;
        if quote.headers.source != headers.destination {
            return Err(DropReason::IcmpErrorUnrelated);
        }
        self.may_call(table, &found, quote.headers.destination, now).map_err(|_| DropReason::IcmpErrorUnrelated)?;
        self.table(table)?.used(found.index, Usage { packets_in: 1, ..Usage::default() }, now);
        let terminal = found.slot.terminal;
        Ok(Restored {
            to: Realm::Inside(found.slot.inside),
            outer: Some((Field::Destination, terminal)),
            quoted: (Field::Source, terminal),
        })
    }

    /// Somebody inside could not deliver what a peer sent to a terminal. The sender of the error is shown by its own
    /// virtual IP if it has one (RFC 5508 REQ-5c), else by the gateway's address.
    fn error_from_inside(&self, headers: &Headers, quote: &Quote, inside: u16) -> Result<Restored, DropReason> {
        let (peer, terminal) = (quote.headers.source, quote.headers.destination);
        if peer != headers.destination {
            return Err(DropReason::IcmpErrorUnrelated);
        }
        let table = self.table(self.selection.for_peer(peer).ok_or(DropReason::NoPool)?)?;
        let found = table.of_terminal(inside, terminal).ok_or(DropReason::IcmpErrorUnrelated)?;
        let sender = table
            .of_terminal(inside, headers.source)
            .filter(|found| found.slot.state == BindingState::Active)
            .map(|found| found.slot.virtual_ip)
            .or_else(|| self.surroundings().own_outside(peer))
            .ok_or(DropReason::NoOwnAddress)?;
        Ok(Restored {
            to: Realm::Outside,
            outer: Some((Field::Source, sender)),
            quoted: (Field::Destination, found.slot.virtual_ip),
        })
    }

    /// The gateway's own kernel could not deliver what it had got translated: its error quotes the terminal's address
    /// and must not reach the peer like that (N8). `None`: it is about something that was not translated here.
    fn error_of_our_own(&self, headers: &Headers, quote: &Quote, now: Time) -> Result<Option<Restored>, DropReason> {
        let (peer, terminal) = (headers.destination, quote.headers.destination);
        let number = self.selection.for_peer(peer);
        let surroundings = self.surroundings();
        let mut candidate = None;
        if let Some(number) = number.filter(|_| quote.headers.source == peer) {
            let table = self.table(number)?;
            let insides = (0..self.insides.len()).filter_map(|inside| u16::try_from(inside).ok());
            for found in insides.filter_map(|inside| table.of_terminal(inside, terminal)) {
                let called = self.may_call(number, &found, peer, now).is_ok();
                if called || candidate.is_none() {
                    candidate = Some(found.slot.virtual_ip);
                }
                if called {
                    break;
                }
            }
        }
        match candidate {
            Some(virtual_ip) => {
                let own = surroundings.own_outside(peer);
                if own.is_none() && surroundings.is_hidden(headers.source) {
                    return Err(DropReason::NoOwnAddress);
                }
                let outer = own.map(|own| (Field::Source, own));
                Ok(Some(Restored { to: Realm::Outside, outer, quoted: (Field::Destination, virtual_ip) }))
            }
            None => {
                let shown = [headers.source, quote.headers.source, terminal];
                let leaks = shown.into_iter().any(|address| surroundings.is_hidden(address));
                if leaks { Err(DropReason::IcmpErrorUnrelated) } else { Ok(None) }
            }
        }
    }
}

/// Writes the quoted address first, then mends the ICMP checksum for it, then the outer address.
fn write(packet: &mut Packet<'_>, headers: &Headers, stored: Stored, quote: &Quote, restored: &Restored) {
    let (field, address) = restored.quoted;
    let quoted = &quote.headers;
    let changed = wire::set_address(packet.bytes, quote.at, quoted, quoted.stored(None), field, address);
    if stored != Stored::PseudoHeader {
        wire::mend(packet.bytes, headers.transport + 2, changed, stored);
    }
    if let Some((field, address)) = restored.outer {
        wire::set_address(packet.bytes, 0, headers, stored, field, address);
    }
}
