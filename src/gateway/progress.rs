//! How far a start with many bindings has come, in the log.

use crate::store::Progress;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// When the first line is due, and each next one: sooner where a terminal shows it.
const SOON: Duration = Duration::from_secs(2);
const SELDOM: Duration = Duration::from_secs(10);

/// Says it until it is dropped.
pub struct Logged(#[expect(dead_code, reason = "its end is what is heard")] Sender<()>);

impl Logged {
    /// To be called before something that may take long.
    pub fn start(progress: &Progress) -> Self {
        let (end, ended) = crossbeam_channel::bounded(0);
        let progress = progress.clone();
        let pause = if std::io::stderr().is_terminal() { SOON } else { SELDOM };
        // Without the thread nothing is said; the start goes on.
        let _ = std::thread::Builder::new().name("progress".to_owned()).spawn(move || say(&progress, &ended, pause));
        Self(end)
    }
}

fn say(progress: &Progress, ended: &Receiver<()>, pause: Duration) {
    let (mut since, mut stage, mut wait) = (Instant::now(), progress.stage(), SOON);
    while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        if progress.stage() != stage {
            (since, stage) = (Instant::now(), progress.stage());
        }
        log::info!("{}", progress.line(since.elapsed()));
        wait = pause;
    }
}
