//! Filter groups: the maplets of one run, or of several runs of a level, that are looked up together.

use std::sync::Arc;

use super::bloom::Bloom;
use super::maplet::{MAX_SLOTS, Maplet, SlotRef};
use crate::store::sqlite::index::layout;
use crate::store::sqlite::index::run::Run;
use crate::store::sqlite::index::run::section::Section;

/// All runs, as far as they are in memory.
#[derive(Clone, Default)]
pub(crate) struct Runs {
    pub(crate) runs: Vec<Run>,
    /// One of these groups answers for each part of a run's range. The groups of a level are in the order of its runs,
    /// except for a group that is being put together from two others: it comes last.
    pub(crate) filter_groups: Vec<FilterGroup>,
}

#[derive(Clone)]
pub(crate) struct FilterGroup {
    /// The ids of the runs; the index is the tag of the run.
    pub(crate) members: Vec<u32>,
    /// The group has 2^`bits` maplets.
    pub(crate) bits: u32,
    /// As many as there are yet. `None` where another group, or a newer run, answers instead.
    pub(crate) maplets: Vec<Option<Maplet>>,
    /// A Bloom filter that has all entries of these runs, also those that will still be added to the runs.
    pub(crate) bloom: Option<Arc<Bloom>>,
}

/// Neighbouring filter groups that are in the same Bloom filter, or in none.
pub(crate) struct BloomGroup<'r>(&'r [FilterGroup]);

/// A fingerprint, behind the index of its probe.
pub(crate) type PositionedFingerprint = (usize, u64);

impl Runs {
    pub(crate) fn get(&self, id: u32) -> Option<&Run> {
        self.runs.iter().find(|run| run.id == id)
    }

    /// Bytes of memory: filters, and the fences of the sections.
    pub(crate) fn bytes(&self) -> usize {
        let maplets = self.filter_groups.iter().flat_map(|group| group.maplets.iter().flatten());
        let sections = self.runs.iter().flat_map(|run| run.sections.iter().flatten());
        // A Bloom filter is of neighbouring groups.
        let blooms = self.bloom_groups().filter_map(|group| group.0.first()?.bloom.as_ref());
        let blooms: usize = blooms.map(|bloom| bloom.bytes()).sum();
        maplets.map(Maplet::bytes).sum::<usize>() + sections.map(Section::fence_bytes).sum::<usize>() + blooms
    }

    /// Adds a run with the sections it has so far.
    pub(crate) fn push(&mut self, run: Run, maplets: Vec<Option<Maplet>>, bloom: Option<Arc<Bloom>>) {
        self.filter_groups.push(FilterGroup { members: vec![run.id], bits: run.bits, maplets, bloom });
        self.runs.push(run);
    }

