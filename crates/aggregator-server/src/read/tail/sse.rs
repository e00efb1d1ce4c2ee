//! The text of Server-Sent Events.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};

/// Frames to be sent, in a row.
pub(super) struct Frames(BytesMut);

impl Frames {
    pub(super) fn new() -> Self {
        Self(BytesMut::new())
    }

    /// How long the client waits before it connects again.
    pub(super) fn retry(&mut self, after: Duration) -> &mut Self {
        self.put(&format!("retry: {}\n\n", after.as_millis()));
        self
    }

    /// Where the client stands. Without data it is no event to it.
    pub(super) fn position(&mut self, cursor: &str) {
        self.put(&format!("id: {cursor}\n\n"));
    }

    /// An event, as one line of JSON, and the cursor after it.
    pub(super) fn event(&mut self, cursor: &str, json: &[u8]) {
        self.put(&format!("id: {cursor}\ndata: "));
        self.0.put_slice(json);
        self.put("\n\n");
    }

    /// The client has read everything that was stored.
    pub(super) fn caught_up(&mut self, cursor: &str) {
        self.put(&format!("id: {cursor}\nevent: caught_up\ndata: {{\"next\":\"{cursor}\"}}\n\n"));
    }

    /// Retention removed events that the client has not read. It goes on at `oldest`.
    pub(super) fn gap(&mut self, oldest: &str) {
        self.put(&format!(
            "id: {oldest}\nevent: gap\ndata: {{\"type\":\"urn:aggregator:problem:cursor-expired\",\
             \"oldest\":\"{oldest}\"}}\n\n"
        ));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is to be sent, and forgets it.
    pub(super) fn take(&mut self) -> Bytes {
        // Not `split`: an idle stream must not keep the memory of its largest piece.
        std::mem::take(&mut self.0).freeze()
    }

    fn put(&mut self, text: &str) {
        self.0.put_slice(text.as_bytes());
    }
}
