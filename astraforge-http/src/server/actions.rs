//! What each operation needs its caller to be allowed: one table, which calls are checked by and the OpenAPI document tells.

use std::{collections::HashMap, sync::LazyLock};

use astraforge_core::{access::Action, error::ForgeError};
use axum::{
    extract::{MatchedPath, Request},
    http::{Method, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use utoipa::openapi::{OpenApi, extensions::ExtensionsBuilder, path::Operation};

use super::{caller::Identity, error::ApiError, openapi::openapi};

/// Names the action in the document.
const EXTENSION: &str = "x-action";

/// The operations of each action, by their ids. Some ask for more, by what they are asked for: an approval of what the
/// policy keeps for maintainers needs one.
const ACTIONS: &[(Action, &[&str])] = &[
    (
        Action::Read,
        &[
            "resources",
            "who_am_i",
            "log_out",
            "list_requests",
            "show_request",
            "show_diff",
            "list_runs",
            "show_run",
            "stream_run_log",
            "list_merge_requests",
            "show_merge_request",
            "list_repository_links",
            "show_repository_link",
            "list_sandboxes",
            "show_sandbox",
            "measure_sandbox",
            "list_snapshots",
            "list_artifacts",
            "read_artifact",
            "link_artifact",
            "show_egress",
            "watch_screen",
            "metrics",
        ],
    ),
    (Action::Chat, &["chat"]),
    (Action::Approve, &["approve_request", "chat_approve"]),
    (Action::Submit, &["submit_request", "make_plan", "execute_plan", "execute_request"]),
    (Action::Cancel, &["cancel_request", "cancel_run"]),
    (
        Action::UseSandboxes,
        &[
            "create_sandbox",
            "change_sandbox",
            "delete_sandbox",
            "stop_sandbox",
            "fork_sandbox",
            "note_heartbeat",
            "exec",
            "shell",
            "write_file",
            "upload_file",
            "download_file",
            "stat_file",
            "list_files",
            "read_text",
            "glob_files",
            "grep_files",
            "edit_file",
            "make_dir",
            "move_file",
            "remove_file",
            "watch_files",
            "export_file",
            "take_snapshot",
            "take_one_snapshot",
            "restore_snapshot",
            "diff_snapshot",
            "take_screenshot",
            "use_mouse",
            "use_keyboard",
            "list_processes",
            "start_process",
            "show_process",
            "signal_process",
            "write_input",
            "resize_terminal",
            "follow_process",
            "pack_files",
            "unpack_files",
            "compare_files",
            "restore_archive",
            "start_execution",
            "follow_execution",
            "write_execution_input",
            "signal_execution",
            "resize_execution",
            "end_execution",
            "create_conversation",
            "send_message",
        ],
    ),
    (Action::LinkRepositories, &["link_repository", "change_repository_link", "unlink_repository"]),
    (Action::ManageKeys, &["list_api_keys", "make_api_key", "revoke_api_key"]),
    (Action::ReadAudit, &["list_audit", "export_audit", "verify_audit"]),
];

/// What an operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing: it is for everybody.
    Nothing,
    /// A caller who may do this.
    Action(Action),
    /// Nobody said. Then it is for nobody.
    Unsaid,
}

impl Need {
    fn of(operation: &Operation) -> Self {
        // What says itself who may call, says that nobody is asked.
        if operation.security.is_some() {
            return Self::Nothing;
        }
        let id = operation.operation_id.as_deref().unwrap_or_default();
        let found = ACTIONS.iter().find(|(_, ids)| ids.contains(&id));
        found.map_or(Self::Unsaid, |(action, _)| Self::Action(*action))
    }
}

/// Refuses callers who may not do what they ask for, before anything of it is looked at.
pub(super) async fn authorize(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.extensions.get::<MatchedPath>();
    let need = path.and_then(|path| need(&parts.method, path.as_str())).unwrap_or(Need::Nothing);
    let allowed = match need {
        Need::Nothing => Ok(()),
        Need::Action(action) => {
            Identity::of(&parts).and_then(|it| Ok(it.caller.may(action).map_err(ForgeError::from)?))
        }
        Need::Unsaid => Err(ApiError::new(StatusCode::FORBIDDEN, "Nobody may do this here.")),
    };
    match allowed {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// What the operation of a route needs; `None` for a method that the route has not.
fn need(method: &Method, route: &str) -> Option<Need> {
    static NEEDS: LazyLock<HashMap<(Method, String), Need>> = LazyLock::new(|| {
        let document = openapi();
        let all = document.paths.paths.iter().flat_map(|(path, item)| {
            let operations = [
                (Method::GET, &item.get),
                (Method::HEAD, &item.get),
                (Method::POST, &item.post),
                (Method::PUT, &item.put),
                (Method::PATCH, &item.patch),
                (Method::DELETE, &item.delete),
            ];
            let there = |(method, operation): (Method, &Option<Operation>)| {
                Some(((method, path.clone()), Need::of(operation.as_ref()?)))
            };
            operations.into_iter().filter_map(there).collect::<Vec<_>>()
        });
        all.collect()
    });
    // Routers that stand around ours put their own prefixes before the path of a route.
    let path = route.rfind("/api/").map_or(route, |at| &route[at..]);
    NEEDS.get(&(method.clone(), path.to_owned())).copied()
}

/// Adds to each operation of a document what its caller has to be allowed.
pub(super) fn tell(document: &mut OpenApi) {
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            if let Need::Action(action) = Need::of(operation) {
                let said = ExtensionsBuilder::new().add(EXTENSION, action.as_str()).build();
                operation.extensions.get_or_insert_default().merge(said);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_says_what_it_needs_and_every_word_of_the_table_is_one() {
        let document = openapi();
        let items = document.paths.paths.values();
        let operations = items.flat_map(|item| [&item.get, &item.post, &item.put, &item.patch, &item.delete]);
        let operations: Vec<&Operation> = operations.flatten().collect();
        let id = |operation: &&Operation| operation.operation_id.clone().unwrap();
        let unsaid: Vec<_> = operations.iter().filter(|it| Need::of(it) == Need::Unsaid).map(id).collect();
        assert!(unsaid.is_empty(), "put these into the table: {unsaid:?}");
        let ids: Vec<String> = operations.iter().map(id).collect();
        let mut said: Vec<&str> = ACTIONS.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
        let stale: Vec<_> = said.iter().filter(|it| !ids.iter().any(|id| id == *it)).collect();
        assert!(stale.is_empty(), "no operation has these ids: {stale:?}");
        let n = said.len();
        said.sort_unstable();
        said.dedup();
        assert_eq!(said.len(), n, "an operation needs one action");
    }

    #[test]
    fn a_route_is_known_wherever_the_router_stands() {
        let keys = Some(Need::Action(Action::ManageKeys));
        for route in ["/api/api-keys/", "/api/api/api-keys/", "/forge/api/api/api-keys/"] {
            assert_eq!(need(&Method::GET, route), keys, "{route}");
        }
        assert_eq!(need(&Method::HEAD, "/api/api/api-keys/"), keys);
        assert_eq!(need(&Method::PUT, "/api/api/api-keys/"), None);
        assert_eq!(need(&Method::GET, "/api/api/"), Some(Need::Action(Action::Read)));
        assert_eq!(need(&Method::GET, "/api/api/schema/"), Some(Need::Nothing));
        assert_eq!(need(&Method::GET, "/metrics"), Some(Need::Action(Action::Read)));
    }
}
