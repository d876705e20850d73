//! The translator. Pure: no clock, no I/O, no unsafe; `now` and bytes are handed in.
//!
//! [`Nat`] is what all workers share; each worker has a [`Translator`] of its own. The path of a packet is
//! [`Translator::translate`], on one page; the files beside it are
//!
//! | file | what |
//! | --- | --- |
//! | `state.rs` | what all workers share, and the life of bindings in time |
//! | `binding.rs`, `bound.rs`, `event.rs` | which binding, in which state, in which table; what happened to one |
//! | `numbers.rs` | numbers of insides, pools and tables |
//! | `table/` | bindings: terminal → slot, virtual IP → slot, free slots, unrecorded bindings, life cycle |
//! | `flow/` | what becomes of a packet: translate, decide, explain, remember, offer to the kernel |
//! | `alg/` | applications that carry addresses in their text |
//! | `contacts.rs`, `callback.rs` | which peers a terminal has called; who may call back |
//! | `selection.rs`, `prefix.rs` | which table serves which peer; IPv6 prefixes translated without memory (RFC 6296) |
//! | `limit.rs` | how fast bindings may be made, and how many |
//! | `stored.rs`, `reload.rs` | bindings that outlive the translator; other settings, the same bindings |
//! | `counters.rs`, `drops.rs` | how many packets; what was dropped, and whose it was |
//! | `admin.rs`, `views.rs`, `qualified.rs` | looking at bindings and changing them by hand |
//! | `settings.rs`, `surroundings.rs` | what the translator is told: once, and as the network changes |
//! | `fold.rs` | a hash that nobody can fill unevenly on purpose |
//! | `verdict.rs`, `reason.rs` | what becomes of a packet, and why it is dropped |

#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

mod admin;
mod alg;
mod binding;
mod bound;
mod callback;
mod contacts;
mod counters;
mod drops;
mod event;
mod flow;
mod fold;
mod limit;
mod numbers;
mod prefix;
mod qualified;
mod reason;
mod reload;
mod selection;
mod settings;
mod state;
mod stored;
mod surroundings;
mod table;
mod verdict;
mod views;

pub use admin::{AdminError, Choice};
pub use binding::{BindingState, Realm, SlotRef};
pub use callback::CallbackPolicy;
pub use counters::Counter;
pub use drops::{DropRow, Dropped, End};
pub use event::{Event, EventKind};
pub use flow::carrier::{Carried, Epoch, FlowCarrier, Offer};
pub use flow::explain::{Explanation, Question};
pub use flow::translate::Translator;
pub use numbers::{InsideNumber, PoolNumber};
pub use qualified::{ParseQualifiedError, Qualified};
pub use reason::DropReason;
pub use reload::PreparedReload;
pub use settings::{
    Alg, AlgSettings, CreationLimit, Exhausted, Hairpin, InboundRefresh, InsideSettings, Lifetimes, Multipath, Policy,
    PoolKind, PoolSettings, Settings, Unsolicited,
};
pub use state::{Nat, SettingsError};
pub use stored::{
    ContactChange, ContactKey, Misfit, Receipt, Restored, Restoring, StoredBinding, StoredContact, Unfit,
};
pub use verdict::{Refused, Replaced, Verdict};
pub use views::{BindingView, ContactView, Direction, PolicyFrom, PolicyView, PoolView, StatusView, TrafficView};

#[cfg(test)]
pub(crate) mod tests;
