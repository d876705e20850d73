//! What is found, and programs that are asked.

use std::process::{Command, Stdio};

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Fine,
    /// It works; it could be better, or the operator should know.
    Note,
    /// It will not work until it is put right.
    Wrong,
}

/// One finding: a line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it is to be taken.
    pub grade: Grade,
    /// What is so, and what to do.
    pub text: String,
}

impl Finding {
    pub(super) fn fine(text: impl Into<String>) -> Self {
        Self { grade: Grade::Fine, text: text.into() }
    }

    pub(super) fn note(text: impl Into<String>) -> Self {
        Self { grade: Grade::Note, text: text.into() }
    }

    pub(super) fn wrong(text: impl Into<String>) -> Self {
        Self { grade: Grade::Wrong, text: text.into() }
    }
}

/// What a program says; nothing if it is not there or fails.
pub(super) fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
