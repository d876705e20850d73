//! ICMP errors: the outer header is translated like any packet, the header they quote is restored to what its sender
//! sent (RFC 5508 REQ-4, REQ-5). They neither make, refresh nor end a binding (REQ-6).

use super::decide::is_unicast;
use super::observer::ForReal;
use super::strangers::Strangers;
use crate::nat::binding::BindingState;
use crate::nat::binding::Realm;
use crate::nat::binding::SlotRef;
use crate::nat::bound::Bound;
use crate::nat::numbers::{InsideNumber, TableNumber};
use crate::nat::reason::DropReason;
use crate::nat::state::Nat;
use crate::nat::table::slots::Usage;
use crate::time::Time;
use crate::wire::{self, Address, Fragment, Headers, Kind, Packet, Quote, Rewrite, Stored, Unreadable};

/// What to write into an ICMP error.
struct RestoredQuote {
    to: Realm,
    outer: Rewrite,
    quoted: Rewrite,
}

impl Nat {
    /// Translates an ICMP error in place; says where it goes.
    pub(in crate::nat) fn error(
        &self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        realm: Realm,
        strangers: &mut Strangers,
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
        // RFC 1122 §3.2.2: nobody sends one about an error; in it would be a quote of a quote, untranslated.
        if matches!(quote.headers.kind, Kind::IcmpError | Kind::IcmpRedirect) {
            return Err(DropReason::IcmpErrorUnrelated);
        }
        let about_virtual_ip = self.selection.of_virtual_ip(headers.destination).is_some();
        if realm == Realm::Outside && (about_virtual_ip || self.prefixes.of_virtual_ip(headers.destination).is_some()) {
            self.may_report(headers)?;
            if wire::told_mtu(packet.bytes, headers).is_some_and(|mtu| is_impossible(mtu, headers.source)) {
                return Err(DropReason::IcmpErrorMtu);
            }
        }
        let restored = match realm {
            _ if self.prefixes.concerns(headers, &quote.headers) => {
                self.error_by_prefix(headers, &quote, realm, strangers, now)?
            }
            Realm::Outside if about_virtual_ip => self.error_from_outside(headers, &quote, strangers, now)?,
            Realm::Outside => match self.error_of_our_own(headers, &quote, now)? {
                Some(restored) => restored,
                None => return Ok(Realm::Outside),
            },
            Realm::Inside(inside) if about_virtual_ip => self.error_by_hairpin(headers, &quote, Some(inside))?,
            Realm::Inside(inside) => self.error_from_inside(headers, &quote, inside)?,
        };
        if realm != Realm::Outside || self.surroundings().is_own(headers.source) {
            // A router inside, or this machine, may say by which interface and address it got the packet.
            let changed = wire::blank_interfaces(packet.bytes, headers);
            if stored != Stored::PseudoHeader {
                wire::mend(packet.bytes, headers.transport + 2, changed, stored);
            }
        }
        write(packet, headers, stored, &quote, &restored);
        Ok(restored.to)
    }

    /// Whether the sender of an error can be a host outside: nobody there has a virtual IP or an inside address. What the
    /// gateway's own kernel says comes from this machine's addresses, those inside as well.
    fn may_report(&self, headers: &Headers) -> Result<(), DropReason> {
        let sender = headers.source;
        let surroundings = self.surroundings();
        let is_virtual =
            self.selection.of_virtual_ip(sender).is_some() || self.prefixes.of_virtual_ip(sender).is_some();
        let is_fit = is_unicast(sender) && !is_virtual && !surroundings.is_hidden(sender);
        if is_fit || surroundings.is_own(sender) { Ok(()) } else { Err(DropReason::SpoofedSource) }
    }

