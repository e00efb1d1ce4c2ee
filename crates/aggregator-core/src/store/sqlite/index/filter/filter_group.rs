//! What is asked at once: the maplets of a run, or of several runs of a level.

use std::sync::Arc;

use super::bloom::Bloom;
use super::maplet::{Maplet, Spot, TOGETHER};
use crate::store::sqlite::index::layout;
use crate::store::sqlite::index::run::Run;
use crate::store::sqlite::index::run::section::Section;

/// What is in memory of all runs.
#[derive(Clone, Default)]
pub(crate) struct Runs {
    pub(crate) runs: Vec<Run>,
    /// What a run has of a part of the range is in one of them. Those of a level are in the order of its runs, but for
    /// what is being put together: that comes last.
    pub(crate) units: Vec<FilterGroup>,
}

#[derive(Clone)]
pub(crate) struct FilterGroup {
    /// By their tags.
    pub(crate) members: Vec<u32>,
    /// It has 2^`bits` maplets.
    pub(crate) bits: u32,
    /// As many as there are yet. None where nobody is to ask, since another unit has what was there.
    pub(crate) maplets: Vec<Option<Maplet>>,
    /// All that its runs have is in this one, too, and all that is still to come to them.
    pub(crate) bloom: Option<Arc<Bloom>>,
}

/// Units that are in the same Bloom filter, or in none.
pub(crate) struct Group<'r>(&'r [FilterGroup]);

/// A fingerprint and what it is the position of.
pub(crate) type Asked = (usize, u64);

impl Runs {
    pub(crate) fn get(&self, id: u32) -> Option<&Run> {
        self.runs.iter().find(|run| run.id == id)
    }

    /// Adds a run, as much as there is of it.
    pub(crate) fn push(&mut self, run: Run, maplets: Vec<Option<Maplet>>, bloom: Option<Arc<Bloom>>) {
        self.units.push(FilterGroup { members: vec![run.id], bits: run.bits, maplets, bloom });
        self.runs.push(run);
    }

    /// The newest first, which has what repeats lately; neighbours together that are in the same Bloom filter.
    pub(crate) fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.units.chunk_by(|a, b| same(a.bloom.as_ref(), b.bloom.as_ref())).rev().map(Group)
    }

    /// The Bloom filter that all of these runs are in.
    pub(crate) fn bloom_of(&self, ids: &[u32]) -> Option<Arc<Bloom>> {
        let of_ids = |unit: &&FilterGroup| unit.members.iter().any(|id| ids.contains(id));
        let units: Vec<&FilterGroup> = self.units.iter().filter(of_ids).collect();
        let first = units.first()?.bloom.as_ref()?;
        let all_are_there = ids.iter().all(|id| units.iter().any(|unit| unit.members.contains(id)));
        let in_one = units.iter().all(|unit| same(Some(first), unit.bloom.as_ref()));
        (all_are_there && in_one).then(|| Arc::clone(first))
    }

    /// Tells `found` which of the fingerprints a run of these units may have, and which run; of those that it answers for.
    ///
    /// All units at once: where few are asked for, one unit's alone would not keep the memory busy.
    #[inline]
    pub(crate) fn ask<'r>(
        &'r self,
        units: impl Iterator<Item = &'r FilterGroup>,
        asked: &[Asked],
        mut found: impl FnMut(Asked, &Run),
    ) {
        if asked.is_empty() {
            return;
        }
        let mut look = |spots: &mut Vec<((Asked, &FilterGroup), Spot<'_>)>| {
            Spot::look(spots, |(asked, unit), tags| self.tell(unit, asked, tags, &mut found));
            spots.clear();
        };
        let mut spots = Vec::with_capacity(TOGETHER);
        for unit in units {
            for &asked in asked {
                let Some(spot) = unit.spot(asked.1) else { continue };
                spots.push(((asked, unit), spot));
                if spots.len() == TOGETHER {
                    look(&mut spots);
                }
            }
        }
        look(&mut spots);
    }

    /// Tells `found` of the unit's runs with these tags, of those that answer for the fingerprint.
    fn tell(&self, unit: &FilterGroup, asked: Asked, tags: u32, found: &mut impl FnMut(Asked, &Run)) {
        for (tag, &id) in unit.members.iter().enumerate() {
            if tags >> tag & 1 == 1
                && let Some(run) = self.get(id)
                && asked.1 >= run.from
            {
                found(asked, run);
            }
        }
    }

    /// Adds sections of a run that is not yet in a unit with others.
    pub(crate) fn extend(&mut self, id: u32, sections: impl Iterator<Item = (Section, Maplet)>) {
        let run = self.runs.iter_mut().find(|run| run.id == id).expect("it was added before");
        let unit = self.units.iter_mut().find(|unit| unit.members == [id]).expect("it is not complete");
        for (section, maplet) in sections {
            run.sections.push(Some(section));
            unit.maplets.push(Some(maplet));
        }
    }

    /// Forgets what no run answers for any more, given where the runs now begin to.
    pub(crate) fn advance(&mut self, from: impl Fn(u32) -> Option<u64>) {
        self.runs.retain_mut(|run| match from(run.id) {
            Some(from) => {
                run.advance(from);
                true
            }
            None => false,
        });
        let Self { runs, units } = self;
        units.retain_mut(|unit| {
            let of_members = runs.iter().filter(|run| unit.members.contains(&run.id));
            match of_members.map(|run| run.from).min() {
                Some(from) => {
                    unit.advance(from);
                    true
                }
                None => false,
            }
        });
    }
}

impl<'r> Group<'r> {
    /// The newest first.
    pub(crate) fn units(&self) -> impl Iterator<Item = &'r FilterGroup> + use<'r> {
        self.0.iter().rev()
    }

    /// Which of the fingerprints it is of use to ask them for.
    pub(crate) fn admitted(&self, asked: &[Asked]) -> Vec<Asked> {
        let bloom = self.0.first().and_then(|unit| unit.bloom.as_ref());
        bloom.map_or_else(|| asked.to_vec(), |bloom| bloom.admitted(asked))
    }
}

/// Whether both are the same one, or none.
fn same(a: Option<&Arc<Bloom>>, b: Option<&Arc<Bloom>>) -> bool {
    a.map(Arc::as_ptr) == b.map(Arc::as_ptr)
}

impl FilterGroup {
    #[inline]
    fn spot(&self, fingerprint: u64) -> Option<Spot<'_>> {
        let maplet = self.maplets.get(layout::passed(self.bits, fingerprint) as usize)?.as_ref()?;
        Some(maplet.spot(layout::fraction(self.bits, fingerprint)))
    }

    /// Whether one of its runs may have the fingerprint.
    pub(crate) fn admits(&self, fingerprint: u64) -> bool {
        let mut admits = false;
        let spot = self.spot(fingerprint).map(|spot| ((), spot));
        Spot::look(spot.as_slice(), |(), _| admits = true);
        admits
    }

    fn advance(&mut self, from: u64) {
        let passed = layout::passed(self.bits, from) as usize;
        let passed = passed.min(self.maplets.len());
        self.maplets[..passed].fill(None);
    }
}
