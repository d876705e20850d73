//! Frames without sockets: `BPF_PROG_TEST_RUN` with live frames puts them into an interface's receive path.

use crate::Ends;
use crate::bpf;
use etherparse::PacketBuilder;
use std::error::Error;
use std::time::Instant;

/// Ethernet, IPv4 and UDP.
const HEADERS: usize = 14 + 20 + 8;
/// The smallest frame, without its check sequence.
const FRAME: usize = 60;
/// The discard service: nobody listens there.
const PORT: u16 = 9;
/// Where a frame has the destination port.
const PORT_AT: i16 = 14 + 20 + 2;
/// Frames a system call.
const CALL: u32 = 1 << 13;

#[derive(clap::Args)]
pub struct Inject {
    /// The interface
    interface: String,
    /// For so many seconds
    seconds: f64,
    #[command(flatten)]
    ends: Ends,
    /// Hand them to the XDP program of this number, as the interface's driver would
    #[arg(long)]
    program: Option<u32>,
}

impl Inject {
    pub fn run(&self) -> Result<(), Box<dyn Error>> {
        let ends = &self.ends;
        let builder = PacketBuilder::ethernet2(ends.from_mac, ends.to_mac)
            .ipv4(ends.from.octets(), ends.to.octets(), 64)
            .udp(40_000, PORT);
        let mut frame = Vec::with_capacity(FRAME);
        builder.write(&mut frame, &[0; FRAME - HEADERS])?;
        // Frames are used again, with what the gateway made of them: the program writes all headers anew each time.
        let header = frame.get(..HEADERS).unwrap_or_default();
        let program = bpf::overwrite(header, self.program)?;
        let interface = index(&self.interface)?;
        let start = Instant::now();
        let mut sent = 0;
        while start.elapsed().as_secs_f64() < self.seconds {
            program.inject(&frame, interface, CALL)?;
            sent += u64::from(CALL);
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("{}", serde_json::json!({ "sent": sent, "seconds": seconds, "busy": busy()? }));
        Ok(())
    }
}

/// Drops injected frames as soon as they come in by `interface`.
pub fn drop_at(interface: &str) -> Result<(), Box<dyn Error>> {
    let _link = bpf::drop_where(PORT_AT, PORT)?.attach(index(interface)?)?;
    loop {
        std::thread::park();
    }
}

/// Processor seconds of this program, with what the kernel did for it.
fn busy() -> Result<f64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse::<f64>()? / 1e9)
}

fn index(interface: &str) -> Result<u32, Box<dyn Error>> {
    // Of the network namespace this runs in, while /sys may show another.
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    Ok(rustix::net::netdevice::name_to_index(socket, interface)?)
}
