//! What the control interface asks of a running gateway.

use super::clock::Clock;
use super::event_log::EventLog;
use super::fast;
use super::live::{Live, ReloadRequest};
use super::workers::{Load, Workers};
use crate::config::{Config, FastPathMode};
use crate::control::{
    Admin, CarriedFlow, Change, ChangeError, DeviceStatus, GatewayStatus, OccupiedStatus, RealmStatus, Reloaded, Taps,
};
use crate::fastpath::FastPath;
use crate::host::net_dev::{Counter, counted};
use crate::host::{Neighbours, OccupiedAddress};
use crate::nat::{BindingView, Event, EventKind, Nat};
use crate::store::history::{By, Happened, HistoryAnswer, HistoryQuestion};
use crate::store::{Moment, Store};
use crate::time::Time;
use crossbeam_channel::Sender;
use parking_lot::{Mutex, RwLockReadGuard};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Answers for the gateway, and changes bindings by hand.
pub struct GatewayAdmin {
    pub live: Live,
    pub requests: Sender<ReloadRequest>,
    pub clock: Clock,
    pub log: Arc<Mutex<EventLog>>,
    pub store: Arc<Store>,
    pub fast: Arc<FastPath>,
    pub outsides: Vec<String>,
    /// What the outside interfaces had dropped before this process came.
    pub dropped_before: u64,
    pub fast_path: FastPathMode,
    pub workers: Arc<Workers>,
    pub fixed: GatewayStatus,
    pub devices: Vec<String>,
    pub events: Sender<Event>,
    pub neighbours: Neighbours,
}

impl Admin for GatewayAdmin {
    fn nat(&self) -> RwLockReadGuard<'_, Arc<Nat>> {
        self.live.read()
    }

    fn now(&self) -> Time {
        self.clock.now()
    }

    fn moment(&self) -> Moment {
        self.clock.moment()
    }

    fn sync_counts(&self) {
        self.workers.sync_counts();
        fast::sync_counts(&self.fast, self.taps(), &self.nat(), self.clock.now());
    }

    fn for_each_flow(&self, each: &mut dyn FnMut(CarriedFlow)) {
        self.fast.for_each_flow(&mut |flow| each(fast::carried(&flow)));
    }

    fn taps(&self) -> &Arc<Taps> {
        &self.workers.taps
    }

    fn change(&self, change: &Change, user: u32) -> Result<Vec<BindingView>, ChangeError> {
        let now = self.clock.now();
        let (bindings, events, done) = match change {
            Change::Pin { terminal, virtual_ip, force } => {
                let (binding, events) = self.nat().pin_named(terminal, *virtual_ip, *force, now)?;
                (vec![binding], events, Happened::Pinned)
            }
            Change::Release(which) => {
                let (bindings, events) = self.nat().release_named(which, now)?;
                (bindings, events, Happened::Released)
            }
            Change::SetCallback { which, policy } => {
                (self.nat().set_callback(which, policy.as_ref(), now)?, Vec::new(), Happened::Callback)
            }
        };
        let mut virtual_ips: Vec<IpAddr> = events.iter().map(|event| event.virtual_ip.into()).collect();
        if done == Happened::Callback {
            virtual_ips.extend(bindings.iter().map(|binding| binding.virtual_ip));
        }
        events.into_iter().for_each(|event| self.changed(event));
        self.record(&virtual_ips, done, user).map_err(ChangeError::NotRecorded)?;
        Ok(bindings)
    }

    fn changed(&self, event: Event) {
        match event.kind {
            EventKind::Pinned => self.neighbours.give(event.virtual_ip.into()),
            EventKind::Released => self.neighbours.withdraw(event.virtual_ip.into()),
            _ => {}
        }
        self.log.lock().write(&self.nat(), event, self.clock.now());
    }

    fn record(&self, virtual_ips: &[IpAddr], done: Happened, user: u32) -> Result<(), String> {
        self.store.record_and_sync(virtual_ips, done, By::Operator(user))
    }

    fn history(&self, question: &HistoryQuestion) -> Result<HistoryAnswer, String> {
        self.store.history(question)
    }

    fn reload(&self, dry_run: bool) -> Result<Reloaded, String> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        let gone = || "the gateway is stopping".to_owned();
        self.requests.send(ReloadRequest { dry_run, reply: Some(reply) }).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }

    fn status(&self) -> GatewayStatus {
        let mut fast_path = fast::status(&self.fast, self.fast_path);
        let dropped = dropped_on_arrival(&self.outsides).saturating_sub(self.dropped_before);
        fast_path.noted.insert("backlog_full".to_owned(), dropped);
        GatewayStatus {
            uptime_seconds: self.clock.uptime().as_secs(),
            by_worker: self.workers.loads.iter().map(Load::view).collect(),
            devices: queue_full(&self.devices),
            events_waiting: self.events.len(),
            state_file: self.store.status(),
            history: self.store.history_status(),
            super_packets: self.workers.super_packets.load(Ordering::Relaxed),
            fast_path,
            occupied: self.neighbours.occupied().into_iter().map(status_of).collect(),
            claims_passed_over: self.neighbours.passed_over(),
            write_errors: self.workers.write_errors.load(Ordering::Relaxed),
            ..self.fixed.clone()
        }
    }
}

fn status_of(OccupiedAddress { address, hardware, interface }: OccupiedAddress) -> OccupiedStatus {
    OccupiedStatus { address, hardware, interface }
}

/// What does not change while the gateway runs.
pub fn fixed(config: &Config, workers: usize, offload: String) -> GatewayStatus {
    GatewayStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: 0,
        ready: true,
        tun: config.tun.clone(),
        insides: config.insides.iter().flat_map(|inside| inside.interfaces.iter().cloned()).collect(),
        realms: config
            .insides
            .iter()
            .map(|inside| RealmStatus { name: inside.name.clone(), interfaces: inside.interfaces.clone() })
            .collect(),
        outsides: config.outsides.clone(),
        workers,
        offload,
        ..GatewayStatus::default()
    }
}

/// What the kernel could not put into the queues of these devices: it counts that as dropped while sending.
fn queue_full(devices: &[String]) -> Vec<DeviceStatus> {
    let dropped = counted(devices, Counter::DroppedLeaving);
    devices.iter().zip(dropped).map(|(name, queue_full)| DeviceStatus { name: name.clone(), queue_full }).collect()
}

/// What these interfaces have dropped as it arrived.
pub fn dropped_on_arrival(interfaces: &[String]) -> u64 {
    counted(interfaces, Counter::DroppedArriving).into_iter().sum()
}
