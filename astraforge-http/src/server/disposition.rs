//! `Content-Disposition`: a file's name, said so that no browser takes it for anything else (RFC 6266).

use std::fmt::Write as _;

/// The longest name that is offered, in characters.
const MAX_NAME: usize = 255;

/// Returns the value of the header that offers a download under `filename`, whatever it holds: a name in ASCII for all,
/// and the name as it is for those who know RFC 8187. It has no line breaks and no folders.
pub(super) fn attachment(filename: &str) -> String {
    let name: String = filename.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default().trim();
    let name = if name.trim_matches('.').is_empty() { "download" } else { name };
    let plain = |c: char| c.is_ascii_alphanumeric() || " !#$&+-.^_`|~()[]{}=,@".contains(c);
    let fallback: String = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    let mut value = format!("attachment; filename=\"{fallback}\"");
    if fallback != name {
        value.push_str("; filename*=UTF-8''");
        for byte in name.bytes() {
            // `attr-char` of RFC 8187.
            if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
                value.push(char::from(byte));
            } else {
                let _ = write!(value, "%{byte:02X}");
            }
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(filename: &str, value: &str) {
        assert_eq!(attachment(filename), value);
        assert!(axum::http::HeaderValue::from_str(value).is_ok());
    }

    #[test]
    fn a_name_is_offered_to_old_and_new() {
        check("report.pdf", "attachment; filename=\"report.pdf\"");
        check("my report.pdf", "attachment; filename=\"my report.pdf\"");
        check("r\u{e9}sum\u{e9}.txt", "attachment; filename=\"r_sum_.txt\"; filename*=UTF-8''r%C3%A9sum%C3%A9.txt");
        check("a\"b;c.txt", "attachment; filename=\"a_b_c.txt\"; filename*=UTF-8''a%22b%3Bc.txt");
        check("50%.txt", "attachment; filename=\"50_.txt\"; filename*=UTF-8''50%25.txt");
    }

    #[test]
    fn no_name_breaks_out() {
        check("a\r\nSet-Cookie: x", "attachment; filename=\"aSet-Cookie_ x\"; filename*=UTF-8''aSet-Cookie%3A%20x");
        check("../../etc/passwd", "attachment; filename=\"passwd\"");
        check("C:\\x\\y.txt", "attachment; filename=\"y.txt\"");
        for name in ["", "..", "a/..", "\n", "/", "a/"] {
            check(name, "attachment; filename=\"download\"");
        }
        assert!(attachment(&"\u{1f600}".repeat(1000)).len() < 255 * 13 + 60);
    }
}