    /// A router or a host outside could not deliver what a terminal sent.
    fn error_from_outside(
        &self,
        headers: &Headers,
        quote: &Quote,
        strangers: &mut Strangers,
        now: Time,
    ) -> Result<RestoredQuote, DropReason> {
        let receiver = self.find_receiver(headers.destination, &mut ForReal)?;
        if quote.headers.source != headers.destination {
            return Err(DropReason::IcmpErrorUnrelated);
        }
        if self.surroundings().is_own(headers.source) && self.surroundings().is_hidden(quote.headers.destination) {
            // The gateway's own kernel could not deliver what one terminal sent to another.
            return self.error_by_hairpin(headers, quote, None);
        }
        let peer = quote.headers.destination;
        self.admit_peer(&receiver, peer, false, now, &mut ForReal).map_err(|_| DropReason::IcmpErrorUnrelated)?;
        let Bound { table, found } = receiver;
        let is_known = headers.source == peer
            || self.surroundings().is_own(headers.source)
            || self.contacts.live(receiver.owner(), headers.source, now.as_secs()).is_some();
        if !is_known {
            strangers.admit(receiver.slot(), now)?;
        }
        self.table(table)?
            .add_usage(found.index, Usage { packets_in: 1, bytes_in: headers.end as u64, ..Usage::default() });
        let terminal = found.slot.terminal;
        Ok(RestoredQuote {
            to: Realm::Inside(found.slot.inside),
            outer: Rewrite::destination(terminal),
            quoted: Rewrite::source(terminal),
        })
    }

    /// A router or a terminal inside could not deliver what a peer sent to a terminal.
    fn error_from_inside(
        &self,
        headers: &Headers,
        quote: &Quote,
        inside: InsideNumber,
    ) -> Result<RestoredQuote, DropReason> {
        let (peer, terminal) = (quote.headers.source, quote.headers.destination);
        if peer != headers.destination {
            return Err(DropReason::IcmpErrorUnrelated);
        }
        let called = self.shown_to(peer, inside, terminal).ok_or(DropReason::IcmpErrorUnrelated)?;
        let sender = self.shown_to(peer, inside, headers.source).or_else(|| self.surroundings().own_outside(peer));
        Ok(RestoredQuote {
            to: Realm::Outside,
            outer: Rewrite::source(sender.ok_or(DropReason::NoOwnAddress)?),
            quoted: Rewrite::destination(called),
        })
    }

    /// A host of the inside `from` (`None`: the gateway's own kernel) could not deliver what one terminal sent to another's
    /// virtual IP: both addresses of the quote are restored (RFC 5508 REQ-7).
    fn error_by_hairpin(
        &self,
        headers: &Headers,
        quote: &Quote,
        from: Option<InsideNumber>,
    ) -> Result<RestoredQuote, DropReason> {
        let (shown, called) = (headers.destination, quote.headers.destination);
        let quoted_sender = self.find_receiver(shown, &mut ForReal)?;
        if quote.headers.source != shown {
            return Err(DropReason::IcmpErrorUnrelated);
        }
        let mut insides = self.insides.numbers();
        let quoted_receiver = match from {
            Some(inside) => self.shown_to(shown, inside, called),
            None => insides.find_map(|inside| self.shown_to(shown, inside, called)),
        };
        let sender = from
            .and_then(|inside| self.shown_to(shown, inside, headers.source))
            .or_else(|| self.surroundings().own_inside(shown));
        let terminal = quoted_sender.found.slot.terminal;
        Ok(RestoredQuote {
            to: Realm::Inside(quoted_sender.found.slot.inside),
            outer: Rewrite { source: Some(sender.ok_or(DropReason::NoOwnAddress)?), destination: Some(terminal) },
            quoted: Rewrite {
                source: Some(terminal),
                destination: Some(quoted_receiver.ok_or(DropReason::IcmpErrorUnrelated)?),
            },
        })
    }

    /// The gateway's own kernel could not deliver what it had got translated: its error quotes the terminal's address
    /// and must not reach the peer like that (N8). `None`: it is about something that was not translated here.
    fn error_of_our_own(
        &self,
        headers: &Headers,
        quote: &Quote,
        now: Time,
    ) -> Result<Option<RestoredQuote>, DropReason> {
        let (peer, terminal) = (headers.destination, quote.headers.destination);
        let number = self.selection.for_peer(peer);
        let surroundings = self.surroundings();
        let mut candidate = None;
        if let Some(number) = number.filter(|_| quote.headers.source == peer) {
            let table = self.table(number)?;
            for found in self.insides.numbers().filter_map(|inside| table.of_terminal(inside, terminal)) {
                let called = self.admit_peer(&Bound { table: number, found }, peer, false, now, &mut ForReal).is_ok();
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
                let own = surroundings.source_of_our_own(headers.source, peer);
                if own.is_none() && surroundings.is_hidden(headers.source) {
                    return Err(DropReason::NoOwnAddress);
                }
                let outer = Rewrite { source: own, destination: None };
                Ok(Some(RestoredQuote { to: Realm::Outside, outer, quoted: Rewrite::destination(virtual_ip) }))
            }
            None => {
                let shown = [headers.source, quote.headers.source, terminal];
                let leaks = shown.into_iter().any(|address| surroundings.is_hidden(address));
                if leaks { Err(DropReason::IcmpErrorUnrelated) } else { Ok(None) }
            }
        }
    }

