//! `/api/sandbox/sessions/{id}/archives/` and `restore/archive/`: many files at once, in one stream.

use astraforge_core::{
    archive::{ArchiveSummary, CompareRequest, Comparison, Compression, PackRequest, UnpackRequest},
    files::{FileErrorKind, Roots},
    ports::sessions::SessionError,
};
use axum::{
    Json,
    body::Body,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
};
use futures::{StreamExt, stream};

use super::{
    super::{
        body::JsonBody,
        error::ApiError,
        fields::{self, Fields, FromFields},
        query::QueryOf,
        refusals::{Elsewhere, Invalid, Missing, Refused},
    },
    session::{Session, absolute},
    transfer::{incoming, refused_with},
};
use crate::wire::sandbox::archive::{PackBody, UnpackView, compression_named};

/// The most that an archive may hold when unpacked, in bytes, and the most members it may have.
const MAX_BYTES: u64 = 64 * 1024 * 1024 * 1024;
const MAX_ENTRIES: u64 = 5_000_000;
/// The most changes that are told of one comparison.
const MAX_CHANGES: usize = 10_000;

/// Pack files into a tar archive, as a stream. The answer breaks off when the archive cannot be whole.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/archives/pack/", tag = "sandboxes", operation_id = "pack_files",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")), request_body = PackBody,
    responses(
        (status = 200, description = "The archive.", body = Vec<u8>, content_type = "application/octet-stream"),
        Invalid, Refused, Missing, Elsewhere,
    ),
)]
pub(in crate::server) async fn pack(
    session: Session,
    JsonBody(body): JsonBody<PackBody>,
) -> Result<impl IntoResponse, ApiError> {
    let workplace = session.ready().await?;
    let PackBody { include, exclude, compression } = body;
    let request = PackRequest { include: inside(&workplace.roots, "pack", &include)?, exclude, compression };
    let mut archive = workplace.machine.pack(request).await?;
    // What is wrong with the files shows when they are first read, and then there still is a status to say so.
    let first = archive.next().await.transpose()?;
    let body = Body::from_stream(session.while_read(stream::iter(first.map(Ok)).chain(archive)));
    Ok(([(CONTENT_TYPE, "application/octet-stream")], body))
}

/// Replace what folders hold by the files of a tar archive, in the body. When it fails, they are as they were.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/archives/unpack/", tag = "sandboxes", operation_id = "unpack_files",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("replace" = Vec<String>, Query, description = "A folder whose content is replaced; given once for each. Members \
            are named by their absolute path without the first `/`, and nothing is written elsewhere."),
        ("compression" = Option<String>, Query, description = "How it is compressed: `zstd` unless set, `gzip`, `none`."),
        ("max_bytes" = Option<u64>, Query, description = "The most that it may hold when unpacked; 64 GiB unless set."),
        ("max_entries" = Option<u64>, Query, description = "The most members that it may have; 5,000,000 unless set."),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "They are in place.", body = UnpackView), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn unpack(
    session: Session,
    QueryOf(pairs): QueryOf<Vec<(String, String)>>,
    body: Body,
) -> Result<Json<ArchiveSummary>, ApiError> {
    let workplace = session.ready().await?;
    let terms = Terms(pairs);
    let request = UnpackRequest {
        compression: terms.compression()?,
        replace: inside(&workplace.roots, "restore", &terms.all("replace"))?,
        max_bytes: terms.number("max_bytes")?.unwrap_or(MAX_BYTES),
        max_entries: terms.number("max_entries")?.unwrap_or(MAX_ENTRIES),
    };
    if request.replace.is_empty() {
        return Err(ApiError::field("replace", "Name a folder whose content is replaced."));
    }
    let unpacked = session.during(workplace.machine.unpack(request, incoming(body))).await?;
    unpacked.map(Json).map_err(refused_with)
}

