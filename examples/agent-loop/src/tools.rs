//! What the agent can do, as a tower service: one call is one tool used in its sandbox.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use astraforge_core::{
    BoxError,
    files::{FileErrorKind, FileReply, FileRequest, FileVerb, Occurrences, Roots},
    ports::{machines::Machine, sessions::SessionError},
    session::Command,
};
use futures::future::BoxFuture;
use tower::Service;

/// A tool and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Writes a file.
    Write { path: String, text: String },
    /// Replaces a text that is there exactly once.
    Edit { path: String, old: String, new: String },
    /// Runs a shell line.
    Shell(String),
}

/// What the agent is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub worked: bool,
    pub text: String,
}

/// The tools of one sandbox.
#[derive(Debug, Clone)]
pub struct Tools {
    machine: Arc<dyn Machine>,
}

impl Tools {
    pub fn new(machine: Arc<dyn Machine>) -> Self {
        Self { machine }
    }

    async fn carry_out(self, call: Call) -> Result<Answer, BoxError> {
        let done = match call {
            Call::Write { path, text } => {
                self.machine.write_file(&path, text.into(), 0o644).await.map(|()| String::new())
            }
            Call::Edit { path, old, new } => {
                let verb = FileVerb::Edit { path, old, new, occurrences: Occurrences::Unique };
                let request = FileRequest { roots: Roots::default(), verb };
                self.machine.file(request).await.map(|reply| match reply {
                    FileReply::Edited { n_replaced } => format!("replaced {n_replaced}"),
                    other => format!("{other:?}"),
                })
            }
            Call::Shell(line) => {
                let output = self.machine.exec(Command::shell(line)).await?.collect(64 * 1024).await?;
                let text = [output.stdout, output.stderr].concat();
                return Ok(Answer { worked: output.exit.success(), text: String::from_utf8_lossy(&text).into_owned() });
            }
        };
        match done {
            Ok(text) => Ok(Answer { worked: true, text }),
            // The agent can act on these; anything else is for whoever runs it.
            Err(error @ SessionError::File { kind: FileErrorKind::NoMatch | FileErrorKind::ManyMatches, .. }) => {
                Ok(Answer { worked: false, text: error.to_string() })
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Service<Call> for Tools {
    type Response = Answer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Answer, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        Box::pin(self.clone().carry_out(call))
    }
}
