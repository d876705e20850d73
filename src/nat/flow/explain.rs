//! What would become of a packet, and why, in words. Nothing is changed by asking.

use super::decide::untranslatable;
use super::observer::{Fact, Observer, Run};
use crate::nat::binding::BindingState;
use crate::nat::binding::Realm;
use crate::nat::bound::Bound;
use crate::nat::event::EventKind;
use crate::nat::numbers::TableNumber;
use crate::nat::reason::DropReason;
use crate::nat::state::Nat;
use crate::nat::views::BindingView;
use crate::time::Time;
use crate::wire::{Address, Fragment, Headers, Kind, protocol};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// A packet that is only talked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where it would come from; `None`: inside if its source is an address of an inside, else outside.
    pub realm: Option<Realm>,
    /// The terminal, or a peer where it would come from outside.
    pub source: IpAddr,
    /// Its destination, of the same family.
    pub destination: IpAddr,
    /// Its IP protocol number.
    pub protocol: u8,
    /// Whether it would open a connection (a TCP SYN, an ICMP query) rather than belong to one.
    pub opens: bool,
}

/// What would become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The realm it comes from.
    pub from: String,
    /// The realm it would go to; missing if it would be dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Its source then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Its destination then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    /// Why it would be dropped ([`DropReason::name`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The binding that it would use, as it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding: Option<BindingView>,
    /// Whether the kernel takes it, or has sent it, for the gateway itself: it is translated in no case.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_of_this_machine: bool,
    /// What of the host stands in the way, a sentence each with what to do; the gateway itself does not look.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<String>,
    /// What was looked at, in order, a sentence each.
    pub steps: Vec<String>,
    /// What to do so that it would pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Explanation {
    /// This explanation, unless one of its ends is the machine's own: then the packet is none of the gateway's. For who knows
    /// all addresses of the machine; the gateway knows those of its interfaces.
    pub fn unless_own(self, (source, destination): (IpAddr, IpAddr), is_own: &dyn Fn(IpAddr) -> bool) -> Self {
        if self.is_of_this_machine {
            self
        } else if is_own(source) {
            Self::of_this_machine(self.from, own_source(source))
        } else if is_own(destination) {
            Self::of_this_machine(self.from, own_destination(destination))
        } else {
            self
        }
    }

    fn of_this_machine(from: String, step: String) -> Self {
        Self {
            from,
            to: None,
            source: None,
            destination: None,
            reason: None,
            binding: None,
            is_of_this_machine: true,
            host: Vec::new(),
            steps: vec![step],
            hint: None,
        }
    }
}

impl Nat {
    /// Decides about a packet as a worker would that sees it now, changes nothing, and says why.
    pub fn explain(&self, question: &Question, now: Time) -> Explanation {
        let headers = question.headers();
        let realm = question.realm.unwrap_or_else(|| self.realm_of(headers.source));
        if let Some(explanation) = self.explain_own(&headers, realm) {
            return explanation;
        }
        let mut trace =
            Trace { nat: self, now, steps: self.first_steps(&headers, realm), sender: None, receiver: None };
        let decided = match untranslatable(headers.kind) {
            Some(reason) => Err(reason),
            None => match realm {
                Realm::Inside(inside) => self.decide_outbound(&headers, inside, now, &mut trace),
                Realm::Outside => self.decide_inbound(&headers, now, &mut trace),
            },
        };
        let Trace { mut steps, sender, receiver, .. } = trace;
        let binding = if realm == Realm::Outside { receiver } else { sender };
        let mut explanation = Explanation {
            from: self.realm_name(realm).to_owned(),
            to: None,
            source: None,
            destination: None,
            reason: None,
            binding: binding.map(|bound| self.view(&bound, now)),
            is_of_this_machine: false,
            host: Vec::new(),
            steps: Vec::new(),
            hint: None,
        };
        match decided {
            Ok(decision) => {
                match decision.event.map(|event| (event.kind, event.virtual_ip)) {
                    Some((EventKind::Created, virtual_ip)) => {
                        steps.say(format_args!("This packet would make its binding, with {virtual_ip}."));
                    }
                    Some(_) => steps.say(format_args!("This packet would wake the binding.")),
                    None => {}
                }
                let rewrite = decision.flow.rewrite;
                explanation.to = Some(self.realm_name(decision.flow.to).to_owned());
                explanation.source = Some(rewrite.source.unwrap_or(headers.source).into());
                explanation.destination = Some(rewrite.destination.unwrap_or(headers.destination).into());
            }
            Err(reason) => {
                steps.say(format_args!("{}", reason.explain()));
                explanation.reason = Some(reason.name().to_owned());
                explanation.hint = hint(reason).map(str::to_owned);
            }
        }
        explanation.steps = steps.0;
        explanation
    }

