//! Reads Server-Sent Events (WHATWG HTML, section 9.2.6) out of bytes that come in pieces of any size.
//!
//! The well-known parsers on crates.io keep as much of an event as a peer sends; this one has a limit. A block that is cut
//! off counts for nothing.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};

/// A block of a stream that is complete: what stands before an empty line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// The last id of the block. It is never empty.
    pub(crate) id: Option<String>,
    /// The name of the event; empty where none is given.
    pub(crate) event: String,
    /// The data lines, joined by newlines. Without any, the block is no event, and only its id counts.
    pub(crate) data: Option<Vec<u8>>,
}

/// A line or an event is longer than the limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Takes pieces of a stream, and gives its blocks.
#[derive(Debug)]
pub(crate) struct Parser {
    /// The most bytes of a line and of an event.
    limit: usize,
    /// What came and was not looked at yet, from the start of a line on.
    buffer: BytesMut,
    /// So many bytes of it have no line end.
    scanned: usize,
    /// Whether the last line ended with CR at the end of a piece. An LF that follows belongs to it.
    after_cr: bool,
    is_first_line: bool,
    block: Block,
    retry: Option<Duration>,
}

impl Parser {
    /// For a new stream.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            buffer: BytesMut::new(),
            scanned: 0,
            after_cr: false,
            is_first_line: true,
            block: Block::default(),
            retry: None,
        }
    }

    /// Adds the next piece. Take all blocks out before: memory is bounded by the limit and one piece.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// How long the server last asked to wait before the next connection.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// The next block that is complete and has an id or data; `None` if more bytes are needed.
    ///
    /// # Errors
    /// When it is too long. Nothing can be read after that.
    pub(crate) fn next_block(&mut self) -> Result<Option<Block>, TooLong> {
        while let Some(line) = self.next_line()? {
            if !line.is_empty() {
                self.field(&line)?;
                continue;
            }
            let block = std::mem::take(&mut self.block);
            if block.id.is_some() || block.data.is_some() {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// The next line that is complete, without its end: LF, CR or CRLF.
    fn next_line(&mut self) -> Result<Option<BytesMut>, TooLong> {
        if self.after_cr && !self.buffer.is_empty() {
            self.after_cr = false;
            if self.buffer[0] == b'\n' {
                self.buffer.advance(1);
            }
        }
        let rest = &self.buffer[self.scanned..];
        let Some(at) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
            self.scanned = self.buffer.len();
            return if self.scanned > self.limit { Err(TooLong) } else { Ok(None) };
        };
        let mut line = self.buffer.split_to(self.scanned + at);
        self.scanned = 0;
        self.after_cr = self.buffer[0] == b'\r';
        self.buffer.advance(1);
        // A byte order mark counts: it is not known before the line is whole.
        if line.len() > self.limit {
            return Err(TooLong);
        }
        if std::mem::take(&mut self.is_first_line) && line.starts_with(b"\xEF\xBB\xBF") {
            line.advance(3);
        }
        Ok(Some(line))
    }

    fn field(&mut self, line: &[u8]) -> Result<(), TooLong> {
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => return self.data(value),
            b"event" => self.block.event = String::from_utf8_lossy(value).into_owned(),
            // An empty id says that there is no place to go on at, which no reader that has one wants to hear.
            b"id" if !value.contains(&0) && !value.is_empty() => {
                self.block.id = Some(String::from_utf8_lossy(value).into_owned());
            }
            b"retry" if value.iter().all(u8::is_ascii_digit) => {
                let ms = str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
                self.retry = ms.map(Duration::from_millis).or(self.retry);
            }
            // Comments have an empty name. All others are ignored as well.
            _ => {}
        }
        Ok(())
    }

    fn data(&mut self, value: &[u8]) -> Result<(), TooLong> {
        match &mut self.block.data {
            None => self.block.data = Some(value.to_vec()),
            Some(data) if data.len() + value.len() >= self.limit => return Err(TooLong),
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(id: &str, event: &str, data: &str) -> Block {
        let id = (!id.is_empty()).then(|| id.to_owned());
        let data = (data != "-").then(|| data.as_bytes().to_vec());
        Block { id, event: event.to_owned(), data }
    }

    fn read(pieces: &[&[u8]]) -> (Vec<Block>, Option<Duration>) {
        let (mut parser, mut blocks) = (Parser::new(1000), Vec::new());
        for piece in pieces {
            parser.push(piece);
            while let Some(block) = parser.next_block().unwrap() {
                blocks.push(block);
            }
        }
        (blocks, parser.retry())
    }

    const STREAM: &str = "\u{feff}retry: 2500\n\n: a comment\n\nid: 1\ndata: {\"a\":1}\n\n\
                          id:2\nevent: caught_up\ndata\n\nid: 3\n\n\
                          event:x\ndata:  two\ndata: lines\nunknown: x\nretry: 1s\nid: 4\nid: 5\n\n\
                          id: no\0\ndata: z\u{fc}\n\nid:\n\nid: 9\ndata: cut off\n";

    fn expected() -> Vec<Block> {
        vec![
            block("1", "", "{\"a\":1}"),
            block("2", "caught_up", ""),
            block("3", "", "-"),
            block("5", "x", " two\nlines"),
            block("", "", "z\u{fc}"),
        ]
    }

    #[test]
    fn a_stream_reads_the_same_in_pieces_of_any_size_and_with_any_line_end() {
        proptest!(|(ends in prop::collection::vec(prop::sample::select(vec!["\n", "\r", "\r\n"]), 64),
                    sizes in prop::collection::vec(1_usize..9, 1..200))| {
            let mut text = Vec::new();
            for (line, end) in STREAM.split_terminator('\n').zip(&ends) {
                // CR LF is one line end: an empty line after CR cannot end with LF.
                let end = if line.is_empty() && text.last() == Some(&b'\r') && *end == "\n" { "\r\n" } else { end };
                text.extend_from_slice(line.as_bytes());
                text.extend_from_slice(end.as_bytes());
            }
            let (mut pieces, mut rest) = (Vec::new(), &text[..]);
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(rest.len().min(*size));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(read(&pieces), (expected(), Some(Duration::from_millis(2500))));
        });
    }

    #[test]
    fn a_line_or_an_event_beyond_the_limit_is_refused_and_one_at_the_limit_is_not() {
        let after = |pieces: &[&str]| {
            let mut parser = Parser::new(10);
            pieces.iter().try_fold(0, |blocks, piece| {
                parser.push(piece.as_bytes());
                Ok(blocks + usize::from(parser.next_block()?.is_some()))
            })
        };
        assert_eq!(after(&["data:12345\n\n"]), Ok(1));
        assert_eq!(after(&["data:123456\n"]), Err(TooLong));
        assert_eq!(after(&["data:1", "23", "4567"]), Err(TooLong), "before the line ends");
        assert_eq!(after(&["\u{feff}data:12\n\n"]), Ok(1));
        assert_eq!(after(&["\u{feff}data:123\n\n"]), Err(TooLong), "with the byte order mark");
        assert_eq!(after(&["\u{feff}data:123", "\n\n"]), Err(TooLong), "in pieces as well");
        assert_eq!(after(&["data:12345\n", "data:1234\n\n"]), Ok(1), "ten bytes with the newline");
        assert_eq!(after(&["data:12345\n", "data:12345\n"]), Err(TooLong));
    }
}
