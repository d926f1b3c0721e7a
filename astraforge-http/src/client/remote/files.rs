//! The file verbs, each by its route.

use astraforge_core::{
    files::{Existing, FileReply, FileVerb, GrepOutput, Occurrences, Pattern},
    id::SandboxId,
    ports::sessions::SessionError,
};
use http::Method;
use serde::Serialize;

use super::super::{
    Client, ClientError, GrepQuery,
    sandboxes::{answer, path},
};
use crate::wire::sandbox::files::{EditBody, EntryList, MoveBody, PathList, RemoveBody, TextWindow};

/// Carries out a verb.
pub(super) async fn carry_out(client: &Client, id: SandboxId, verb: FileVerb) -> Result<FileReply, SessionError> {
    asked(client, id, verb).await.unwrap_or_else(|verb| {
        Err(SessionError::Unsupported {
            what: format!("{verb:?}"),
            reason: "no route of its server does it".to_owned(),
        })
    })
}

/// What came of a verb, or the verb itself where it has no route.
async fn asked(client: &Client, id: SandboxId, verb: FileVerb) -> Result<Result<FileReply, SessionError>, FileVerb> {
    let reply = match verb {
        FileVerb::Stat { path } => client.stat_file(id, &path).await.map(|entry| FileReply::Entry(entry.into())),
        FileVerb::List { path, depth, limit } => {
            let terms = [("path", path), ("depth", depth.to_string()), ("limit", limit.to_string())];
            get(client, id, "files/list/", &terms).await.map(|EntryList { entries, truncated }| FileReply::Entries {
                entries: entries.into_iter().map(Into::into).collect(),
                truncated,
            })
        }
        FileVerb::ReadText { path, offset, limit, max_bytes } => {
            let (offset, limit) = (offset.to_string(), limit.to_string());
            let terms = [("path", path), ("offset", offset), ("limit", limit), ("max_bytes", max_bytes.to_string())];
            get(client, id, "files/text/", &terms).await.map(|window: TextWindow| FileReply::Text(window.into()))
        }
        FileVerb::Edit { path, old, new, occurrences } => {
            let edit = EditBody { path, old, new, replace_all: occurrences == Occurrences::All };
            client.edit_file(id, &edit).await.map(|view| FileReply::Edited { n_replaced: view.occurrences })
        }
        FileVerb::Glob { pattern, path, limit } => {
            let terms = [("pattern", pattern), ("path", path), ("limit", limit.to_string())];
            let found = get(client, id, "files/glob/", &terms).await;
            found.map(|PathList { paths, truncated }| FileReply::Paths { paths, truncated })
        }
        FileVerb::Grep { pattern, path, glob, output, limit } => {
            let (pattern, regex) = match pattern {
                Pattern::Literal(text) => (text, false),
                Pattern::Regex(text) => (text, true),
            };
            let counts = output == GrepOutput::Counts;
            let limit = Some(u32::try_from(limit).unwrap_or(u32::MAX));
            grep(client, id, &GrepQuery { pattern, path: Some(path), glob, regex, counts, limit }).await
        }
        FileVerb::MakeDir { path } => client.make_dir(id, &path).await.map(|()| FileReply::Done),
        FileVerb::Move { from, to, existing } => {
            let body = MoveBody { from, to, replace: existing == Existing::Replace };
            client.move_file(id, &body).await.map(|()| FileReply::Done)
        }
        FileVerb::Remove { path, recursive } => {
            client.remove_file(id, &RemoveBody { path, recursive }).await.map(|()| FileReply::Done)
        }
        verb => return Err(verb),
    };
    Ok(reply.map_err(ClientError::into_session_error))
}

async fn grep(client: &Client, id: SandboxId, query: &GrepQuery) -> Result<FileReply, ClientError> {
    let found = client.grep_files(id, query).await?;
    let truncated = found.truncated;
    Ok(if query.counts {
        FileReply::Counts { counts: found.counts.into_iter().map(Into::into).collect(), truncated }
    } else {
        FileReply::Matches { matches: found.matches.into_iter().map(Into::into).collect(), truncated }
    })
}

async fn get<T: serde::de::DeserializeOwned>(
    client: &Client,
    id: SandboxId,
    rest: &str,
    terms: &(impl Serialize + Sync + ?Sized),
) -> Result<T, ClientError> {
    answer(client.open_ended_call(Method::GET, &path(id, rest)).query(terms)).await
}
