//! A layer of our own: writes down what the agent did and what it was told.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use futures::{FutureExt as _, future::BoxFuture};
use tower::{Layer, Service};

use crate::tools::{Answer, Call};

/// What was done so far; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Transcript(Arc<Mutex<Vec<String>>>);

impl Transcript {
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl<S> Layer<S> for Transcript {
    type Service = Transcribed<S>;

    fn layer(&self, inner: S) -> Transcribed<S> {
        Transcribed { inner, transcript: self.clone() }
    }
}

#[derive(Debug, Clone)]
pub struct Transcribed<S> {
    inner: S,
    transcript: Transcript,
}

impl<S: Service<Call, Response = Answer>> Service<Call> for Transcribed<S>
where
    S::Future: Send + 'static,
{
    type Response = Answer;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Answer, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let (transcript, asked) = (self.transcript.clone(), format!("{call:?}"));
        let answered = self.inner.call(call);
        async move {
            let answer = answered.await?;
            let outcome = if answer.worked { "worked" } else { "failed" };
            transcript.0.lock().unwrap().push(format!("{asked}: {outcome}"));
            Ok(answer)
        }
        .boxed()
    }
}