/// Tell how files differ from those of a tar archive, in the body.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/archives/compare/", tag = "sandboxes", operation_id = "compare_files",
    params(
        ("id" = uuid::Uuid, Path, description = "The sandbox."),
        ("include" = Vec<String>, Query, description = "A path that went into it; given once for each."),
        ("exclude" = Option<Vec<String>>, Query, description = "A pattern of what stayed out; given once for each."),
        ("compression" = Option<String>, Query, description = "How it is compressed: `zstd` unless set, `gzip`, `none`."),
        ("limit" = Option<u32>, Query, description = "At most so many differences; 10,000 unless set."),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "`changes`, each with `path`, `change` (`added`, `modified`, `removed`), `old_size` \
            and `new_size`, and whether it was `truncated`.", body = Object),
        Invalid, Refused, Missing, Elsewhere,
    ),
)]
pub(in crate::server) async fn compare(
    session: Session,
    QueryOf(pairs): QueryOf<Vec<(String, String)>>,
    body: Body,
) -> Result<Json<Comparison>, ApiError> {
    let workplace = session.ready().await?;
    let terms = Terms(pairs);
    let include = inside(&workplace.roots, "compare", &terms.all("include"))?;
    let pack = PackRequest { include, exclude: terms.all("exclude"), compression: terms.compression()? };
    let limit = terms.number("limit")?.unwrap_or(MAX_CHANGES).min(MAX_CHANGES);
    let compared = workplace.machine.compare(CompareRequest { pack, limit }, incoming(body));
    session.during(compared).await?.map(Json).map_err(refused_with)
}

/// Replace the files of a sandbox by those of a tar archive, compressed with zstd or gzip, in the body. Its members are
/// named `workspace/…`.
#[utoipa::path(
    post, path = "/api/sandbox/sessions/{id}/restore/archive/", tag = "sandboxes", operation_id = "restore_archive",
    params(("id" = uuid::Uuid, Path, description = "The sandbox.")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204, description = "The files are those of the archive."), Invalid, Refused, Missing, Elsewhere),
)]
pub(in crate::server) async fn restore(session: Session, body: Body) -> Result<StatusCode, ApiError> {
    session.row().await?; // before anything is said of the body
    let restored = session.plane.restore_archive(&session.caller, session.id, incoming(body));
    session.during(restored).await?.map_err(refused_with)?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is asked in a query whose names may come more than once.
struct Terms(Vec<(String, String)>);

impl Terms {
    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }

    fn last(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let number = self.last(name).map(str::parse).transpose();
        number.map_err(|_| ApiError::field(name, "A valid integer is required."))
    }

    fn compression(&self) -> Result<Compression, ApiError> {
        let Some(name) = self.last("compression") else { return Ok(Compression::Zstd) };
        compression_named(name).ok_or_else(|| ApiError::field("compression", "Write zstd, gzip or none."))
    }
}

/// The paths as they are, if each lies where the caller may use files.
fn inside(roots: &Roots, operation: &'static str, paths: &[String]) -> Result<Vec<String>, SessionError> {
    let check = |path: &String| {
        let path = absolute(path);
        let within = |root: &String| {
            let rest = path.strip_prefix(root.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if path.split('/').any(|part| part == "..") || !roots.0.iter().any(within) {
            let reason = format!("only paths below {} may be used", roots.0.join(", "));
            return Err(SessionError::File { operation, path, kind: FileErrorKind::OutsideRoots, reason });
        }
        Ok(path)
    };
    paths.iter().map(check).collect()
}

impl FromFields for PackBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let include = fields.required("include", fields::list(fields::path));
        let exclude = fields.optional("exclude", fields::list(fields::raw)).unwrap_or_default();
        let compression = fields.optional("compression", fields::choice(compression_named));
        Some(Self { include: include?, exclude, compression: compression.unwrap_or(Compression::Zstd) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Option<&str>) {
        let checked = inside(&Roots::default(), "pack", &[path.to_owned()]);
        assert_eq!(checked.ok().and_then(|mut paths| paths.pop()).as_deref(), expected, "{path}");
    }

    #[test]
    fn archives_stay_where_callers_may_use_files() {
        check("/workspace", Some("/workspace"));
        check("/workspace/a b", Some("/workspace/a b"));
        check("src", Some("/workspace/src"));
        check("/tmp/x", Some("/tmp/x"));
        check("/workspaces", None);
        check("/workspace/../etc", None);
        check("../etc", None);
        check("/etc", None);
        check("/", None);
    }
}
