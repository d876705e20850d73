//! Who hears what a decision looks at: one walk serves the workers, who carry it out, and who only asks.

use crate::nat::bound::Bound;
use crate::nat::numbers::TableNumber;
use crate::wire::Address;

/// Whether a decision is to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nat) enum Run {
    /// It is: bindings are made, woken and used.
    Real,
    /// It is only asked for; nothing changes.
    Dry,
}

/// What a decision looks at, told in the order in which it does.
pub(in crate::nat) enum Fact {
    /// One prefix is translated by another, without bindings (RFC 6296).
    ByPrefix,
    /// The peer is itself a virtual IP: one terminal calls another.
    Hairpin,
    /// The virtual IPs for calls to the peer are of this table.
    ForPeer(Address, TableNumber),
    /// The binding of the terminal that sends, if it has one.
    Sender(Option<Bound>),
    /// No pool has the virtual IP.
    NotVirtual(Address),
    /// The virtual IP is of this table.
    VirtualIp(Address, TableNumber),
    /// The binding that has the virtual IP, if one has.
    Receiver(Option<Bound>),
    /// The peer calls the receiver by a virtual IP that is not for it.
    OtherPool(Address),
    /// The callback policy of the receiver is asked about the peer.
    MayCall(Bound, Address),
}

/// Walks through a decision beside it.
pub(in crate::nat) trait Observer {
    /// Whether what is decided is carried out.
    const RUN: Run;

    /// The decision looks at `fact`.
    fn sees(&mut self, fact: Fact);
}

/// The observer of a worker: the decision is carried out, and nobody listens.
pub(in crate::nat) struct ForReal;

impl Observer for ForReal {
    const RUN: Run = Run::Real;

    #[inline(always)] // nothing is left of it
    fn sees(&mut self, _fact: Fact) {}
}
