//! Pages of lists: `?limit=N&cursor=TEXT`, and headers that say where the next page is.

use astraforge_core::page::{Mark, Page};
use axum::{
    Json,
    extract::FromRequestParts,
    http::{HeaderName, HeaderValue, Uri, header::LINK, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::DateTime;
use serde::{Deserialize, Serialize};
use utoipa::{
    IntoParams,
    openapi::{
        Object, OpenApi, RefOr, Type,
        header::HeaderBuilder,
        path::{Operation, Parameter},
    },
};
use uuid::Uuid;

use super::{AppState, error::ApiError, query::QueryOf};

/// Says where the next page begins.
const NEXT_CURSOR: HeaderName = HeaderName::from_static("x-next-cursor");

/// The most rows of a page.
const MOST: u32 = 500;

/// How many rows a page has when only a cursor is given.
const USUAL: u32 = 100;

/// What is asked for of a list in its query.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it describes what `Paging` reads")]
pub(super) struct PageParams {
    /// At most so many entries; without it, and without a cursor, all of them.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// Where the page begins: `X-Next-Cursor` of the page before.
    #[param(max_length = 32)]
    cursor: Option<String>,
}

/// The same, as it stands in an address.
#[derive(Debug, Deserialize)]
struct Asked {
    limit: Option<String>,
    cursor: Option<String>,
}

/// Which page of a list a caller wants: the whole list, unless they say otherwise.
pub(super) struct Paging {
    pub(super) page: Page,
    uri: Uri,
}

impl Paging {
    /// Whether the whole list is wanted.
    pub(super) fn is_whole(&self) -> bool {
        self.page == Page::ALL
    }

    /// The answer: the page, and where the next one is.
    pub(super) fn answer<T: Serialize>(&self, next: Option<Mark>, body: T) -> Response {
        let Some(mark) = next else { return Json(body).into_response() };
        let cursor = cursor_of(mark);
        let link = HeaderValue::from_str(&format!("<{}>; rel=\"next\"", self.address_of(&cursor)));
        let link = link.ok().map(|link| [(LINK, link)]);
        ([(NEXT_CURSOR, cursor)], link, Json(body)).into_response()
    }

    /// The address of the page of a cursor: this one's, with another cursor.
    fn address_of(&self, cursor: &str) -> String {
        let query = self.uri.query().unwrap_or_default();
        let others: String = query
            .split('&')
            .filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="))
            .map(|pair| format!("{pair}&"))
            .collect();
        format!("{}?{others}cursor={cursor}", self.uri.path())
    }
}

impl FromRequestParts<AppState> for Paging {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let QueryOf(Asked { limit, cursor }) = QueryOf::from_request_parts(parts, state).await?;
        let after = cursor.map(|text| mark_of(&text).ok_or_else(not_a_cursor)).transpose()?;
        let usual = if after.is_some() { USUAL } else { Page::ALL.limit };
        let limit = limit.map_or(Ok(usual), |text| limit_of(&text))?;
        Ok(Self { page: Page { after, limit }, uri: parts.uri.clone() })
    }
}

fn limit_of(text: &str) -> Result<u32, ApiError> {
    let limit: u32 = text.parse().map_err(|_| ApiError::field("limit", "A valid integer is required."))?;
    if (1..=MOST).contains(&limit) {
        return Ok(limit);
    }
    Err(ApiError::field("limit", format!("Ensure this value is between 1 and {MOST}.")))
}

fn not_a_cursor() -> ApiError {
    ApiError::field("cursor", "This is no cursor: take the one that X-Next-Cursor of the page before says.")
}

/// A cursor is the time of the last row and its id, in a form that invites nobody to make one.
fn cursor_of(mark: Mark) -> String {
    let mut bytes = mark.at.timestamp_micros().to_be_bytes().to_vec();
    bytes.extend(mark.id.as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn mark_of(cursor: &str) -> Option<Mark> {
    let bytes: [u8; 24] = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?.try_into().ok()?;
    let (micros, id) = bytes.split_first_chunk()?;
    let at = DateTime::from_timestamp_micros(i64::from_be_bytes(*micros))?;
    Some(Mark { at, id: Uuid::from_slice(id).ok()? })
}

/// Adds the headers of pages to the answers of the operations that have them.
pub(super) fn tell(document: &mut OpenApi) {
    let operations = document.paths.paths.values_mut().filter_map(|item| item.get.as_mut());
    let is_cursor = |parameter: &RefOr<Parameter>| matches!(parameter, RefOr::T(it) if it.name == "cursor");
    // One that has the cursor in its body sends no headers for it.
    let is_paged = |it: &&mut Operation| it.operation_id.as_deref() != Some("list_audit");
    let operations = operations.filter(is_paged);
    for operation in operations.filter(|it| it.parameters.iter().flatten().any(is_cursor)) {
        if let Some(RefOr::T(answer)) = operation.responses.responses.get_mut("200") {
            let text = || Object::with_type(Type::String);
            let header = |words| RefOr::T(HeaderBuilder::new().schema(Some(text())).description(Some(words)).build());
            let link =
                header("The address of the next page, with `rel=\"next\"`; not there when this is the last one.");
            let cursor = header("The `cursor` of the next page; not there when this is the last one.");
            answer.headers.extend([("Link".to_owned(), link), ("X-Next-Cursor".to_owned(), cursor)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use astraforge_core::{page::Listed as _, testing::samples};

    use super::*;

    #[test]
    fn a_cursor_survives_its_text_form() {
        let mark = samples::request().mark();
        let cursor = cursor_of(mark);
        assert_eq!((cursor.len(), mark_of(&cursor)), (32, Some(mark)));
    }

    #[test]
    fn what_is_no_cursor_is_none() {
        let far = BASE64_URL_SAFE_NO_PAD.encode([0x7f; 24]);
        for text in
            ["", "x", "AAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "ä", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", &far]
        {
            assert_eq!(mark_of(text), None, "{text}");
        }
    }

    #[track_caller]
    fn check(uri: &'static str, address: &str) {
        let paging = Paging { page: Page::first(1), uri: Uri::from_static(uri) };
        assert_eq!(paging.address_of("NEXT"), address);
    }

    #[test]
    fn the_next_page_is_asked_for_as_this_one_was() {
        check("/api/runs/?limit=2", "/api/runs/?limit=2&cursor=NEXT");
        check("/api/runs/?cursor=LAST&limit=2", "/api/runs/?limit=2&cursor=NEXT");
        check("/api/requests/?limit=2&&state=DONE&cursor=LAST", "/api/requests/?limit=2&state=DONE&cursor=NEXT");
    }
}
