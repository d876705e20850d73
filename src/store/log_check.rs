//! The write-ahead log as bytes: whether all of it can be read.
//!
//! SQLite takes the log up to the first frame whose sum is wrong for its end, and says nothing. That is right for the
//! last commit, which may have been cut off; but where a whole commit of the same log stands behind such a frame, that
//! one was written in full once, and is lost. (Format: sqlite.org/fileformat2.html, section 4. A damaged last commit looks
//! like one that was cut off.)

use super::files::beside;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The lowest bit says in which order the bytes of words are for the sums.
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

/// Why the end of a log cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Torn {
    /// Its header is not what was written.
    Header,
    /// There are at least so many whole commits behind a frame that is not what was written.
    Commits(u64),
}

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => write!(f, "its log cannot be read, and what was only there is lost"),
            Self::Commits(count) => write!(f, "at least {count} commits of its log cannot be read and are lost"),
        }?;
        write!(f, "; a power cut explains those of the last sync interval, not more")
    }
}

/// The sum of SQLite's log: of each frame, and of all before it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sum(u32, u32);

struct Header {
    big_endian: bool,
    page: usize,
    salts: [u8; 8],
    sum: Sum,
}

/// What is wrong with the log of the state file at `path`. Nobody may be writing it.
pub fn torn(path: &Path) -> io::Result<Option<Torn>> {
    let file = match File::open(beside(path, "-wal")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let length = file.metadata()?.len();
    let mut log = BufReader::with_capacity(1 << 20, file);
    let mut bytes = [0; HEADER];
    if !fill(&mut log, &mut bytes)? {
        return Ok(None);
    }
    let Some(header) = Header::read(&bytes) else {
        return Ok((length > HEADER as u64).then_some(Torn::Header));
    };
    let (mut before, mut is_readable, mut lost) = (header.sum, true, 0);
    let mut frame = vec![0; FRAME_HEADER + header.page];
    while fill(&mut log, &mut frame)? {
        let (about, page) = frame.split_at(FRAME_HEADER);
        let sum = Sum(word(about, 16), word(about, 20));
        let is_whole =
            about.get(8..16) == Some(&header.salts) && header.add(header.add(before, &about[..8]), page) == sum;
        is_readable &= is_whole;
        let is_commit = word(about, 4) != 0;
        lost += u64::from(!is_readable && is_whole && is_commit);
        before = sum;
    }
    Ok((lost > 0).then_some(Torn::Commits(lost)))
}

impl Header {
    fn read(bytes: &[u8; HEADER]) -> Option<Self> {
        let (magic, page) = (word(bytes, 0), usize::try_from(word(bytes, 8)).ok()?);
        let header = Self {
            big_endian: magic & 1 == 1,
            page,
            salts: bytes.get(16..24)?.try_into().ok()?,
            sum: Sum(word(bytes, 24), word(bytes, 28)),
        };
        let is_true = magic & !1 == MAGIC
            && word(bytes, 4) == VERSION
            && page.is_power_of_two()
            && (512..=65_536).contains(&page)
            && header.add(Sum(0, 0), &bytes[..24]) == header.sum;
        is_true.then_some(header)
    }

    fn add(&self, sum: Sum, bytes: &[u8]) -> Sum {
        let read = if self.big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
        let (words, _) = bytes.as_chunks::<4>();
        words.as_chunks::<2>().0.iter().fold(sum, |Sum(a, b), [first, second]| {
            let a = a.wrapping_add(read(*first)).wrapping_add(b);
            Sum(a, b.wrapping_add(read(*second)).wrapping_add(a))
        })
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// Whether there was as much to read.
fn fill(log: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match log.read_exact(bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}