    /// What the kernel delivers to the gateway itself, or what that sends, does not come to a worker.
    fn explain_own(&self, headers: &Headers, realm: Realm) -> Option<Explanation> {
        let (source, destination) = (headers.source, headers.destination);
        let surroundings = self.surroundings();
        let step = if surroundings.is_own(source) {
            own_source(source.into())
        } else if surroundings.is_own(destination) && self.selection.of_virtual_ip(destination).is_none() {
            own_destination(destination.into())
        } else {
            return None;
        };
        Some(Explanation::of_this_machine(self.realm_name(realm).to_owned(), step))
    }

    fn realm_of(&self, source: Address) -> Realm {
        let surroundings = self.surroundings();
        let mut insides = self.insides.numbers();
        insides.find(|inside| surroundings.is_source(*inside, source)).map_or(Realm::Outside, Realm::Inside)
    }

    /// For whom the source is taken.
    fn first_steps(&self, headers: &Headers, realm: Realm) -> Steps {
        let mut steps = Steps(Vec::new());
        let source = headers.source;
        let Realm::Inside(inside) = realm else {
            steps.say(format_args!("{source} is taken for a peer outside."));
            return steps;
        };
        let name = self.inside_name(inside);
        steps.say(format_args!("{source} is taken for a terminal of the inside '{name}'."));
        if !self.surroundings().is_source(inside, source) {
            steps.say(format_args!("No prefix of that inside has this address: see the routes to its interfaces."));
        }
        steps
    }

    fn pools_of(&self, table: TableNumber) -> String {
        let names = self.table(table).ok().map(|table| {
            let names: Vec<&str> = table.pools().iter().map(|part| self.pool_name(part.pool())).collect();
            names.join(", ")
        });
        format!("pool {}", names.unwrap_or_default())
    }
}

/// Puts into words what a decision looks at.
struct Trace<'a> {
    nat: &'a Nat,
    now: Time,
    steps: Steps,
    sender: Option<Bound>,
    receiver: Option<Bound>,
}

impl Observer for Trace<'_> {
    const RUN: Run = Run::Dry;

    fn sees(&mut self, fact: Fact) {
        let (nat, steps) = (self.nat, &mut self.steps);
        match fact {
            Fact::ByPrefix => {
                steps.say(format_args!(
                    "A prefix is translated by another, without bindings (RFC 6296); everyone may call."
                ));
            }
            Fact::Hairpin => {
                steps.say(format_args!("The peer is itself a virtual IP: one terminal calls another (hairpin)."));
            }
            Fact::ForPeer(peer, table) => {
                steps.say(format_args!("For {peer} virtual IPs are given from {}.", nat.pools_of(table)));
            }
            Fact::Sender(bound) => {
                self.sender = bound;
                match bound {
                    Some(bound) => self.say_binding(&bound),
                    None => steps.say(format_args!("The terminal has no binding there yet.")),
                }
            }
            Fact::NotVirtual(address) => {
                steps
                    .say(format_args!("{address} is in no pool; the kernel hands over to kamei only what is for one."));
            }
            Fact::VirtualIp(virtual_ip, table) => {
                steps.say(format_args!("{virtual_ip} is a virtual IP of {}.", nat.pools_of(table)));
            }
            Fact::Receiver(bound) => {
                self.receiver = bound;
                match bound {
                    Some(bound) => self.say_binding(&bound),
                    None => steps.say(format_args!("No terminal has it.")),
                }
            }
            Fact::OtherPool(peer) => {
                steps.say(format_args!("But for {peer} virtual IPs are given from another pool."));
            }
            Fact::MayCall(receiver, peer) => self.say_policy(&receiver, peer),
        }
    }
}