    /// An error about a packet that a prefix translation passed (RFC 6296 §6: the quote is translated as well).
    fn error_by_prefix(
        &self,
        headers: &Headers,
        quote: &Quote,
        realm: Realm,
        strangers: &mut Strangers,
        now: Time,
    ) -> Result<RestoredQuote, DropReason> {
        match realm {
            Realm::Outside => match self.prefixes.of_virtual_ip(headers.destination) {
                Some(prefix) => {
                    if headers.source != quote.headers.destination && !self.surroundings().is_own(headers.source) {
                        strangers.admit(place_of(headers.destination), now)?;
                    }
                    let terminal = prefix.inward(headers.destination)?;
                    let quoted = prefix.inward(quote.headers.source)?;
                    let to = Realm::Inside(prefix.inside);
                    Ok(RestoredQuote { to, outer: Rewrite::destination(terminal), quoted: Rewrite::source(quoted) })
                }
                None => {
                    let terminal = self.prefixes.outward(None, quote.headers.destination, headers.destination);
                    let shown = terminal.ok_or(DropReason::IcmpErrorUnrelated)??;
                    let own = self.surroundings().source_of_our_own(headers.source, headers.destination);
                    let outer = Rewrite { source: own, destination: None };
                    Ok(RestoredQuote { to: Realm::Outside, outer, quoted: Rewrite::destination(shown) })
                }
            },
            Realm::Inside(inside) => {
                let peer = headers.destination;
                let shown = self.prefixes.outward(Some(inside), quote.headers.destination, peer);
                let shown = shown.ok_or(DropReason::IcmpErrorUnrelated)??;
                let sender = match self.prefixes.outward(Some(inside), headers.source, peer) {
                    Some(sender) => sender?,
                    None => self.surroundings().own_outside(peer).ok_or(DropReason::NoOwnAddress)?,
                };
                Ok(RestoredQuote {
                    to: Realm::Outside,
                    outer: Rewrite::source(sender),
                    quoted: Rewrite::destination(shown),
                })
            }
        }
    }

    /// The virtual IP by which `peer` knows an inside address, if it has an active one (RFC 5508 REQ-5c).
    fn shown_to(&self, peer: Address, inside: InsideNumber, address: Address) -> Option<Address> {
        let table = self.table(self.selection.for_peer(peer)?).ok()?;
        let found = table.of_terminal(inside, address)?;
        (found.slot.state != BindingState::Quarantined).then_some(found.slot.virtual_ip)
    }
}

/// Whether no path has packets so small at most. An IPv4 router from before RFC 1191 says nothing, which is zero.
fn is_impossible(mtu: u32, like: Address) -> bool {
    if like.is_v4() { (1..68).contains(&mtu) } else { mtu < 1280 }
}

/// Stands for a terminal that has no slot.
fn place_of(virtual_ip: Address) -> SlotRef {
    let bits = virtual_ip.bits();
    #[allow(clippy::cast_possible_truncation, reason = "any of its bits will do")]
    SlotRef::new(TableNumber::new(u16::MAX), (bits ^ bits >> 64) as u32)
}

/// Writes the quoted addresses first, then mends the ICMP checksum for them, then the outer addresses.
fn write(packet: &mut Packet<'_>, headers: &Headers, stored: Stored, quote: &Quote, restored: &RestoredQuote) {
    let quoted = &quote.headers;
    let changed = wire::set_addresses(packet.bytes, quote.at, quoted, quoted.stored(None), restored.quoted);
    if stored != Stored::PseudoHeader {
        wire::mend(packet.bytes, headers.transport + 2, changed, stored);
    }
    wire::set_addresses(packet.bytes, 0, headers, stored, restored.outer);
}
