//! How far something has come that takes long, on the terminal of the operator who waits; in pipes and logs there is
//! nothing of it.

use crate::store::Progress;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What takes less is not worth a line.
const SOON: Duration = Duration::from_secs(2);
const EVERY: Duration = Duration::from_millis(100);

/// Shows it until it is dropped.
pub struct Display {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Display {
    /// Shows nothing unless standard error is a terminal.
    pub fn start(progress: &Progress) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, progress) = (Arc::clone(&stop), progress.clone());
        let thread = std::io::stderr().is_terminal().then(|| std::thread::spawn(move || show(&progress, &stopped)));
        Self { stop, thread }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn show(progress: &Progress, stop: &AtomicBool) {
    let begin = Instant::now();
    let (mut since, mut stage, mut shown) = (begin, progress.stage(), false);
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(EVERY);
        if progress.stage() != stage {
            (since, stage) = (Instant::now(), progress.stage());
        }
        if begin.elapsed() >= SOON {
            // The rest of a longer line before it is cleared (ECMA-48, EL).
            let _ = write!(std::io::stderr(), "\r{}\x1b[K", progress.line(since.elapsed()));
            shown = true;
        }
    }
    if shown {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}