    /// The newest runs first, because they have the most repeats.
    pub(crate) fn bloom_groups(&self) -> impl Iterator<Item = BloomGroup<'_>> {
        let in_one_bloom = |a: &FilterGroup, b: &FilterGroup| is_same(a.bloom.as_ref(), b.bloom.as_ref());
        self.filter_groups.chunk_by(in_one_bloom).rev().map(BloomGroup)
    }

    /// The Bloom filter that has all of these runs.
    pub(crate) fn bloom_of(&self, ids: &[u32]) -> Option<Arc<Bloom>> {
        let of_ids = |group: &&FilterGroup| group.members.iter().any(|id| ids.contains(id));
        let groups: Vec<&FilterGroup> = self.filter_groups.iter().filter(of_ids).collect();
        let first = groups.first()?.bloom.as_ref()?;
        let all_are_there = ids.iter().all(|id| groups.iter().any(|group| group.members.contains(id)));
        let in_one = groups.iter().all(|group| is_same(Some(first), group.bloom.as_ref()));
        (all_are_there && in_one).then(|| Arc::clone(first))
    }

    /// Calls `found` with each fingerprint and each run of these groups that may have it and answers for it.
    ///
    /// All groups are looked up together: if there are few fingerprints, those of one group would not keep the memory
    /// busy.
    #[inline]
    pub(crate) fn lookup<'r>(
        &'r self,
        groups: impl Iterator<Item = &'r FilterGroup>,
        fingerprints: &[PositionedFingerprint],
        mut found: impl FnMut(PositionedFingerprint, &Run),
    ) {
        if fingerprints.is_empty() {
            return;
        }
        let mut look = |slots: &mut Vec<((PositionedFingerprint, &FilterGroup), SlotRef<'_>)>| {
            SlotRef::lookup(slots, |(fingerprint, group), tags| {
                self.report(group, fingerprint, tags, &mut found);
            });
            slots.clear();
        };
        let mut slots = Vec::with_capacity(MAX_SLOTS);
        for group in groups {
            for &fingerprint in fingerprints {
                let Some(slot) = group.slot(fingerprint.1) else { continue };
                slots.push(((fingerprint, group), slot));
                if slots.len() == MAX_SLOTS {
                    look(&mut slots);
                }
            }
        }
        look(&mut slots);
    }

    /// Calls `found` for the runs with these tags, if they answer for the fingerprint.
    fn report(
        &self,
        group: &FilterGroup,
        fingerprint: PositionedFingerprint,
        tags: u32,
        found: &mut impl FnMut(PositionedFingerprint, &Run),
    ) {
        for (tag, &id) in group.members.iter().enumerate() {
            if tags >> tag & 1 == 1
                && let Some(run) = self.get(id)
                && fingerprint.1 >= run.answers_from
            {
                found(fingerprint, run);
            }
        }
    }

    /// Adds sections to a run that still has a filter group of its own.
    pub(crate) fn extend(&mut self, id: u32, sections: impl Iterator<Item = (Section, Maplet)>) {
        let run = self.runs.iter_mut().find(|run| run.id == id).expect("it was added before");
        let group = self.filter_groups.iter_mut().find(|group| group.members == [id]);
        let group = group.expect("only complete runs share a group");
        for (section, maplet) in sections {
            run.sections.push(Some(section));
            group.maplets.push(Some(maplet));
        }
    }

    /// Drops what no run answers for any more. `answers_from` says where a run begins to answer; `None` if the run is gone.
    pub(crate) fn advance(&mut self, answers_from: impl Fn(u32) -> Option<u64>) {
        self.runs.retain_mut(|run| match answers_from(run.id) {
            Some(answers_from) => {
                run.advance(answers_from);
                true
            }
            None => false,
        });
        let Self { runs, filter_groups } = self;
        filter_groups.retain_mut(|group| {
            let of_members = runs.iter().filter(|run| group.members.contains(&run.id));
            match of_members.map(|run| run.answers_from).min() {
                Some(answers_from) => {
                    group.advance(answers_from);
                    true
                }
                None => false,
            }
        });
    }
}

impl<'r> BloomGroup<'r> {
    /// The newest group first.
    pub(crate) fn filter_groups(&self) -> impl Iterator<Item = &'r FilterGroup> + use<'r> {
        self.0.iter().rev()
    }

    /// The fingerprints that the Bloom filter admits; all of them if there is no Bloom filter.
    pub(crate) fn admitted(&self, fingerprints: &[PositionedFingerprint]) -> Vec<PositionedFingerprint> {
        let bloom = self.0.first().and_then(|group| group.bloom.as_ref());
        bloom.map_or_else(|| fingerprints.to_vec(), |bloom| bloom.admitted(fingerprints))
    }
}

/// Whether both are the same filter, or both are none.
fn is_same(a: Option<&Arc<Bloom>>, b: Option<&Arc<Bloom>>) -> bool {
    a.map(Arc::as_ptr) == b.map(Arc::as_ptr)
}

impl FilterGroup {
    #[inline]
    fn slot(&self, fingerprint: u64) -> Option<SlotRef<'_>> {
        let maplet = self.maplets.get(layout::section_number(self.bits, fingerprint) as usize)?.as_ref()?;
        Some(maplet.slot(layout::fraction(self.bits, fingerprint)))
    }

    /// Whether one of its runs may have the fingerprint.
    pub(crate) fn admits(&self, fingerprint: u64) -> bool {
        let mut admits = false;
        let slot = self.slot(fingerprint).map(|slot| ((), slot));
        SlotRef::lookup(slot.as_slice(), |(), _| admits = true);
        admits
    }

    fn advance(&mut self, answers_from: u64) {
        let passed = layout::section_number(self.bits, answers_from) as usize;
        let passed = passed.min(self.maplets.len());
        self.maplets[..passed].fill(None);
    }
}
