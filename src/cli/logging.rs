//! How the log is written: as text, as JSON (one object a line), or to journald with fields of its own.

use crate::config::LogFormat;
use env_logger::{Builder, Target};
use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Record};
use serde_json::{Map, Value as Json};
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;

/// Where journald listens (systemd.io/JOURNAL_NATIVE_PROTOCOL).
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Starts the log. From here on everybody may write to it.
///
/// # Errors
/// journald does not listen.
pub fn start(level: LevelFilter, format: LogFormat) -> io::Result<()> {
    let mut builder = Builder::new();
    builder.filter_level(level).parse_default_env().format_timestamp_millis();
    match format {
        LogFormat::Text => {
            builder.format(|out, record| {
                let style = out.default_level_style(record.level());
                let (time, level) = (out.timestamp_millis(), record.level());
                let message = super::input::plain(&record.args().to_string());
                writeln!(out, "[{time} {style}{level:<5}{style:#} {}] {message}", record.target())
            });
        }
        LogFormat::Json => {
            builder.format(|out, record| writeln!(out, "{}", Json::Object(object(record))));
        }
        LogFormat::Journald => {
            let journal = Journal::open(JOURNAL)?;
            builder.format(|out, record| out.write_all(&entry(record))).target(Target::Pipe(Box::new(journal)));
        }
    }
    builder.init();
    Ok(())
}

/// A record as JSON: time, level, target, message, and the fields it has.
fn object(record: &Record<'_>) -> Map<String, Json> {
    let mut object = Map::new();
    object.insert("time".to_owned(), jiff::Timestamp::now().strftime("%FT%T.%3fZ").to_string().into());
    object.insert("level".to_owned(), record.level().as_str().to_ascii_lowercase().into());
    object.insert("target".to_owned(), record.target().into());
    object.insert("message".to_owned(), record.args().to_string().into());
    object.extend(fields(record));
    object
}

/// A record as journald takes it: a line a field, `KAMEI_` before those that are ours.
fn entry(record: &Record<'_>) -> Vec<u8> {
    let mut entry = Vec::new();
    // As syslog numbers them (RFC 5424 §6.2.1).
    let priority = match record.level() {
        Level::Error => "3",
        Level::Warn => "4",
        Level::Info => "6",
        Level::Debug | Level::Trace => "7",
    };
    field(&mut entry, "PRIORITY", priority);
    field(&mut entry, "SYSLOG_IDENTIFIER", "kamei");
    field(&mut entry, "MESSAGE", &record.args().to_string());
    for (key, value) in fields(record) {
        field(&mut entry, &format!("KAMEI_{}", key.to_ascii_uppercase()), value.as_str().unwrap_or_default());
    }
    entry
}

fn field(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// The fields of a record that say anything.
fn fields(record: &Record<'_>) -> Map<String, Json> {
    struct Fields(Map<String, Json>);
    impl<'kvs> VisitSource<'kvs> for Fields {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
            let text = value.to_string();
            if !text.is_empty() {
                self.0.insert(key.as_str().to_owned(), text.into());
            }
            Ok(())
        }
    }
    let mut fields = Fields(Map::new());
    // The visitor refuses nothing.
    let _ = record.key_values().visit(&mut fields);
    fields.0
}

/// One datagram a record.
struct Journal(UnixDatagram);

impl Journal {
    fn open(path: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
        // A journal that is stuck must not hold anybody up.
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }
}

impl Write for Journal {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        self.0.send(entry)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_record<T>(message: &str, use_it: impl FnOnce(&Record<'_>) -> T) -> T {
        let fields = [("terminal", "10.0.0.1"), ("pool", "two\nlines")];
        use_it(
            &Record::builder()
                .level(Level::Warn)
                .target("kamei::gateway")
                .args(format_args!("{message}"))
                .key_values(&fields)
                .build(),
        )
    }

    #[test]
    fn json_has_a_line_for_each_record_whatever_is_in_it() {
        let text = with_record("a \"message\"\nof two lines", |record| Json::Object(object(record)).to_string());
        assert_eq!(text.lines().count(), 1);
        let read: Json = serde_json::from_str(&text).unwrap();
        assert_eq!((&read["level"], &read["terminal"]), (&"warn".into(), &"10.0.0.1".into()));
        assert_eq!((&read["message"], &read["pool"]), (&"a \"message\"\nof two lines".into(), &"two\nlines".into()));
        assert!(read["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn journald_gets_one_datagram_with_fields_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        assert!(Journal::open(path.to_str().unwrap()).is_err_and(|error| error.to_string().contains("socket")));
        let journald = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::open(path.to_str().unwrap()).unwrap();
        with_record("made", |record| journal.write_all(&entry(record))).unwrap();
        let mut read = [0; 1024];
        let length = journald.recv(&mut read).unwrap();
        let expected = b"PRIORITY=4\nSYSLOG_IDENTIFIER=kamei\nMESSAGE=made\nKAMEI_POOL\n\x09\0\0\0\0\0\0\0two\nlines\nKAMEI_TERMINAL=10.0.0.1\n";
        assert_eq!(String::from_utf8_lossy(&read[..length]), String::from_utf8_lossy(expected));
    }
}
