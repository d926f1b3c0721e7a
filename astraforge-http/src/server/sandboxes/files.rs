//! `/api/sandbox/sessions/{id}/files/`: the file verbs. No program of the image is needed for them.

use std::convert::Infallible;

use astraforge_core::{
    error::chain,
    files::{Existing, FileEvent, FileReply, FileVerb, GrepOutput, Occurrences, Pattern, WatchRequest},
};
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{Sse, sse::Event},
};
use futures::{Stream, StreamExt};
use serde::Deserialize;

use super::{
    super::{
        AppState,
        body::JsonBody,
        error::ApiError,
        fields::{self, Fields, FromFields},
        query::QueryOf,
        refusals::{Elsewhere, Invalid, Missing, Refused},
    },
    session::{Session, absolute},
};
use crate::wire::sandbox::files::{
    EditBody, EditView, EntryList, EntryView, MakeDirBody, MatchList, MoveBody, PathList, RemoveBody, TextWindow,
};

/// The most things that one call lists.
const MOST: usize = 10_000;
/// The most lines that one call reads, and the most bytes of them.
const MOST_LINES: u64 = 1_000_000;
const MOST_TEXT: usize = 8 * 1024 * 1024;
/// How many lines are read unless the caller says so.
const LINES: u64 = 2000;

/// A path to look at.
#[derive(Debug, Deserialize)]
pub(in crate::server) struct PathQuery {
    path: String,
}

