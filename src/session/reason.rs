//! Why a connection is refused.

use serde::{Serialize, Serializer};

macro_rules! refuse_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a connection is refused. Each reason has a counter, and a number on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum RefuseReason {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl RefuseReason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in counters, JSON and logs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// One sentence for people.
            pub const fn explain(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc,)+).trim_ascii(),)+
                }
            }

            /// The number on the wire.
            pub const fn number(self) -> u64 {
                self as u64
            }
        }
    };
}

refuse_reasons! {
    /// Another version has a reason that this one does not know.
    Unknown = 0, "unknown";
    /// No agent publishes a server of this name.
    NoServer = 1, "no_server";
    /// The agent of this server is away.
    AgentAway = 2, "agent_away";
    /// The server refuses the connection (a TCP reset).
    ServerRefused = 3, "server_refused";
    /// No route leads from the agent to the server, or its name does not resolve.
    ServerUnreachable = 4, "server_unreachable";
    /// The server does not answer the agent.
    ServerTimedOut = 5, "server_timed_out";
    /// The agent has not acknowledged the call in time.
    AgentSilent = 6, "agent_silent";
    /// The agent has acknowledged the call, and its data channel has not come in time.
    NoDataChannel = 7, "no_data_channel";
    /// The server has as many connections as it may.
    ServerFull = 8, "server_full";
    /// The agent has as many connections as it may.
    AgentFull = 9, "agent_full";
    /// The client's address has as many connections as it may.
    ClientFull = 10, "client_full";
    /// The relay has as many connections as it may.
    RelayFull = 11, "relay_full";
    /// The client may not call this server.
    NotAllowed = 12, "not_allowed";
    /// The agent may not publish a server of this name.
    NotPermitted = 13, "not_permitted";
    /// Another agent publishes a server of this name.
    NameTaken = 14, "name_taken";
    /// The agent publishes as many servers as it may.
    TooManyServers = 15, "too_many_servers";
    /// The client has gone before the way was open.
    ClientGone = 16, "client_gone";
    /// The session has ended.
    SessionEnded = 17, "session_ended";
    /// This machine has no descriptors, ports or memory left for it.
    OutOfResources = 18, "out_of_resources";
    /// The client has not proved who it is.
    NotProved = 19, "not_proved";
}

impl RefuseReason {
    /// The reason of this number; of a number that this version does not know, [`RefuseReason::Unknown`].
    pub fn of_number(number: u64) -> Self {
        Self::ALL.iter().copied().find(|reason| reason.number() == number).unwrap_or(Self::Unknown)
    }
}

impl Serialize for RefuseReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
