//! Where a browser goes once it is logged in: a path of this server, and nothing that another place can be made of.

use axum::http::{Uri, uri::PathAndQuery};

use super::super::error::ApiError;

/// The longest that is taken, in bytes: it travels in a cookie.
const LONGEST: usize = 1024;

/// A path of this server, with a query.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next(String);

impl Next {
    /// Reads one; `/` is where nothing is said.
    pub(super) fn read(text: Option<&str>) -> Result<Self, ApiError> {
        let text = text.unwrap_or("/");
        let refused = || ApiError::field("next", "Enter a path of this server, such as /requests.");
        // Two slashes lead to another host, and browsers take a backslash for a slash, and leave out line breaks.
        let is_plain = text.bytes().all(|c| c.is_ascii_graphic() && c != b'\\' && c != b'#');
        let is_path = text.starts_with('/') && !text.starts_with("//") && text.len() <= LONGEST && is_plain;
        let parsed = text.parse::<Uri>().ok().filter(|_| is_path).ok_or_else(refused)?;
        let is_relative = parsed.host().is_none() && parsed.path_and_query().map(PathAndQuery::as_str) == Some(text);
        if is_relative { Ok(Self(text.to_owned())) } else { Err(refused()) }
    }
}

impl From<Next> for String {
    fn from(next: Next) -> Self {
        next.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_ends_on_this_server() {
        for fine in ["/", "/requests", "/requests?state=open&next=http://x", "/a/../b", "/%2F%2Fevil.example"] {
            assert_eq!(Next::read(Some(fine)).unwrap().0, fine);
        }
        assert_eq!(Next::read(None).unwrap().0, "/");
        let long = format!("/{}", "x".repeat(LONGEST));
        for elsewhere in [
            "",
            "requests",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/\t/evil.example",
            "/\n/evil.example",
            " /x",
            "/x\r\nset-cookie: a=b",
            "https://evil.example/",
            "https:evil.example",
            "javascript:alert(1)",
            "/#x",
            "/\u{fc}",
            &long,
        ] {
            assert!(Next::read(Some(elsewhere)).is_err(), "{elsewhere:?}");
        }
    }
}
