//! Kernel settings under /proc/sys: what the gateway needs, what was there before, and the way back.
//!
//! *The way back:* a setting is put back if it is as the gateway left it. What another program has asked for since
//! stays, also if that is what the gateway had asked for: where any value but zero means yes, the gateway writes
//! [`YES`], and others write 1.
//!
//! *Meanwhile:* a setting without which packets are lost ([`Key::is_vital`]) is looked at when the kernel says that one has
//! changed, and once a second, and set again, with a warning; at last every five minutes, so that two programs that want
//! different things do not fight without end. The others are made once: when they become needed, or their interface comes.

use super::error::KernelError;
use super::messages::Family;
use super::plan::Plan;
use super::setting::Key;
use super::undo::{Record, UndoFile};
use super::view::Host;
use crate::wire::AddressRange;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What the gateway writes where any value but zero means yes.
const YES: &str = "2";
/// Time after which a setting that another program changes again and again is set again at the latest.
const RARELY: Duration = Duration::from_mins(5);

const V4: &str = "net/ipv4/conf";
const V6: &str = "net/ipv6/conf";

/// The settings changed so far, with what they were; kept on disk before each change.
#[derive(Debug)]
pub(super) struct Sysctls {
    file: UndoFile,
    changes: Vec<Record>,
    /// The file on disk is this gateway's, not some other's by the same path.
    on_disk: bool,
    /// The interfaces as they were when their settings were made: one that was deleted and came back starts anew.
    seen: Vec<(String, u32)>,
    /// What is needed, with its value where that is to be kept: what a pool or a network needs that comes later is made on
    /// interfaces that are known too.
    needed: BTreeMap<Key, Option<String>>,
    /// Whether the machine checks strictly what came the right way.
    strict: bool,
    /// What another program has changed: how often it was set again, and when it may be the next time.
    contested: BTreeMap<Key, (u32, Instant)>,
}

impl Sysctls {
    /// Takes over what a killed predecessor noted.
    pub(super) fn take_over(file: UndoFile, tun: &str) -> Self {
        let mut changes = file.load(tun);
        let on_disk = !changes.is_empty();
        // A value that is no longer the one we set was changed by another program since: not ours to put back.
        changes.retain(|record| record.key.read().is_ok_and(|now| now == record.new));
        let (needed, contested) = (BTreeMap::new(), BTreeMap::new());
        Self { file, changes, on_disk, seen: Vec::new(), needed, strict: false, contested }
    }

