//! Things that are wrong: all counted, the first few told.

/// How many are told.
const EXAMPLES: usize = 5;

/// A count with its first examples.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    count: u64,
    examples: Vec<String>,
}

impl Findings {
    /// Counts one; the words for it are only made while they are wanted.
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
