//! Schemas of domain values that are plain texts on the wire, for the OpenAPI document.

use astraforge_core::{
    access::{Action, Role},
    request::RequestState,
    run::RunStatus,
    sandbox::SandboxStatus,
};
use utoipa::{
    ToSchema,
    openapi::schema::{Array, ArrayBuilder, Object, ObjectBuilder, SchemaType, Type},
};

pub(crate) fn request_state() -> Object {
    choice("Where the request stands.", RequestState::ALL.map(RequestState::as_str))
}

pub(crate) fn run_status() -> Object {
    choice("Where the run stands.", RunStatus::ALL.map(RunStatus::as_str))
}

pub(crate) fn sandbox_status() -> Object {
    choice("How the sandbox stands.", SandboxStatus::ALL.map(SandboxStatus::as_str))
}

pub(crate) fn entry_kind() -> Object {
    choice("What it is.", ["file", "directory", "symlink", "other"])
}

pub(crate) fn role() -> Object {
    choice("What the key lets its bearer do, the least first.", Role::ALL.map(Role::as_str))
}

pub(crate) fn scopes() -> Array {
    list_of_scopes(SchemaType::new(Type::Array))
}

pub(crate) fn maybe_scopes() -> Array {
    list_of_scopes(SchemaType::from_iter([Type::Array, Type::Null]))
}

fn list_of_scopes(schema_type: SchemaType) -> Array {
    let scope = choice("Something that the key is for.", Action::ALL.map(Action::as_str));
    ArrayBuilder::new().schema_type(schema_type).items(scope).min_items(Some(1)).build()
}

pub(crate) fn message_role() -> Object {
    choice("Who speaks.", ["user", "assistant"])
}

pub(crate) fn start() -> Object {
    choice("When work begins: at once, or when a person executes a plan.", ["now", "after_plan"])
}

pub(crate) fn decision() -> Object {
    choice("Who may approve: anyone with the role, only a maintainer, nobody.", ["allow", "needs_maintainer", "deny"])
}

pub(crate) fn change_kind() -> Object {
    choice("What happens to the file.", ["added", "modified", "deleted", "renamed", "type_changed"])
}

pub(crate) fn binding() -> Object {
    choice("Whether the approver sent the digest.", ["explicit", "implicit"])
}

pub(crate) fn severity() -> Object {
    choice("How grave it is.", ["info", "warning", "error"])
}

pub(crate) fn merge_request_status() -> Object {
    choice("Where the merge request stands.", ["OPEN", "MERGED", "CLOSED"])
}

pub(crate) fn base64() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .content_encoding("base64")
        .description(Some("The file's bytes in standard base64 with padding."))
        .build()
}

fn choice<const N: usize>(description: &str, values: [&str; N]) -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .description(Some(description))
        .enum_values(Some(values))
        .build()
}

/// One event of a request's log. Which fields there are depends on `type`.
#[derive(ToSchema)]
#[schema(as = RunEvent)]
#[expect(dead_code, reason = "describes `astraforge_core::event::RunEvent` in the OpenAPI document")]
pub(crate) struct RunEventSchema {
    /// Counts the events of the request from 1, without a gap.
    seq: u64,
    /// The request it belongs to.
    request_id: uuid::Uuid,
    /// The run it belongs to, if it belongs to one.
    #[schema(nullable = false)]
    run_id: Option<uuid::Uuid>,
    /// What happened: `user_prompt`, `user_message`, `status`, `command`, `log`, `error`, `assistant_message`,
    /// `completed` or `cancelled`; more may come. `completed`, `cancelled`, and `error` with stage `failed` end a run.
    #[schema(example = "status")]
    r#type: String,
    /// Which part of the work it belongs to.
    #[schema(nullable = false, example = "clone")]
    stage: Option<String>,
    /// What is said.
    #[schema(nullable = false)]
    message: Option<String>,
    /// The command, for `command`.
    #[schema(nullable = false)]
    command: Option<String>,
    /// The command's working directory.
    cwd: Option<String>,
    /// The output of a command that failed.
    #[schema(nullable = false)]
    output: Option<String>,
    /// The exit code of a command that failed.
    #[schema(nullable = false)]
    exit_code: Option<i32>,
    /// When it happened.
    created_at: chrono::DateTime<chrono::Utc>,
}
