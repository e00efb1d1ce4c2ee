//! A set of page numbers: a bit each, because all pages of a large file may be in it.

#[derive(Default)]
pub(crate) struct PageSet {
    words: Vec<u64>,
    count: u64,
    /// Where to look for the next one, so that pages are taken round and round.
    next: usize,
}

impl PageSet {
    /// Returns whether the page is new in the set.
    pub(crate) fn insert(&mut self, page: u32) -> bool {
        let (word, bit) = place(page);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.count += u64::from(is_new);
        self.words[word] |= bit;
        is_new
    }

    pub(crate) fn remove(&mut self, page: u32) {
        let (word, bit) = place(page);
        if self.contains(page) {
            self.words[word] &= !bit;
            self.count -= 1;
        }
    }

    pub(crate) fn contains(&self, page: u32) -> bool {
        let (word, bit) = place(page);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        while self.words.get(self.next).is_none_or(|&word| word == 0) {
            self.next = if self.next < self.words.len() { self.next + 1 } else { 0 };
        }
        let bit = self.words[self.next].trailing_zeros();
        self.words[self.next] &= !(1 << bit);
        self.count -= 1;
        u32::try_from(self.next * 64).ok().map(|first| first + bit)
    }
}

fn place(page: u32) -> (usize, u64) {
    (page as usize / 64, 1 << (page % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_page_is_taken_once_for_each_time_that_it_has_changed() {
        let mut set = PageSet::default();
        let pages = [1, 63, 64, 65, 1_000, 4_294_967];
        for &page in pages.iter().chain(&pages) {
            set.insert(page);
        }
        assert_eq!(set.count(), 6);
        assert_eq!(set.take(), Some(1));
        // Behind the place where the set goes on, and before it.
        for page in [1, 64] {
            set.insert(page);
        }
        let rest: Vec<_> = std::iter::from_fn(|| set.take()).collect();
        assert_eq!(rest.len(), 6);
        assert_eq!(rest.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(pages));
        assert_eq!((set.count(), set.take()), (0, None));
        assert!(set.insert(7) && !set.insert(7) && set.contains(7) && !set.contains(8));
        set.remove(8);
        assert_eq!(set.take(), Some(7));
        set.insert(7);
        set.remove(7);
        assert_eq!((set.count(), set.contains(7), set.take()), (0, false, None));
    }
}