/// Describe what is at a path, without following a link there.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/files/stat/", tag = "sandboxes", operation_id = "stat_file",
    params(("id" = uuid::Uuid, Path, description = "The sandbox."), ("path" = String, Query, description = "The path.")),
    responses((status = 200, description = "What is there.", body = EntryView), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn stat(
    session: Session,
    QueryOf(query): QueryOf<PathQuery>,
) -> Result<Json<EntryView>, ApiError> {
    let verb = FileVerb::Stat { path: absolute(&query.path) };
    match session.ready().await?.file(verb).await? {
        FileReply::Entry(entry) => Ok(Json(entry.into())),
        _ => Err(odd_reply()),
    }
}

/// A folder to list.
#[derive(Debug, Deserialize)]
pub(in crate::server) struct ListQuery {
    #[serde(default = "workspace")]
    path: String,
    depth: Option<u32>,
    limit: Option<usize>,
}

fn workspace() -> String {
    "/workspace".to_owned()
}

/// List a folder, in order of name.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/files/list/", tag = "sandboxes", operation_id = "list_files",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("path" = Option<String>, Query, description = "The folder; `/workspace` unless set."),
        ("depth" = Option<u32>, Query, description = "How many levels below it are listed too; 1 unless set."),
        ("limit" = Option<u32>, Query, description = "At most so many entries; 10,000 unless set."),
    ),
    responses((status = 200, description = "What is in it.", body = EntryList), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn list(
    session: Session,
    QueryOf(query): QueryOf<ListQuery>,
) -> Result<Json<EntryList>, ApiError> {
    let depth = query.depth.unwrap_or(1).max(1);
    let verb = FileVerb::List { path: absolute(&query.path), depth, limit: at_most(query.limit) };
    match session.ready().await?.file(verb).await? {
        FileReply::Entries { entries, truncated } => {
            Ok(Json(EntryList { entries: entries.into_iter().map(EntryView::from).collect(), truncated }))
        }
        _ => Err(odd_reply()),
    }
}

/// Lines to read.
#[derive(Debug, Deserialize)]
pub(in crate::server) struct TextQuery {
    path: String,
    #[serde(default)]
    offset: u64,
    limit: Option<u64>,
    max_bytes: Option<usize>,
}

/// Read lines of a text file.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/files/text/", tag = "sandboxes", operation_id = "read_text",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("path" = String, Query, description = "The file."),
        ("offset" = Option<u64>, Query, description = "How many lines are left out before the first."),
        ("limit" = Option<u64>, Query, description = "At most so many lines; 2,000 unless set."),
        ("max_bytes" = Option<u32>, Query, description = "At most so many bytes; 8 MiB unless set; additive."),
    ),
    responses((status = 200, description = "The lines.", body = TextWindow), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn text(
    session: Session,
    QueryOf(query): QueryOf<TextQuery>,
) -> Result<Json<TextWindow>, ApiError> {
    let limit = query.limit.unwrap_or(LINES).min(MOST_LINES);
    let max_bytes = query.max_bytes.unwrap_or(MOST_TEXT).min(MOST_TEXT);
    let verb = FileVerb::ReadText { path: absolute(&query.path), offset: query.offset, limit, max_bytes };
    match session.ready().await?.file(verb).await? {
        FileReply::Text(window) => Ok(Json(window.into())),
        _ => Err(odd_reply()),
    }
}

/// Names to find.
#[derive(Debug, Deserialize)]
pub(in crate::server) struct GlobQuery {
    pattern: String,
    #[serde(default = "workspace")]
    path: String,
    limit: Option<usize>,
}

/// Find regular files by name.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/files/glob/", tag = "sandboxes", operation_id = "glob_files",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("pattern" = String, Query, description = "`*.rs` at any depth, `src/**/*.rs` below the folder; braces and \
            classes; leading dots are named."),
        ("path" = Option<String>, Query, description = "The folder; `/workspace` unless set."),
        ("limit" = Option<u32>, Query, description = "At most so many paths; 10,000 unless set."),
    ),
    responses((status = 200, description = "Their paths.", body = PathList), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn glob(
    session: Session,
    QueryOf(query): QueryOf<GlobQuery>,
) -> Result<Json<PathList>, ApiError> {
    let verb = FileVerb::Glob { pattern: query.pattern, path: absolute(&query.path), limit: at_most(query.limit) };
    match session.ready().await?.file(verb).await? {
        FileReply::Paths { paths, truncated } => Ok(Json(PathList { paths, truncated })),
        _ => Err(odd_reply()),
    }
}

/// Lines to find.
#[derive(Debug, Deserialize)]
pub(in crate::server) struct GrepQuery {
    pattern: String,
    #[serde(default = "workspace")]
    path: String,
    glob: Option<String>,
    #[serde(default)]
    regex: bool,
    #[serde(default)]
    counts: bool,
    limit: Option<usize>,
}

/// Find lines by content.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/files/grep/", tag = "sandboxes", operation_id = "grep_files",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("pattern" = String, Query, description = "The text that is looked for."),
        ("path" = Option<String>, Query, description = "The file or folder; `/workspace` unless set."),
        ("glob" = Option<String>, Query, description = "Only in files whose name matches."),
        ("regex" = Option<bool>, Query, description = "Whether the pattern is a regular expression."),
        ("counts" = Option<bool>, Query, description = "Whether the lines of each file are counted instead."),
        ("limit" = Option<u32>, Query, description = "At most so many lines or files; 10,000 unless set."),
    ),
    responses((status = 200, description = "The lines.", body = MatchList), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn grep(
    session: Session,
    QueryOf(query): QueryOf<GrepQuery>,
) -> Result<Json<MatchList>, ApiError> {
    let pattern = if query.regex { Pattern::Regex(query.pattern) } else { Pattern::Literal(query.pattern) };
    let output = if query.counts { GrepOutput::Counts } else { GrepOutput::Lines };
    let (path, limit) = (absolute(&query.path), at_most(query.limit));
    let verb = FileVerb::Grep { pattern, path, glob: query.glob, output, limit };
    match session.ready().await?.file(verb).await? {
        FileReply::Matches { matches, truncated } => {
            let matches = matches.into_iter().map(Into::into).collect();
            Ok(Json(MatchList { matches, counts: Vec::new(), truncated }))
        }
        FileReply::Counts { counts, truncated } => {
            let counts = counts.into_iter().map(Into::into).collect();
            Ok(Json(MatchList { matches: Vec::new(), counts, truncated }))
        }
        _ => Err(odd_reply()),
    }
}

/// Replace text in a file, which stays whole at every moment.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/files/edit/", tag = "sandboxes", operation_id = "edit_file",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = EditBody,
    responses((status = 200, description = "Replaced.", body = EditView), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn edit(
    session: Session,
    JsonBody(body): JsonBody<EditBody>,
) -> Result<Json<EditView>, ApiError> {
    let occurrences = if body.replace_all { Occurrences::All } else { Occurrences::Unique };
    let verb = FileVerb::Edit { path: absolute(&body.path), old: body.old, new: body.new, occurrences };
    match session.ready().await?.file(verb).await? {
        FileReply::Edited { n_replaced } => Ok(Json(EditView { occurrences: n_replaced })),
        _ => Err(odd_reply()),
    }
}

/// Make a folder, and those above it.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/files/make-dir/", tag = "sandboxes", operation_id = "make_dir",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = MakeDirBody,
    responses((status = 204, description = "It is there."), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn make_dir(
    session: Session,
    JsonBody(body): JsonBody<MakeDirBody>,
) -> Result<StatusCode, ApiError> {
    done(&session, FileVerb::MakeDir { path: absolute(&body.path) }).await
}

/// Move a file or folder.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/files/move/", tag = "sandboxes", operation_id = "move_file",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = MoveBody,
    responses((status = 204, description = "Moved."), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn move_file(
    session: Session,
    JsonBody(body): JsonBody<MoveBody>,
) -> Result<StatusCode, ApiError> {
    let existing = if body.replace { Existing::Replace } else { Existing::Keep };
    done(&session, FileVerb::Move { from: absolute(&body.from), to: absolute(&body.to), existing }).await
}

/// Remove a file or folder.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/files/remove/", tag = "sandboxes", operation_id = "remove_file",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = RemoveBody,
    responses((status = 204, description = "Removed."), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn remove(
    session: Session,
    JsonBody(body): JsonBody<RemoveBody>,
) -> Result<StatusCode, ApiError> {
    done(&session, FileVerb::Remove { path: absolute(&body.path), recursive: body.recursive }).await
}

async fn done(session: &Session, verb: FileVerb) -> Result<StatusCode, ApiError> {
    session.ready().await?.file(verb).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is watched.
#[derive(Debug, Deserialize)]
pub(in crate::server) struct WatchQuery {
    #[serde(default = "workspace")]
    path: String,
    #[serde(default)]
    recursive: bool,
}

/// Follow changes of files as they happen, until the caller goes away.
///
/// Each event is `{"path": …, "change": …}`, with a change of `watching` (the first), `created`, `modified`, `removed`, or
/// `overflowed` when more happened than could be kept.
#[utoipa::path(
    get, path = "/api/sandbox/sessions/{id}/files/watch/", tag = "sandboxes", operation_id = "watch_files",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("path" = Option<String>, Query, description = "The file or folder; `/workspace` unless set."),
        ("recursive" = Option<bool>, Query, description = "Whether folders below it are watched too."),
    ),
    responses(
        (status = 200, description = "The changes.", body = String, content_type = "text/event-stream"),
        Invalid, Refused, Missing, Elsewhere,
    ),
)]
pub(in crate::server) async fn watch(
    State(state): State<AppState>,
    session: Session,
    QueryOf(query): QueryOf<WatchQuery>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let workplace = session.ready().await?;
    let request = WatchRequest { roots: workplace.roots, path: absolute(&query.path), recursive: query.recursive };
    let events = session.while_read(workplace.machine.watch(request).await?);
    Ok(state.live(events.filter_map(|event| async {
        let event = event.inspect_err(|error| tracing::info!(error = chain(error), "a watch of files ended")).ok()?;
        Some(changed(&event))
    })))
}

fn changed(event: &FileEvent) -> Event {
    Event::default().json_data(event).unwrap_or_else(|_| Event::default().comment("a change that cannot be written"))
}

fn at_most(limit: Option<usize>) -> usize {
    limit.map_or(MOST, |limit| limit.min(MOST))
}

fn odd_reply() -> ApiError {
    ApiError::new(StatusCode::BAD_GATEWAY, "The sandbox gave an answer to another question.")
}

impl FromFields for EditBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let path = fields.required("path", fields::path);
        let (old, new) = (fields.required("old", fields::anything), fields.required("new", fields::anything));
        let replace_all = fields.optional("replace_all", fields::boolean).unwrap_or_default();
        Some(Self { path: path?, old: old?, new: new?, replace_all })
    }
}

impl FromFields for MakeDirBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self { path: fields.required("path", fields::path)? })
    }
}

impl FromFields for MoveBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let (from, to) = (fields.required("from", fields::path), fields.required("to", fields::path));
        let replace = fields.optional("replace", fields::boolean).unwrap_or_default();
        Some(Self { from: from?, to: to?, replace })
    }
}

impl FromFields for RemoveBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let path = fields.required("path", fields::path);
        let recursive = fields.optional("recursive", fields::boolean).unwrap_or_default();
        Some(Self { path: path?, recursive })
    }
}
