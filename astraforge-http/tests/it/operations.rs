//! The operations of the OpenAPI document, as something that can be called.

use serde_json::{Value, json};

/// An operation of the document.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) method: String,
    pub(crate) path: String,
    /// What its caller has to be allowed; `None` for what is for everybody.
    pub(crate) action: Option<String>,
}

/// All operations.
pub(crate) fn all() -> Vec<Operation> {
    let document = serde_json::to_value(astraforge_http::server::openapi()).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let action = operation.get("x-action").map(|action| action.as_str().unwrap().to_owned());
            let is_open = operation.get("security").is_some();
            assert_eq!(action.is_none(), is_open, "{method} {path}: who may call?");
            operations.push(Operation {
                id: operation["operationId"].as_str().unwrap().to_owned(),
                method: method.to_uppercase(),
                path: path.clone(),
                action,
            });
        }
    }
    operations
}

/// The things that operations are about, by their ids.
#[derive(Debug, Clone)]
pub(crate) struct Things {
    pub(crate) request: String,
    pub(crate) run: String,
    pub(crate) merge_request: String,
    pub(crate) link: String,
    pub(crate) key: String,
    pub(crate) sandbox: String,
    pub(crate) snapshot: String,
    pub(crate) artifact: String,
}

impl Things {
    /// Things that are nowhere.
    pub(crate) fn nowhere() -> Self {
        let id = || uuid::Uuid::now_v7().to_string();
        Self {
            request: id(),
            run: id(),
            merge_request: id(),
            link: id(),
            key: id(),
            sandbox: id(),
            snapshot: id(),
            artifact: id(),
        }
    }

    /// The path of an operation on these things, with a query that it takes.
    pub(crate) fn path(&self, operation: &Operation) -> String {
        let id = match operation.path.split('/').nth(2).unwrap_or_default() {
            "requests" | "chat" | "runs" => &self.request,
            "merge-requests" => &self.merge_request,
            "repository-links" => &self.link,
            "api-keys" => &self.key,
            "sandbox" if operation.path.contains("/artifacts/{id}") => &self.artifact,
            _ => &self.sandbox,
        };
        let path = operation.path.replace("{id}", id).replace("{run_id}", &self.run);
        let path =
            path.replace("{snapshot}", &self.snapshot).replace("{name}", "x").replace("{execution}", &self.sandbox);
        match operation.id.as_str() {
            "upload_file" | "download_file" | "stat_file" | "list_files" | "read_text" | "watch_files" => {
                format!("{path}?path=a")
            }
            "glob_files" | "grep_files" => format!("{path}?pattern=a"),
            _ => path,
        }
    }

    /// A body that an operation on these things takes; `None` for one without.
    pub(crate) fn body(&self, operation: &Operation) -> Option<Value> {
        let body = match operation.id.as_str() {
            _ if operation.method == "GET" || operation.method == "DELETE" => return None,
            "submit_request" => json!({"prompt": "x", "project_id": self.link}),
            "chat" => json!({"request_id": self.request, "message": "x"}),
            "make_plan" | "execute_plan" => json!({"request_id": self.request}),
            "link_repository" => json!({"provider": "local", "repository": "another"}),
            "make_api_key" => json!({"name": "another"}),
            "create_sandbox" => json!({"id": self.sandbox}),
            "exec" | "shell" => json!({"command": "true"}),
            "write_file" => json!({"path": "a", "content": "x"}),
            "edit_file" => json!({"path": "a", "old": "x", "new": "y"}),
            "move_file" => json!({"from": "a", "to": "b"}),
            "make_dir" | "remove_file" | "export_file" => json!({"path": "a"}),
            "restore_snapshot" => json!({"snapshot_id": self.snapshot}),
            "change_sandbox" => json!({"egress": "off"}),
            "use_mouse" => json!({"action": "scroll", "notches": 1}),
            "use_keyboard" => json!({"text": "a"}),
            "start_process" | "start_execution" => json!({"command": "true"}),
            "pack_files" => json!({"include": ["a"]}),
            "signal_process" | "signal_execution" => json!({"signal": "kill"}),
            "resize_terminal" | "resize_execution" => json!({"rows": 1, "columns": 1}),
            _ => json!({}),
        };
        Some(body)
    }
}
