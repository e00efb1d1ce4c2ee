//! Things that are wrong: all are counted, and the first few are shown.

/// How many are shown.
const EXAMPLES: usize = 5;

/// A count with its first examples.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    count: u64,
    examples: Vec<String>,
}

impl Findings {
    /// Counts one. The message is built only for the first few.
    pub fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first of them.
    #[must_use]
    pub fn examples(&self) -> &[String] {
        &self.examples
    }
}
