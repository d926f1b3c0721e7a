//! Paths as a diff writes them: with `a/` and `b/` before them, and quoted where they hold odd bytes.

/// Reads the path of a `---` or `+++` line; `None` for `/dev/null`.
pub(super) fn of_side(text: &str) -> Option<String> {
    // Git ends a path with blanks in a tab, so that patch knows where it ends.
    let text = text.strip_suffix('\t').unwrap_or(text);
    let path = unquoted(text);
    (path != "/dev/null").then(|| without_side(&path))
}

/// Reads both paths of a `diff --git` line.
///
/// Unquoted paths with blanks make it ambiguous; then both are taken to be the same, as they are wherever the
/// other lines do not name them.
pub(super) fn of_both(names: &str) -> (String, String) {
    let split = match names.strip_prefix('"').and_then(end_of_quoted) {
        Some(end) => Some(end + 2),
        None => same_halves(names).or_else(|| names.find(" \"")).or_else(|| names.find(" b/")),
    };
    let (old, new) = split.and_then(|at| names.split_at_checked(at)).unwrap_or((names, names));
    (without_side(&unquoted(old)), without_side(&unquoted(new.strip_prefix(' ').unwrap_or(new))))
}

/// Takes the quotes off a path, and reads its escapes as C does.
pub(super) fn unquoted(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else { return text.to_owned() };
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.bytes().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(digit @ b'0'..=b'7') => {
                let mut value = u32::from(digit - b'0');
                for _ in 0..2 {
                    if let Some(digit) = rest.next_if(|byte| matches!(byte, b'0'..=b'7')) {
                        value = value * 8 + u32::from(digit - b'0');
                    }
                }
                bytes.push((value & 0xff) as u8);
            }
            Some(escape) => bytes.push(escaped(escape)),
            None => bytes.push(b'\\'),
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn escaped(byte: u8) -> u8 {
    match byte {
        b'a' => 0x07,
        b'b' => 0x08,
        b't' => b'\t',
        b'n' => b'\n',
        b'v' => 0x0b,
        b'f' => 0x0c,
        b'r' => b'\r',
        other => other,
    }
}

fn without_side(path: &str) -> String {
    path.strip_prefix("a/").or_else(|| path.strip_prefix("b/")).unwrap_or(path).to_owned()
}

/// Finds the closing quote in what follows an opening one.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    })
}

/// Finds the blank in the middle of `a/PATH b/PATH`.
fn same_halves(names: &str) -> Option<usize> {
    let middle = names.len() / 2;
    let (old, new) = (names.get(..middle)?, names.get(middle..)?.strip_prefix(' ')?);
    (old.strip_prefix("a/")? == new.strip_prefix("b/")?).then_some(middle)
}
