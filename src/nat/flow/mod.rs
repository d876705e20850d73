//! What becomes of a packet.
//!
//! | file | what |
//! | --- | --- |
//! | `translate.rs` | the path of a packet, on one page |
//! | `remembered.rs` | what a worker remembers of the flows it serves |
//! | `decide.rs` | the decision about a flow that a worker has not seen the like of |
//! | `observer.rs` | who hears what a decision looks at, and whether it is carried out |
//! | `explain.rs` | the same decision about a packet that is only talked about, in words |
//! | `policy.rs` | who may call a terminal, for who asks |
//! | `carrier.rs`, `carried.rs` | flows that the kernel carries: the agreement, the account |
//! | `unsolicited.rs` | calls that reach nobody |
//! | `icmp_error.rs`, `strangers.rs` | errors, with the packet they quote |

pub(super) mod carried;
pub(super) mod carrier;
pub(super) mod decide;
pub(super) mod explain;
pub(super) mod icmp_error;
pub(super) mod observer;
pub(super) mod policy;
pub(super) mod remembered;
pub(super) mod strangers;
pub(super) mod translate;
pub(super) mod unsolicited;
