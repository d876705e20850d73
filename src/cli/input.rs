//! Files that an operator names: regular ones, a pipe (`<(…)`, `/dev/stdin`), and whatever else, but none that never begins or
//! never ends.

use super::error::CliError;
use crate::config::Draft;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// The largest text: a configuration with thousands of pools and reservations has some hundred kilobytes.
const MOST: u64 = 4 << 20;
/// Time for a pipe to have something.
const PIPE_TIME: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Opens a file to read it.
///
/// # Errors
/// What the system says, or that nobody writes into a pipe.
pub fn open(path: &Path) -> io::Result<File> {
    // A pipe that nobody writes into would hold the call for ever.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(rustix::io::Errno::ISDIR.into());
    }
    if kind.is_fifo() && poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&PIPE_TIME))? == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody has written into this pipe for 10 seconds"));
    }
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    Ok(file)
}

/// All of a text.
///
/// # Errors
/// What the system says, that it is too long, or no text.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than 4 MiB: that is no configuration"));
    }
    decode(bytes).map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))
}

/// The first line of a file, or of standard input for `-`: a secret that no list of processes shall show.
pub fn first_line(path: &Path) -> Result<String, CliError> {
    let read = if path == Path::new("-") {
        io::stdin().lines().next().unwrap_or_else(|| Ok(String::new()))
    } else {
        read_text(path).map(|text| text.lines().next().unwrap_or_default().to_owned())
    };
    read.map_err(|error| CliError::File { path: path.to_owned(), error })
}

/// Reads a configuration file.
pub fn read_config(path: &Path) -> Result<Draft, CliError> {
    let text = read_text(path).map_err(|error| CliError::File { path: path.to_owned(), error })?;
    Draft::parse(&text).map_err(|problems| CliError::Config { file: Some(path.to_owned()), problems })
}

/// UTF-8, with or without a byte order mark.
fn decode(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("it is in UTF-16; save it as UTF-8".to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let (before, after) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let byte = after.first().copied().unwrap_or_default();
        format!("line {line} has the byte {byte:#04x}, which is no UTF-8; save it as UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Text from elsewhere, of which a terminal shows every character and obeys none.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\t' | '\n' => plain.push(letter),
            // Directions of writing, too: they show a line as what it is not.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                plain.extend(letter.escape_unicode())
            }
            _ if letter.is_control() => plain.extend(letter.escape_default()),
            _ => plain.push(letter),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn files_that_never_begin_or_never_end_are_one_line() {
        let scratch = tempfile::tempdir().unwrap();
        let error = |path: &Path| read_text(path).unwrap_err().to_string();
        assert!(error(Path::new("/dev/zero")).contains("4 MiB"));
        assert!(error(scratch.path()).contains("directory"), "{}", error(scratch.path()));
        let pipe = scratch.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(error(&pipe).contains("nobody has written"));
        // As `<(…)` makes it.
        let (reader, mut writer) = io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let writing = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            writer.write_all(b"late")
        });
        assert_eq!(read_text(Path::new(&path)).unwrap(), "late");
        writing.join().unwrap().unwrap();
    }

    #[test]
    fn texts_are_utf_8() {
        assert_eq!(decode(b"\xef\xbb\xbfinside = 1".to_vec()).unwrap(), "inside = 1");
        assert!(decode(b"\xff\xfei\0".to_vec()).unwrap_err().contains("UTF-16"));
        assert!(decode(b"ok\n# M\xfcnchen".to_vec()).unwrap_err().contains("line 2 has the byte 0xfc"));
    }

    #[test]
    fn a_terminal_obeys_nothing() {
        assert_eq!(plain("a\u{1b}[31mb\rc\u{9b}2J\u{202e}\td\n"), "a\\u{1b}[31mb\\rc\\u{9b}2J\\u{202e}\td\n");
        assert_eq!(plain("Größe 10 → 5"), "Größe 10 → 5");
    }
}
