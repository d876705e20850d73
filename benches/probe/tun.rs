//! The least that any gateway on TUN does: kamei's device, read and written, and nothing between.

use kamei::config::Offload;
use kamei::device::tap::{self, Buffer};
use rustix::event::{PollFd, PollFlags, poll};
use std::error::Error;

/// Writes back every frame to the queue it was read from; there tc takes it on.
pub fn carry(device: &str) -> Result<(), Box<dyn Error>> {
    let (devices, _) = tap::create(&[device.to_owned()], 1, Offload::Auto)?;
    let queue = devices.into_iter().flatten().next().ok_or("no queue")?;
    let mut buffer = Buffer::new();
    loop {
        poll(&mut [PollFd::new(&queue, PollFlags::IN)], None)?;
        while queue.receive(&mut buffer)? {
            let _ = queue.send(buffer.as_read()); // what the kernel refuses is lost, as in kamei
        }
    }
}
