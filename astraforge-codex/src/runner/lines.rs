//! Lines out of bytes that come in arbitrary chunks, in bounded memory.

/// Splits bytes into lines. Of a line that is too long only its beginning is kept.
#[derive(Debug)]
pub(super) struct Lines {
    line: Vec<u8>,
    left_out: usize,
    longest: usize,
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The line, without its line break.
    pub(super) bytes: Vec<u8>,
    /// How many bytes of it were left out.
    pub(super) left_out: usize,
}

impl Line {
    /// The line as text.
    pub(super) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        match self.left_out {
            0 => text.into_owned(),
            n => format!("{text} … [{n} bytes left out]"),
        }
    }
}

impl Lines {
    pub(super) fn new(longest: usize) -> Self {
        Self { line: Vec::new(), left_out: 0, longest }
    }

    /// Reads a chunk and returns the lines that it ends.
    pub(super) fn push(&mut self, mut chunk: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        while let Some(end) = chunk.iter().position(|b| *b == b'\n') {
            self.extend(&chunk[..end]);
            lines.extend(self.take());
            chunk = &chunk[end + 1..];
        }
        self.extend(chunk);
        lines
    }

    /// Returns the last line, if it had no line break.
    pub(super) fn end(&mut self) -> Option<Line> {
        (!self.line.is_empty() || self.left_out > 0).then(|| self.take()).flatten()
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = self.longest.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.left_out += bytes.len().saturating_sub(room);
    }

    fn take(&mut self) -> Option<Line> {
        let mut bytes = std::mem::take(&mut self.line);
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        Some(Line { bytes, left_out: std::mem::take(&mut self.left_out) })
    }
}

/// Keeps the end of what is written to it.
#[derive(Debug)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    longest: usize,
    cut: bool,
}

impl Tail {
    pub(super) fn new(longest: usize) -> Self {
        Self { bytes: Vec::new(), longest, cut: false }
    }

    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(&chunk[chunk.len().saturating_sub(self.longest)..]);
        if self.bytes.len() > self.longest || chunk.len() > self.longest {
            let excess = self.bytes.len().saturating_sub(self.longest);
            self.bytes.drain(..excess);
            self.cut = true;
        }
    }

    /// The end as text. It begins with a whole line if it can, so that no secret is cut in half.
    pub(super) fn text(&self) -> String {
        let start = match self.bytes.iter().position(|b| *b == b'\n') {
            Some(end) if self.cut => end + 1,
            _ => 0,
        };
        String::from_utf8_lossy(&self.bytes[start..]).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(chunks: &[&str], expected: &[&str]) {
        let mut lines = Lines::new(5);
        let mut seen: Vec<_> = chunks.iter().flat_map(|chunk| lines.push(chunk.as_bytes())).collect();
        seen.extend(lines.end());
        assert_eq!(seen.iter().map(Line::text).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn lines_are_found_wherever_the_chunks_are_cut() {
        check(&["ab\ncd\n"], &["ab", "cd"]);
        check(&["a", "b\r", "\n\nc"], &["ab", "", "c"]);
        check(&["abcdefgh\nx"], &["abcde … [3 bytes left out]", "x"]);
        check(&[], &[]);
    }

    #[test]
    fn a_tail_keeps_whole_lines_of_the_end() {
        let mut tail = Tail::new(10);
        tail.push(b"first\nsec");
        tail.push(b"ond\nthird\n");
        assert_eq!(tail.text(), "third");
        let mut tail = Tail::new(10);
        tail.push(b"one\ntwo\n");
        assert_eq!(tail.text(), "one\ntwo");
    }
}
