//! What a hostile program says, and what follows from it.

use std::time::Duration;

use astraforge_core::{
    ports::sessions::Execution,
    session::{ExecEvent, Exit},
};
use futures::StreamExt;

use super::case::Stop;

/// Longer than any attack takes on a busy machine; one that waits longer hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Most of what is kept of an attack's words.
const MOST: usize = 1 << 20;

/// What an attack said, and how it ended.
#[derive(Debug)]
pub(super) struct Transcript {
    pub(super) text: String,
    /// `None` when it still runs, or the sandbox is gone.
    pub(super) exit: Option<Exit>,
}

impl Transcript {
    /// What the attack could do and should not.
    pub(super) fn openings(&self) -> Vec<&str> {
        self.lines("open: ").collect()
    }

    /// How many things it tried in vain.
    pub(super) fn n_held(&self) -> usize {
        self.lines("held: ").count()
    }

    /// A value that it told.
    pub(super) fn note(&self, name: &str) -> Option<&str> {
        self.lines("note: ").filter_map(|it| it.split_once('=')).filter(|(it, _)| *it == name).last().map(|it| it.1)
    }

    /// All values that it told under one name.
    pub(super) fn notes<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines("note: ").filter_map(|it| it.split_once('=')).filter(move |(it, _)| *it == name).map(|it| it.1)
    }

    /// A number that it told.
    pub(super) fn number(&self, name: &str) -> Result<u64, Stop> {
        self.note(name)
            .and_then(|it| it.parse().ok())
            .ok_or_else(|| Stop::trouble(format_args!("the attack told no {name}: {}", self.tail())))
    }

    /// Fails when the attack could do something.
    pub(super) fn hold(&self) -> Result<&Self, Stop> {
        let openings = self.openings();
        if openings.is_empty() { Ok(self) } else { Err(Stop::Breach(openings.join("; "))) }
    }

    /// Fails when the attack could do something, or did not come to its end.
    pub(super) fn hold_to_the_end(&self) -> Result<String, Stop> {
        self.hold()?;
        if self.text.lines().any(|it| it == "end") {
            Ok(format!("{} tried in vain", self.n_held()))
        } else {
            Err(Stop::trouble(format_args!("the attack did not end: {:?}: {}", self.exit, self.tail())))
        }
    }

    fn lines<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        self.text.lines().filter_map(move |it| it.strip_prefix(kind))
    }

    fn tail(&self) -> String {
        let from = self.text.len().saturating_sub(300);
        let from = (from..=self.text.len()).find(|it| self.text.is_char_boundary(*it)).unwrap_or(0);
        self.text[from..].to_owned()
    }
}

/// An attack that runs.
#[derive(Debug)]
pub(super) struct Running {
    execution: Execution,
    bytes: Vec<u8>,
    exit: Option<Exit>,
}

impl Running {
    pub(super) fn new(execution: Execution) -> Self {
        Self { execution, bytes: Vec::new(), exit: None }
    }

    /// Listens until it says that it is ready, or has ended.
    pub(super) async fn ready(&mut self) -> Result<Transcript, Stop> {
        self.listen(Some("ready")).await?;
        let transcript = self.transcript();
        if transcript.text.lines().any(|it| it == "ready") {
            Ok(transcript)
        } else {
            Err(Stop::trouble(format_args!("the attack did not begin: {:?}: {}", self.exit, transcript.tail())))
        }
    }

    /// Listens to the end. A sandbox that dies with it is an end too.
    pub(super) async fn end(mut self) -> Result<Transcript, Stop> {
        self.listen(None).await?;
        Ok(self.transcript())
    }

    async fn listen(&mut self, line: Option<&str>) -> Result<(), Stop> {
        let listen = async {
            while !line.is_some_and(|line| self.text().lines().any(|it| it == line)) {
                match self.execution.events.next().await {
                    Some(Ok(ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes))) if self.bytes.len() < MOST => {
                        self.bytes.extend_from_slice(&bytes);
                    }
                    Some(Ok(ExecEvent::Exited(exit))) => {
                        self.exit = Some(exit);
                        return;
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return,
                }
            }
        };
        tokio::time::timeout(PATIENCE, listen)
            .await
            .map_err(|_| Stop::Breach(format!("a command hangs for {} s", PATIENCE.as_secs())))
    }

    fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    fn transcript(&self) -> Transcript {
        Transcript { text: self.text().into_owned(), exit: self.exit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(text: &str) -> Transcript {
        Transcript { text: text.to_owned(), exit: None }
    }

    #[test]
    fn one_opening_is_a_breach_whatever_else_held() {
        let stop = transcript("held: a\nopen: b\nheld: c\nend\n").hold_to_the_end().unwrap_err();
        assert_eq!(stop, Stop::Breach("b".to_owned()));
    }

    #[test]
    fn an_attack_that_breaks_off_shows_nothing() {
        assert!(matches!(transcript("held: a\n").hold_to_the_end(), Err(Stop::Trouble(_))));
        assert!(transcript("held: a\nend\n").hold_to_the_end().is_ok());
    }

    #[test]
    fn the_last_word_on_a_value_counts() {
        let told = transcript("note: held=4\nnote: held=8\nnote: x=a=b\n");
        assert_eq!((told.number("held"), told.note("x")), (Ok(8), Some("a=b")));
        assert!(told.number("none").is_err());
    }
}
