//! A small agent, scripted where a real one would ask a model: it writes, tests, reads what came of it, and mends.

use astraforge_core::BoxError;
use tower::{Service, ServiceExt as _};

use crate::tools::{Answer, Call};

/// What the agent does next, given what it was last told; `None` when it is done.
fn think(n_calls: usize, last: Option<&Answer>) -> Option<Call> {
    let write = |path: &str, text: &str| Call::Write { path: path.to_owned(), text: text.to_owned() };
    match (n_calls, last) {
        (0, _) => Some(write("/workspace/double.sh", "echo $(($1 + 2))\n")),
        (1, _) => Some(write(
            "/workspace/test.sh",
            "for n in 0 1 2 5; do got=$(sh double.sh $n); want=$((n * 2))\n\
             [ \"$got\" = \"$want\" ] || { echo \"double $n: got $got, want $want\"; exit 1; }; done; echo all passed\n",
        )),
        (_, Some(answer)) if answer.text.contains("all passed") => None,
        // It reads what the test says, and mends what that means.
        (_, Some(answer)) if answer.text.contains("got 2, want 0") => Some(Call::Edit {
            path: "/workspace/double.sh".to_owned(),
            old: "$1 + 2".to_owned(),
            new: "$1 * 2".to_owned(),
        }),
        _ => Some(Call::Shell("sh test.sh".to_owned())),
    }
}

/// Lets the agent work with its tools until it is done; returns what it was told last.
pub async fn work<S>(mut tools: S, max_calls: usize) -> Result<Answer, BoxError>
where
    S: Service<Call, Response = Answer, Error = BoxError>,
{
    let mut last = None;
    for n_calls in 0..max_calls {
        let Some(call) = think(n_calls, last.as_ref()) else { break };
        last = Some(tools.ready().await?.call(call).await?);
    }
    last.ok_or_else(|| "the agent did nothing".into())
}