impl Trace<'_> {
    fn say_binding(&mut self, bound: &Bound) {
        let slot = &bound.found.slot;
        let (terminal, virtual_ip) = (slot.terminal, slot.virtual_ip);
        let view = self.nat.view(bound, self.now);
        let used = ago(self.now - view.last_used);
        let steps = &mut self.steps;
        match slot.state {
            BindingState::Active => {
                steps.say(format_args!("{terminal} ({}) has {virtual_ip}, last used {used}.", view.realm));
            }
            BindingState::Dormant => {
                steps.say(format_args!("{terminal} ({}) has {virtual_ip}, dormant: last used {used}.", view.realm));
            }
            BindingState::Quarantined => {
                steps.say(format_args!("{virtual_ip} was {terminal}'s; it is in quarantine and answers nobody."));
            }
        }
    }

    /// Who may call, and whether this peer has been called.
    fn say_policy(&mut self, receiver: &Bound, peer: Address) {
        let (nat, owner) = (self.nat, receiver.owner());
        let (whose, policy) = match (nat.policies.of(owner), nat.policy_of_pool(receiver)) {
            (Some(policy), _) => ("The binding's own", policy),
            (None, Some(policy)) => ("The pool's", policy.clone()),
            (None, None) => ("The general", nat.policy.callback.clone()),
        };
        self.steps.say(format_args!("{whose} callback policy: {policy}."));
        let terminal = receiver.found.slot.terminal;
        match nat.contacts.known(owner, peer) {
            Some(known) => {
                let called = ago(Duration::from_secs(self.now.as_secs().saturating_sub(known.last).into()));
                let lasts = humantime::format_duration(nat.contacts.idle());
                let answered = if known.answered { "it has answered" } else { "it has not answered yet" };
                self.steps
                    .say(format_args!("{terminal} last called {peer} {called}, {answered}; a contact lasts {lasts}."));
            }
            None if nat.contacts.has_forgotten(owner, peer) => {
                self.steps.say(format_args!("{terminal} has called {peer}, and too many others since to remember it."));
            }
            None => self.steps.say(format_args!("{terminal} has not called {peer}.")),
        }
    }
}

impl Question {
    fn headers(&self) -> Headers {
        let kind = match (self.protocol, self.opens) {
            (protocol::TCP, true) => Kind::TcpSyn,
            (protocol::TCP, false) => Kind::Tcp,
            (protocol::UDP | protocol::UDP_LITE, _) => Kind::Datagram,
            (protocol::ICMP | protocol::ICMPV6, true) => Kind::IcmpQuery,
            (protocol::ICMP | protocol::ICMPV6, false) => Kind::IcmpOther,
            (protocol::AH, _) => Kind::Authentication,
            _ => Kind::Other,
        };
        Headers {
            source: self.source.into(),
            destination: self.destination.into(),
            protocol: self.protocol,
            transport: 0,
            end: 0,
            fragment: Fragment::Whole,
            kind,
            checksum: None,
        }
    }
}

struct Steps(Vec<String>);

impl Steps {
    fn say(&mut self, sentence: fmt::Arguments<'_>) {
        self.0.push(sentence.to_string());
    }
}

fn own_source(source: IpAddr) -> String {
    format!("{source} is this machine's own address: what it sends itself leaves with that, and is no terminal's.")
}

fn own_destination(destination: IpAddr) -> String {
    format!(
        "{destination} is this machine's own address: the kernel delivers it here, past kamei; whether it is let in says the \
         firewall's input hook (`nft list ruleset`), and who answers `ss -lnp`."
    )
}

fn ago(time: Duration) -> String {
    match time.as_secs() {
        0 => "just now".to_owned(),
        seconds => format!("{} ago", humantime::format_duration(Duration::from_secs(seconds))),
    }
}

/// What an operator can do about it.
const fn hint(reason: DropReason) -> Option<&'static str> {
    Some(match reason {
        DropReason::NoBinding => "The terminal must call out first, or: kamei bindings pin TERMINAL VIRTUAL-IP",
        DropReason::Dormant => {
            "The terminal must call out again; [lifetimes] hold says how long a binding stays active"
        }
        DropReason::NotContacted => {
            "The terminal must call this peer first; or let it in: kamei bindings callback TERMINAL anyone|PREFIX"
        }
        DropReason::ContactForgotten => {
            "Raise [lifetimes] contacts-per-binding; or let it in: kamei bindings callback TERMINAL anyone|PREFIX"
        }
        DropReason::NotAnswered => {
            "The peer must answer the terminal first; or let it in: kamei bindings callback TERMINAL contacted|anyone|PREFIX"
        }
        DropReason::NotAFirstPacket => "A connection begun before the binding was lost must be opened anew",
        DropReason::PoolExhausted => {
            "Give a larger pool or a second one, shorten [lifetimes] dormant, or release bindings"
        }
        DropReason::NoPool => "Give a pool of this address family whose destinations include this peer",
        DropReason::CreationRate => "Raise [creation] per-second or burst, if so many new terminals are meant",
        DropReason::Quota => "Raise [creation] per-prefix or total, or release bindings",
        DropReason::Unanswered => {
            "Somebody may be sending with addresses of others; see kamei bindings --unanswered. [creation] unanswered says how many may wait"
        }
        DropReason::SourceNotInside => {
            "Route the terminal's network to the inside interface, or name it in inside-prefixes"
        }
        DropReason::WrongPool => "The peer knows this virtual IP from somewhere else; it can call only its own pool's",
        DropReason::Hairpin => "Allow hairpin = \"policy\" or \"anyone\"",
        DropReason::AuthenticationHeader => "Use ESP in UDP (RFC 3948) instead of AH",
        DropReason::NotVirtual => "Call the virtual IP; `kamei bindings` lists them",
        _ => return None,
    })
}
