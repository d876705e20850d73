//! `kamei gateway`.

use super::error::CliError;
use super::flags::{given, levels, no_file, path};
use super::{input, logging};
use crate::config::{Draft, FastPathMode, InsideDraft, LogFormat, LogTerminals, OnStop, PoolDraft};
use clap::Args;
use log::LevelFilter;
use std::path::{Path, PathBuf};

/// A flag overrides what the file says; a flag that can be repeated replaces the whole list.
#[derive(Args)]
pub struct Arguments {
    /// Interface behind which the hidden hosts are; repeatable. NAME=IF,IF… makes an inside of its own, which may have
    /// the same addresses as others
    #[arg(long, value_name = "[NAME=]IF")]
    inside: Vec<String>,
    /// Interface towards everybody else; repeatable
    #[arg(long, value_name = "IF")]
    outside: Vec<String>,
    /// Virtual IPs to give: a prefix (198.18.0.0/16), a range (198.18.0.10-198.18.0.50) or an address; repeatable
    #[arg(long, value_name = "PREFIX|RANGE")]
    pool: Vec<String>,
    /// Destinations that terminals reach under their own addresses, untranslated, and that may call them there; repeatable
    #[arg(long, value_name = "PREFIX,…", value_delimiter = ',')]
    exempt: Vec<String>,
    /// Who may call a virtual IP: `contacted` (only peers that its terminal has called), `answered`
    /// (only those of them that have answered it), `anyone`, or prefixes that may
    /// besides those
    #[arg(long, value_name = "contacted|answered|anyone|CIDR,…", value_delimiter = ',')]
    callback: Vec<String>,
    /// Look into the text of this application, which carries addresses: `ftp`, or with a port `ftp:2121`; repeatable
    #[arg(long, value_name = "ftp[:PORT],…", value_delimiter = ',')]
    alg: Vec<String>,
    /// Control socket [default: /run/kamei/gateway.sock]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Tell metrics on this loopback address too, as well as on the control socket [default: not]
    #[arg(long, value_name = "127.0.0.1:PORT")]
    metrics: Option<String>,
    /// Directory for what must outlive the process [default: /var/lib/kamei]
    #[arg(long, value_name = "PATH")]
    state_dir: Option<PathBuf>,
    /// Worker threads [default: one a core]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    workers: Option<i64>,
    /// Base name of the devices, at most 10 characters: NAME-nat [default: kamei]
    #[arg(long, value_name = "NAME")]
    tun: Option<String>,
    /// What to do with routes and rules at the end: undo them, or leave them for the next gateway, with inside packets
    /// blocked until it comes [default: undo]
    #[arg(long, value_parser = ["undo", "leave"])]
    on_stop: Option<String>,
    /// Where packets of known flows are translated: `tc`, in the kernel; `off`, in user space; `auto`, in the kernel if it
    /// can; `redirect`, in the kernel, and sent out at once even past this machine's firewall and IPsec; `xdp`, the same in
    /// the drivers of network cards
    #[arg(long, value_name = "auto|tc|redirect|xdp|off")]
    fast_path: Option<FastPathMode>,
    /// Configuration file (TOML); `kamei check FILE` checks one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How to log: `text`, `json` (an object a line) or `journald` (with fields) [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// What the log calls terminals: `plain` (their addresses), `hash` or `none` [default: plain]
    #[arg(long, value_name = "plain|hash|none")]
    log_terminals: Option<LogTerminals>,
    /// What to log; RUST_LOG can say it in more detail
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = levels())]
    log_level: LevelFilter,
}

/// Runs the gateway.
pub fn run(arguments: Arguments) -> Result<(), CliError> {
    let level = arguments.log_level;
    let file = arguments.config.clone();
    let flags = arguments.into_draft()?;
    let draft = whole(file.as_deref(), flags.clone()).map_err(|error| match error {
        CliError::Config { file, problems } => CliError::Start { file, problems },
        other => other,
    })?;
    let config = draft.check().map_err(|problems| CliError::Start { file: file.clone(), problems })?;
    let place = file.clone();
    let anew = move || {
        let draft = whole(file.as_deref(), flags.clone())?;
        draft.check().map_err(|problems| CliError::Config { file: file.clone(), problems })
    };
    logging::start(level, config.log_format).map_err(CliError::Log)?;
    let is_of_flags = place.is_none();
    let source = Box::new(move || match is_of_flags {
        true => Err(no_file("gateway")),
        false => anew().map_err(|error| error.to_string()),
    });
    Ok(crate::gateway::run(config, source, place.as_deref())?)
}

