//! Which interfaces the gateway has, whatever they are called at the moment.
//!
//! The configuration names interfaces. An interface that was renamed stays what it was: inside or outside. A name of the
//! configuration always counts too, whichever interface has it now. So nothing that was inside turns into something
//! else but by being deleted, or by getting the configured name of another place. A bridge (or bond, team, VRF) that
//! takes a member in is of its realm from then on: it has the packets before they are routed.

use super::look::Member as Link;
use super::plan::Plan;
use std::collections::{BTreeMap, BTreeSet};

/// A realm: the number of an inside, or `None` for the outside.
type Realm = Option<usize>;

/// The interfaces of a plan, followed by their index.
#[derive(Debug)]
pub(super) struct Members {
    /// The plan as it was configured.
    configured: Plan,
    /// By index: the realm, the name it had at the last look, and the name it was first known by.
    known: BTreeMap<u32, Member>,
    /// Configured names that no interface had at the last look.
    missing: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    realm: Realm,
    name: String,
}

/// What has happened since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Old names and new ones.
    pub(super) renamed: BTreeMap<String, String>,
    /// Configured interfaces that do not exist any more.
    pub(super) gone: Vec<String>,
    /// Configured interfaces that exist again.
    pub(super) back: Vec<String>,
    /// Interfaces and the masters that have taken them in.
    pub(super) taken_in: BTreeMap<String, String>,
}

impl Members {
    pub(super) fn new(configured: Plan) -> Self {
        Self { configured, known: BTreeMap::new(), missing: BTreeSet::new() }
    }

    /// Other pools, exemptions and prefixes for the same interfaces. Returns the plan before.
    pub(super) fn change(&mut self, plan: &Plan) -> Plan {
        std::mem::replace(&mut self.configured, plan.clone())
    }

    /// The plan with the interfaces by their names of now, and what to tell the operator.
    pub(super) fn update(&mut self, links: &[Link]) -> (Plan, Changes) {
        let mut plan = self.configured.clone();
        let mut changes = Changes::default();
        let configured: BTreeMap<&String, Realm> =
            realms(&self.configured).map(|(realm, name)| (name, realm)).collect();
        let mut known = BTreeMap::new();
        for Link { name, index, .. } in links {
            let before = self.known.get(index);
            let realm = match (configured.get(name), before) {
                (Some(realm), _) => *realm,
                (None, Some(before)) => {
                    let list = match before.realm {
                        Some(realm) => plan.insides.get_mut(realm).map(|inside| &mut inside.interfaces),
                        None => Some(&mut plan.outsides),
                    };
                    list.into_iter().for_each(|list| list.push(name.clone()));
                    before.realm
                }
                (None, None) => continue,
            };
            if let Some(before) = before.filter(|before| before.name != *name) {
                changes.renamed.insert(before.name.clone(), name.clone());
            }
            known.insert(*index, Member { realm, name: name.clone() });
        }
        for Link { name, index, master } in links {
            let (Some(master), Some(member)) = (master, known.get(index)) else { continue };
            let Some(taker) = links.iter().find(|link| link.index == *master) else { continue };
            if configured.contains_key(&taker.name) || known.contains_key(master) {
                continue;
            }
            let realm = member.realm;
            let list = match realm {
                Some(realm) => plan.insides.get_mut(realm).map(|inside| &mut inside.interfaces),
                None => Some(&mut plan.outsides),
            };
            list.into_iter().for_each(|list| list.push(taker.name.clone()));
            if !self.known.contains_key(master) {
                changes.taken_in.insert(name.clone(), taker.name.clone());
            }
            known.insert(*master, Member { realm, name: taker.name.clone() });
        }
        let missing: BTreeSet<String> = configured
            .keys()
            .filter(|name| !links.iter().any(|link| link.name == ***name))
            .map(|n| (*n).clone())
            .collect();
        changes.gone = missing.difference(&self.missing).cloned().collect();
        changes.back = self.missing.difference(&missing).cloned().collect();
        (self.known, self.missing) = (known, missing);
        (plan, changes)
    }

    /// Whether an interface of the inside is away, and what its routes said of the inside with it.
    pub(super) fn is_incomplete(&self, inside: usize) -> bool {
        let planned = self.configured.insides.get(inside);
        planned.is_some_and(|inside| inside.interfaces.iter().any(|name| self.missing.contains(name)))
    }
}

