//! The translator. Pure: no clock, no I/O, no unsafe; `now` and bytes are handed in.
//!
//! [`Nat`] is what all workers share; each worker has a [`Translator`] of its own. The way of a packet is
//! [`Translator::translate`], on one page; the rooms beside it are
//!
//! | file | what |
//! | --- | --- |
//! | `table.rs` | the bindings: index (`index.rs`), flat slots (`slots.rs`), life cycle (`ledger.rs`, `free_slots.rs`) |
//! | `parts.rs` | pools as slot numbers |
//! | `selection.rs` | which pool serves which peer, and which pool a virtual IP is from |
//! | `callback.rs`, `contacts.rs` | who may call back |
//! | `limit.rs` | how fast bindings may be made |
//! | `decide.rs` | what becomes of a packet that a worker has not seen the like of |
//! | `prefix.rs` | IPv6 prefixes translated without memory (RFC 6296) |
//! | `explain.rs` | the same decision about a packet that is only talked about |
//! | `stored.rs`, `unrecorded.rs` | bindings that outlive the translator, and those not on record yet |
//! | `alg/` | applications that carry addresses in their text |
//! | `unsolicited.rs` | calls that reach nobody |
//! | `flows.rs` | what a worker remembers of the flows it serves |
//! | `drops.rs` | what was dropped, and whose it was |
//! | `offload.rs` | flows that somebody faster carries |
//! | `icmp_error.rs`, `strangers.rs` | errors, with the packet they quote |
//! | `prepared.rs` | other settings, the same bindings |
//! | `admin.rs`, `named.rs`, `event.rs`, `verdict.rs` | what the rest of the program sees |

#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

mod admin;
mod alg;
mod binding;
mod callback;
mod contacts;
mod counters;
mod drops;
mod event;
mod flow;
mod fold;
mod limit;
mod prefix;
mod qualified;
mod reason;
mod reload;
mod selection;
mod settings;
mod shared;
mod stored;
mod surroundings;
mod table;
mod verdict;
mod views;

pub use admin::{AdminError, Choice};
pub use binding::{BindingState, Realm, SlotRef};
pub use counters::Counter;
pub use drops::{DropRow, Dropped, End};
pub use event::{Event, EventKind};
pub use flow::explain::{Explanation, Question};
pub use flow::offload::{Carried, Epoch, FlowCarrier, Offer};
pub use flow::translate::Translator;
pub use qualified::{ParseQualifiedError, Qualified};
pub use reason::DropReason;
pub use reload::PreparedReload;
pub use settings::{
    Alg, AlgSettings, CallbackPolicy, CreationLimit, Exhausted, Hairpin, InboundRefresh, InsideSettings, Lifetimes,
    Multipath, PoolKind, PoolSettings, Settings, Unsolicited,
};
pub use shared::{Nat, SettingsError};
pub use stored::{
    ContactChange, ContactKey, Misfit, Receipt, Restored, Restoring, StoredBinding, StoredContact, Unfit,
};
pub use verdict::{Refused, Replaced, Verdict};
pub use views::{BindingView, ContactView, Direction, PolicyFrom, PolicyView, PoolView, StatusView, TrafficView};

#[cfg(test)]
pub(crate) mod tests;
