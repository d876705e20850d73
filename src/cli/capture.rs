//! `kamei capture`.

use super::error::CliError;
use super::socket::Socket;
use super::trace::{Which, begun, ended, has_fast_path, stopped_by_signal};
use crate::control::{Client, ClientError};
use clap::Args;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Block type of a packet, and of the count of those left out.
const ENHANCED_PACKET: u32 = 6;
const INTERFACE_STATISTICS: u32 = 5;

/// Both sides of each translation, as interfaces of one pcapng file: the packet as it came, with a comment on what
/// became of it, and as it went on.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    socket: Socket,
    #[command(flatten)]
    which: Which,
    /// File to write; - is standard output
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    file: PathBuf,
    /// Bytes of each packet [default: 2048, which cuts super-packets only]
    #[arg(long, value_name = "BYTES")]
    snap: Option<usize>,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let watch = arguments.which.watch(arguments.snap);
    let stop = stopped_by_signal()?;
    // Only once the gateway has answered: an old capture is not lost to a mistake.
    let mut out: Option<Box<dyn Write>> = None;
    let mut blocks = Blocks::default();
    let client = Client::new(&arguments.socket.control);
    let fast = has_fast_path(&client)?;
    client.capture(&watch, &stop, &mut || begun(&watch, fast), &mut |piece| {
        let whole = blocks.take(piece);
        let out = match &mut out {
            Some(out) => out,
            none => none.insert(open(&arguments.file).map_err(ClientError::Output)?),
        };
        out.write_all(&whole).and_then(|()| out.flush()).map_err(ClientError::Output)
    })?;
    ended(&stop, watch.count, blocks.packets, blocks.left_out);
    Ok(())
}

/// For root alone: hidden addresses are in it.
fn open(path: &Path) -> io::Result<Box<dyn Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let file = file.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    Ok(Box::new(file))
}

/// Puts pieces together to whole blocks, so that a capture that is ended can be read.
#[derive(Default)]
struct Blocks {
    unfinished: Vec<u8>,
    /// Packets that came, each with what went on.
    packets: u64,
    left_out: u64,
}

impl Blocks {
    fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        self.unfinished.extend_from_slice(piece);
        let mut end = 0;
        while let Some(block) = first_block(self.unfinished.get(end..).unwrap_or_default()) {
            end += block.len();
            match block.first_chunk().map(|kind| u32::from_ne_bytes(*kind)) {
                Some(ENHANCED_PACKET) if is_inbound(block) => self.packets += 1,
                Some(INTERFACE_STATISTICS) => {
                    // Behind kind, length, interface, time (8), code and length of the one option.
                    let count = block.get(24..).and_then(|rest| rest.first_chunk());
                    self.left_out = count.map_or(self.left_out, |count| u64::from_ne_bytes(*count));
                }
                _ => {}
            }
        }
        self.unfinished.drain(..end).collect()
    }
}

fn first_block(bytes: &[u8]) -> Option<&[u8]> {
    let length = bytes.get(4..)?.first_chunk().map(|length| u32::from_ne_bytes(*length))?;
    bytes.get(..usize::try_from(length).ok()?.max(12))
}

/// The option with the direction is the last but the end mark.
fn is_inbound(block: &[u8]) -> bool {
    let at = block.len().checked_sub(12);
    at.and_then(|at| block.get(at..)?.first_chunk()).map(|flags| u32::from_ne_bytes(*flags)) == Some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 12).unwrap().to_ne_bytes();
        [&kind.to_ne_bytes()[..], &length, body, &length].concat()
    }

    #[test]
    fn only_whole_blocks_are_written_and_packets_counted_once() {
        let inbound = [&[0; 20][..], &[2, 0, 4, 0, 1, 0, 0, 0], &[0; 4]].concat();
        let outbound = [&[0; 20][..], &[2, 0, 4, 0, 2, 0, 0, 0], &[0; 4]].concat();
        let dropped = [&[0; 12][..], &[5, 0, 8, 0], &77_u64.to_ne_bytes(), &[0; 4]].concat();
        let all = [block(6, &inbound), block(6, &outbound), block(5, &dropped)].concat();
        let mut blocks = Blocks::default();
        let written: Vec<u8> = all.chunks(7).flat_map(|piece| blocks.take(piece)).collect();
        assert_eq!((written, blocks.packets, blocks.left_out), (all, 1, 77));
        assert!(blocks.take(&[1, 2, 3, 4, 0]).is_empty());
    }
}