impl Changes {
    /// One line each.
    pub(super) fn log(&self) {
        for (old, new) in &self.renamed {
            log::warn!("interface '{old}' is now called '{new}'; the gateway follows it. Change its configuration too");
        }
        for (name, master) in &self.taken_in {
            log::warn!(
                "interface '{name}' belongs to '{master}' now, which has its packets before they are routed; the gateway \
                 serves '{master}' in its place. Change its configuration too"
            );
        }
        for name in self.gone.iter().filter(|name| !self.renamed.contains_key(*name)) {
            log::warn!("interface '{name}' has gone; the gateway waits for it to come back");
        }
        for name in self.back.iter().filter(|name| !self.renamed.values().any(|new| new == *name)) {
            log::info!("interface '{name}' is back");
        }
    }
}

/// Every configured interface with its realm.
fn realms(plan: &Plan) -> impl Iterator<Item = (Realm, &String)> {
    let insides = plan.insides.iter().enumerate();
    let insides = insides.flat_map(|(realm, inside)| inside.interfaces.iter().map(move |name| (Some(realm), name)));
    insides.chain(plan.outsides.iter().map(|name| (None, name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::plan::InsidePlan;

    fn members() -> Members {
        let inside = |device: &str, name: &str| InsidePlan {
            device: Some(device.to_owned()),
            interfaces: vec![name.to_owned()],
            sources: vec![],
        };
        Members::new(Plan {
            tun: "kamei".to_owned(),
            insides: vec![inside("kamei-in0", "gi"), inside("kamei-in1", "gj")],
            device: "kamei-nat".to_owned(),
            outsides: vec!["go".to_owned()],
            pools: vec![],
            exempt: vec![],
            undo_file: "/run/kamei/undo.json".into(),
            programs_left: |_| Ok(false),
        })
    }

    fn links(names: &[(&str, u32)]) -> Vec<Link> {
        names.iter().map(|(name, index)| Link { name: (*name).to_owned(), index: *index, master: None }).collect()
    }

    /// The interfaces of both insides and of the outside.
    fn names(plan: &Plan) -> [String; 3] {
        [&plan.insides[0].interfaces, &plan.insides[1].interfaces, &plan.outsides].map(|list| list.join(" "))
    }

    #[test]
    fn an_interface_that_was_renamed_stays_where_it_was() {
        let mut members = members();
        let (plan, changes) = members.update(&links(&[("gi", 2), ("gj", 3), ("go", 4), ("other", 5)]));
        assert_eq!((names(&plan), changes), (["gi", "gj", "go"].map(str::to_owned), Changes::default()));

        let (plan, changes) = members.update(&links(&[("lan", 2), ("gj", 3), ("go", 4), ("other", 5)]));
        assert_eq!(names(&plan), ["gi lan", "gj", "go"]);
        assert_eq!(changes.renamed, [("gi".to_owned(), "lan".to_owned())].into());
        assert!(members.is_incomplete(0) && !members.is_incomplete(1));

        // Another one gets the name: both are inside.
        let (plan, changes) = members.update(&links(&[("lan", 2), ("gj", 3), ("go", 4), ("gi", 6)]));
        assert_eq!(names(&plan), ["gi lan", "gj", "go"]);
        assert_eq!((changes.back, changes.renamed.len()), (vec!["gi".to_owned()], 0));

        // Deleted: forgotten.
        let (plan, _) = members.update(&links(&[("gj", 3), ("go", 4), ("gi", 6)]));
        assert_eq!(names(&plan), ["gi", "gj", "go"]);
        let (plan, changes) = members.update(&links(&[("gj", 3), ("go", 4)]));
        assert_eq!((names(&plan), changes.gone), (["gi", "gj", "go"].map(str::to_owned), vec!["gi".to_owned()]));
    }

    #[test]
    fn a_bridge_that_takes_an_interface_in_is_of_its_realm() {
        let mut members = members();
        let mut all = links(&[("gi", 2), ("gj", 3), ("go", 4), ("br0", 5)]);
        members.update(&all);
        all[0].master = Some(5);
        let (plan, changes) = members.update(&all);
        assert_eq!(names(&plan), ["gi br0", "gj", "go"]);
        assert_eq!(changes.taken_in, [("gi".to_owned(), "br0".to_owned())].into());
        // Said once. And what was inside stays inside when the bridge lets the interface go.
        let (plan, changes) = members.update(&all);
        assert_eq!((names(&plan), changes), (["gi br0", "gj", "go"].map(str::to_owned), Changes::default()));
        all[0].master = None;
        assert_eq!(names(&members.update(&all).0), ["gi br0", "gj", "go"]);
    }

    #[test]
    fn a_configured_name_counts_more_than_what_an_interface_was() {
        let mut members = members();
        members.update(&links(&[("gi", 2), ("gj", 3), ("go", 4)]));
        let (plan, changes) = members.update(&links(&[("gi", 4), ("gj", 3), ("go", 2)]));
        assert_eq!(names(&plan), ["gi", "gj", "go"]);
        assert_eq!(changes.renamed.len(), 2);
    }
}