/// What the file says, if there is one, and the flags.
fn whole(file: Option<&Path>, flags: Draft) -> Result<Draft, CliError> {
    Ok(match file {
        Some(path) => input::read_config(path)?.overridden_by(flags),
        None => flags,
    })
}

impl Arguments {
    fn into_draft(self) -> Result<Draft, CliError> {
        let all = |flag, values: Vec<String>| values.into_iter().map(|value| given(flag, value)).collect();
        let (named, plain): (Vec<String>, Vec<String>) = self.inside.into_iter().partition(|text| text.contains('='));
        Ok(Draft {
            inside: all("--inside", plain),
            insides: named_insides(&named),
            exempt: all("--exempt", self.exempt),
            outside: all("--outside", self.outside),
            pools: self
                .pool
                .into_iter()
                .map(|range| PoolDraft {
                    range: given("--pool", range),
                    name: None,
                    destinations: Vec::new(),
                    reserved: Vec::new(),
                    callback: None,
                    skip_network_addresses: false,
                    draining: false,
                    translates: None,
                })
                .collect(),
            callback: (!self.callback.is_empty()).then(|| given("--callback", self.callback)),
            alg: all("--alg", self.alg),
            control: path("--control", self.control)?,
            metrics: self.metrics.map(|address| given("--metrics", address)),
            state_dir: path("--state-dir", self.state_dir)?,
            workers: self.workers.map(|workers| given("--workers", workers)),
            fast_path: self.fast_path,
            tun: self.tun.map(|tun| given("--tun", tun)),
            log_format: self.log_format,
            log_terminals: self.log_terminals,
            on_stop: self.on_stop.map(|word| if word == "leave" { OnStop::Leave } else { OnStop::Undo }),
            ..Draft::default()
        })
    }
}

/// `NAME=IF,IF`; the same name again adds to it.
fn named_insides(texts: &[String]) -> Vec<InsideDraft> {
    let mut insides: Vec<InsideDraft> = Vec::new();
    for (name, interfaces) in texts.iter().filter_map(|text| text.split_once('=')) {
        let interfaces =
            interfaces.split(',').filter(|interface| !interface.is_empty()).map(|i| given("--inside", i.to_owned()));
        match insides.iter_mut().find(|inside| inside.name.value == name) {
            Some(inside) => inside.interfaces.extend(interfaces),
            None => insides.push(InsideDraft {
                name: given("--inside", name.to_owned()),
                interfaces: interfaces.collect(),
                prefixes: Vec::new(),
            }),
        }
    }
    insides
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DEFAULT_CONTROL, DEFAULT_STATE_DIR, DEFAULT_TUN};
    use clap::{CommandFactory, Parser};

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn the_help_names_the_real_defaults() {
        let help = Only::command().render_long_help().to_string();
        for default in [DEFAULT_CONTROL, DEFAULT_STATE_DIR, DEFAULT_TUN] {
            assert!(help.contains(&format!("[default: {default}]")), "{default}");
        }
    }

    #[test]
    fn flags_alone_make_a_configuration() {
        let line =
            "x --inside gi --outside go --pool 198.18.0.0/16 --pool fd00::/64 --callback 192.0.2.0/24,2001:db8::/32";
        let draft = Only::parse_from(line.split(' ')).arguments.into_draft().unwrap();
        let config = draft.check().unwrap();
        assert_eq!((config.pools.len(), config.outsides), (2, vec!["go".to_owned()]));
        assert!(
            matches!(config.policy.callback, crate::nat::CallbackPolicy::Prefixes(prefixes) if prefixes.len() == 2)
        );
        let line =
            "x --inside n=g1,g2 --inside s=g3 --inside n=g4 --outside go --pool 198.18.0.0/16 --exempt 10.9.0.0/16";
        let config = Only::parse_from(line.split(' ')).arguments.into_draft().unwrap().check().unwrap();
        let realms: Vec<(&str, usize)> =
            config.insides.iter().map(|inside| (inside.name.as_str(), inside.interfaces.len())).collect();
        assert_eq!((realms, config.exempt.len()), (vec![("n", 3), ("s", 1)], 1));
        let draft = Only::parse_from(["x", "--inside", "a/b", "--workers", "-1"]).arguments.into_draft().unwrap();
        let said: Vec<String> = draft.check().unwrap_err().iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|line| line.starts_with("--inside: 'a/b' cannot be an interface name")), "{said:?}");
        assert!(said.iter().any(|line| line.starts_with("--workers: workers is -1")), "{said:?}");
    }
}