    /// Whether a predecessor left anything.
    pub(super) fn inherited(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Settings of our own devices; they vanish with them, so nothing is remembered.
    pub(super) fn prepare_devices(plan: &Plan, host: &Host) -> Result<(), KernelError> {
        device_settings(plan, host)?.into_iter().try_for_each(|(key, value)| key.make(value))
    }

    /// Makes every setting that the plan needs; forwarding last. Again later: what has become needed, what interfaces that
    /// came (back) need, and what is vital and others have changed; leaves alone what else others have changed.
    pub(super) fn apply(&mut self, plan: &Plan, host: &Host) -> Result<(), KernelError> {
        let first = self.seen.is_empty();
        if !first {
            for (key, value) in device_settings(plan, host)? {
                if key.is_vital() && key.is_refused(value) && self.may_contest(&key, value) {
                    key.set(value)?;
                }
            }
        }
        let wants = self.wants(plan, host)?;
        let value = |want: &Record| (!want.held).then(|| want.new.clone());
        let needed = wants.iter().map(|want| (want.key.clone(), value(want))).collect();
        let mut fresh = Vec::new();
        for mut want in wants {
            // An earlier version has written another yes.
            let had = self.changes.iter().find(|had| had.key == want.key);
            if let Some(had) = had.filter(|had| had.key.is_served_by(&had.new, &want.new)) {
                want.new.clone_from(&had.new);
            }
            if first || !self.is_known(&want.key, host) || !self.needed.contains_key(&want.key) {
                fresh.push(want);
            } else if want.key.is_vital()
                && !want.held
                && want.key.is_refused(&want.new)
                && self.may_contest(&want.key, &want.new)
            {
                want.old = want.key.get()?;
                fresh.push(want);
            }
        }
        let mut kept = self.changes.clone();
        kept.retain(|old| !fresh.iter().any(|new| new.key == old.key));
        let dropped: Vec<Record> = if first { std::mem::take(&mut kept) } else { Vec::new() };
        kept.extend(fresh.iter().filter(|w| w.held || !w.key.is_served_by(&w.old, &w.new)).cloned());
        let both: Vec<Record> = dropped.iter().chain(&kept).cloned().collect();
        if both != self.changes {
            self.file.save(&plan.tun, &both)?;
            self.on_disk = true;
        }
        self.changes = kept;
        for record in &fresh {
            record.key.make(&record.new)?;
        }
        if !dropped.is_empty() {
            let _ = restore(dropped);
            self.file.save(&plan.tun, &self.changes)?;
        }
        self.seen.clone_from(&host.links);
        (self.needed, self.strict) = (needed, is_strict()?);
        Ok(())
    }

    /// Sets again what is vital and others have changed; costs a look at a few files if there is nothing.
    pub(super) fn watch(&mut self, plan: &Plan, host: &Host) -> Result<(), KernelError> {
        let is_off = |key: &Key, wanted: &str| key.is_vital() && key.is_refused(wanted) && self.is_due(key);
        let of_devices = device_settings(plan, host)?;
        let disturbed = of_devices.iter().any(|(key, value)| is_off(key, value))
            || self.needed.iter().any(|(key, value)| value.as_ref().is_some_and(|value| is_off(key, value)))
            || self.strict != is_strict()?;
        if disturbed { self.apply(plan, host) } else { Ok(()) }
    }

    /// Forgets who else has changed what: it may be set again at once.
    pub(super) fn contest_anew(&mut self) {
        self.contested.clear();
    }

    /// Whether what another program has changed may be set again now; says so then.
    fn may_contest(&mut self, key: &Key, wanted: &str) -> bool {
        if !self.is_due(key) {
            return false;
        }
        let now = Instant::now();
        let (times, next) = self.contested.get(key).copied().unwrap_or((0, now));
        let times = if now.duration_since(next) > RARELY { 1 } else { times + 1 };
        let again = if times > 3 { "; that happens again and again: see what changes it (/etc/sysctl.d?)" } else { "" };
        let value = key.read().unwrap_or_default();
        log::warn!("{key} has become {value}, by which packets are lost; it is set to {wanted}{again}");
        let pause = RARELY.min(Duration::from_millis(500) * 2_u32.saturating_pow(times));
        self.contested.insert(key.clone(), (times, now + pause));
        true
    }

    fn is_due(&self, key: &Key) -> bool {
        self.contested.get(key).is_none_or(|(_, next)| Instant::now() >= *next)
    }

    /// Whether the interface is the one that was there before; `all` and `default` always are.
    fn is_known(&self, key: &Key, host: &Host) -> bool {
        let name = &key.interface;
        let is_same = |(have, index): &(String, u32)| have == name && host.index(name) == Some(*index);
        matches!(name.as_str(), "all" | "default") || self.seen.iter().any(is_same)
    }

    /// Interfaces were renamed: the kernel has taken their settings along, so the way back goes by the new names.
    pub(super) fn rename(&mut self, tun: &str, names: &BTreeMap<String, String>) -> Result<(), KernelError> {
        let renamed = |name: &String| names.get(name).cloned();
        let mut changed = false;
        for key in self.changes.iter_mut().map(|record| &mut record.key) {
            if let Some(new) = renamed(&key.interface) {
                (key.interface, changed) = (new, true);
            }
        }
        for (name, _) in &mut self.seen {
            if let Some(new) = renamed(name) {
                *name = new;
            }
        }
        let of_now = |key: Key| match renamed(&key.interface) {
            Some(interface) => Key { interface, ..key },
            None => key,
        };
        self.needed = std::mem::take(&mut self.needed).into_iter().map(|(key, value)| (of_now(key), value)).collect();
        if changed { self.file.save(tun, &self.changes) } else { Ok(()) }
    }

    /// Puts everything back that still is as we left it, the last change first, and forgets it.
    pub(super) fn undo(&mut self) -> Result<usize, KernelError> {
        let count = self.changes.len();
        let restored = restore(std::mem::take(&mut self.changes));
        if std::mem::take(&mut self.on_disk) {
            self.file.remove()?;
        }
        restored.map(|()| count)
    }

    /// What a setting was before any gateway of this name touched it.
    fn original(&self, key: &Key) -> Result<String, KernelError> {
        match self.changes.iter().find(|record| record.key == *key) {
            Some(record) => Ok(record.old.clone()),
            None => key.get(),
        }
    }

    /// The settings the plan needs, in the order in which they are made; those that are right already included.
    fn wants(&self, plan: &Plan, host: &Host) -> Result<Vec<Record>, KernelError> {
        let mut wants = Vec::new();
        let mut want = |key: Key, new: &str| -> Result<(), KernelError> {
            wants.push(Record { old: self.original(&key)?, new: new.to_owned(), held: false, key });
            Ok(())
        };
        let insides: Vec<&String> = plan.insides.iter().flat_map(|inside| &inside.interfaces).collect();
        let present = |name: &&String| host.index(name).is_some();
        for (key, new) in lan_settings(plan, host) {
            want(key, new)?;
        }
        // Who asks for a neighbour says so with an address of that link (2), not with that of the packet that waits.
        for name in plan.outsides.iter().filter(present) {
            want(Key::new(V4, name, "arp_announce"), "2")?;
        }
        // The way back to an address that two insides have leads through one of them.
        let shares = |realm: &usize| host.closable(*realm, Family::V4).any(|net| host.is_ambiguous(*realm, &net));
        let sharing = (0..plan.insides.len()).filter(shares).filter_map(|realm| plan.insides.get(realm));
        let sharing: BTreeSet<&String> = sharing.flat_map(|inside| &inside.interfaces).chain(&host.doubled).collect();
        for name in sharing.into_iter().filter(present) {
            let key = Key::new(V4, name, "rp_filter");
            // The larger of the two counts; 1 is strict, 2 loose.
            let (all, own) = (Key::new(V4, "all", "rp_filter").get()?, self.original(&key)?);
            if all.max(own) == "1" {
                want(key, "2")?;
            }
        }
        let exempt = |v4| plan.exempt.iter().any(|net| net.addr().is_ipv4() == v4);
        if plan.pools.iter().any(AddressRange::is_v4) || exempt(true) {
            for name in insides.iter().copied().chain(&plan.outsides).filter(present) {
                want(Key::new(V4, name, "forwarding"), YES)?;
            }
        }
        if host.has_ipv6 && (plan.pools.iter().any(|pool| !pool.is_v4()) || exempt(false)) {
            self.want_ipv6(plan, host, &mut wants)?;
        }
        Ok(wants)
    }

    /// IPv6 forwards only if `all` says so, and saying it there changes every interface and ends router
    /// advertisements on those that listened to them: accept_ra = 2 keeps them listening.
    fn want_ipv6(&self, plan: &Plan, host: &Host, wants: &mut Vec<Record>) -> Result<(), KernelError> {
        let all = Key::new(V6, "all", "forwarding");
        let noted = |key: &Key| self.changes.iter().any(|record| record.key == *key);
        // Once `all` is ours, an interface forwards because of it, unless it is noted that it did before.
        let already = noted(&all);
        let switched = self.original(&all)? == "0";
        let forwarded = |key: &Key| if already { noted(key) } else { key.read().is_ok_and(|value| value != "0") };
        let is_inside = |name: &String| plan.insides.iter().any(|inside| inside.interfaces.contains(name));
        let mut held = vec![Key::new(V6, "default", "forwarding")];
        for (name, _) in host.links.iter().filter(|(name, _)| !super::tables::is_device_of(name, &plan.tun)) {
            let (ra, forwarding) = (Key::new(V6, name, "accept_ra"), Key::new(V6, name, "forwarding"));
            if ra.read().is_err() {
                // No IPv6 on that interface: its MTU is too small, or it has just gone.
                continue;
            }
            let forwards = forwarded(&forwarding);
            // Of interfaces that come later only ours matter.
            let concerned = !already || noted(&ra) || plan.outsides.contains(name);
            if concerned && name != "lo" && !is_inside(name) && !forwards && self.original(&ra)? == "1" {
                wants.push(Record { key: ra, old: "1".into(), new: "2".into(), held: false });
            }
            if !switched && (is_inside(name) || plan.outsides.contains(name)) {
                wants.push(Record { old: self.original(&forwarding)?, new: YES.into(), held: false, key: forwarding });
            } else if switched {
                held.push(forwarding);
            }
        }
        if switched {
            held.retain(|key| forwarded(key));
            wants.extend(held.into_iter().map(|key| Record { key, old: "1".into(), new: "1".into(), held: true }));
            wants.push(Record { key: all, old: "0".into(), new: YES.into(), held: false });
        }
        Ok(())
    }
}

/// What the gateway's own devices need, in the order in which it is made.
fn device_settings(plan: &Plan, host: &Host) -> Result<Vec<(Key, &'static str)>, KernelError> {
    // The kernel takes the larger of "all" and the device's: 2 (loose) beats a strict 1.
    let loose = if is_strict()? { "2" } else { "0" };
    let has_v6 = plan.pools.iter().any(|pool| !pool.is_v4());
    let mut all = Vec::new();
    for device in plan.devices() {
        // The host's own ICMP errors come back from the translator with the host's address as source.
        for (name, value) in [("forwarding", YES), ("rp_filter", loose), ("accept_local", "1"), ("send_redirects", "0")]
        {
            all.push((Key::new(V4, device, name), value));
        }
        if host.has_ipv6 {
            all.extend([(Key::new(V6, device, "addr_gen_mode"), "1"), (Key::new(V6, device, "accept_ra"), "0")]);
            if has_v6 {
                all.push((Key::new(V6, device, "disable_ipv6"), "0"));
            }
        }
    }
    Ok(all)
}

/// Whether the machine drops what did not come the way that leads back to its source.
fn is_strict() -> Result<bool, KernelError> {
    Ok(Key::new(V4, "all", "rp_filter").get()? != "0")
}

/// What it takes to answer for virtual IPs on an outside LAN, beside an entry for each ([`super::Neighbours`]).
fn lan_settings(plan: &Plan, host: &Host) -> Vec<(Key, &'static str)> {
    let mut all = Vec::new();
    for lan in &host.lans {
        let is_pooled =
            |v4| plan.pools.iter().any(|pool| pool.is_v4() == v4 && pool.overlaps(&AddressRange::from(lan.network)));
        // Answers for others wait up to 0.8 s by default; a callback should not.
        if is_pooled(true) {
            all.push((Key::new("net/ipv4/neigh", &lan.interface, "proxy_delay"), "0"));
        }
        if is_pooled(false) {
            all.push((Key::new("net/ipv6/neigh", &lan.interface, "proxy_delay"), "0"));
            all.push((Key::new(V6, &lan.interface, "proxy_ndp"), YES));
            // Who asks a virtual IP directly is heard only by this one (ip6_forward, net/ipv6/ip6_output.c). It opens
            // nothing on other interfaces, which have no entries.
            all.push((Key::new(V6, "all", "proxy_ndp"), YES));
        }
    }
    all
}

/// Puts values back, the last first. Goes on after a failure and returns the first one.
pub(super) fn restore(records: Vec<Record>) -> Result<(), KernelError> {
    let mut first = Ok(());
    for record in records.into_iter().rev() {
        // Gone with its interface, or changed by another program since: not ours any more.
        let Ok(now) = record.key.read() else { continue };
        if record.held || now == record.new {
            first = first.and(record.key.set(&record.old));
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_only_settings_the_gateway_touches() {
        for good in ["net/ipv4/conf/eth0.5/forwarding", "net/ipv6/neigh/go/proxy_delay", "net/ipv6/conf/all/forwarding"]
        {
            assert_eq!(good.parse::<Key>().map(|key| key.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "/",
            "net/ipv4/conf",
            "net/ipv4/conf/",
            "net/ipv4/conf/../forwarding",
            "net/ipv4/conf//forwarding",
            "net/ipv4/conf/a/b/forwarding",
            "kernel/core_pattern",
            "net/ipv4/conf/go/../../../../kernel/core_pattern",
            "net/ipv4/conf/go/arp_ignore",
            "net/ipv4/conf/a-name-that-is-too-long/forwarding",
        ] {
            assert_eq!(bad.parse::<Key>(), Err(()), "{bad}");
        }
    }
}
