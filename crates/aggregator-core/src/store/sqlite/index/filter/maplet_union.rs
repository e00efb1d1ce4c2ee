//! Unites the maplets of a level's runs, so that one lookup answers for several runs: first groups of one run and one,
//! then groups of two and two.
//!
//! Runs in a Bloom filter are left out: their maplets are looked up so seldom that uniting them costs more than it saves.
//!
//! This changes memory alone. The file has the maplets of each run, and a start begins with those. Two groups are united
//! one pair of maplets at a time: the new group answers for the united pairs, the two old groups for the others.

use super::filter_group::{FilterGroup, Runs};
use super::maplet::{MAX_RUNS, Maplet};
use crate::store::sqlite::index::manifest::{Manifest, RunEntry};

/// A task: to unite the maplets that two groups have for the same range.
pub(crate) struct MapletUnion {
    ours: Vec<u32>,
    theirs: Vec<u32>,
    maplets: [Maplet; 2],
}

/// The result: two maplets, each for half of the range and for the runs of both groups.
pub(crate) struct UnitedMaplets {
    ours: Vec<u32>,
    theirs: Vec<u32>,
    maplets: [Maplet; 2],
}

impl MapletUnion {
    pub(crate) fn run(self) -> UnitedMaplets {
        let [ours, theirs] = &self.maplets;
        let maplets = ours.unite(theirs);
        UnitedMaplets { ours: self.ours, theirs: self.theirs, maplets }
    }
}

/// The next maplets to unite. Runs that are being merged are left out, and runs of two different merges are not united.
pub(crate) fn next(runs: &Runs, manifest: &Manifest, fan_out: usize) -> Option<MapletUnion> {
    let levels = manifest.runs.iter().map(|run| run.level).max()?;
    (0..=levels).find_map(|level| {
        let is_complete = |run: &&RunEntry| {
            run.level == level && run.written == run.sections() && manifest.merge_target(run.id).is_none()
        };
        let ids: Vec<u32> = manifest.runs.iter().filter(is_complete).map(|run| run.id).collect();
        ids.chunks(fan_out)
            .flat_map(|of_merge| of_merge.chunks(MAX_RUNS as usize))
            .find_map(|ids| next_pair(runs, &groups_of(runs, ids)))
    })
}

/// The filter groups of these runs, in their order, without a group that is still being put together.
fn groups_of<'r>(runs: &'r Runs, ids: &[u32]) -> Vec<&'r FilterGroup> {
    let smallest = |id: &u32| {
        let groups = runs.filter_groups.iter().filter(|group| group.members.first() == Some(id));
        groups.min_by_key(|group| group.members.len())
    };
    ids.iter().filter_map(smallest).collect()
}

fn next_pair(runs: &Runs, groups: &[&FilterGroup]) -> Option<MapletUnion> {
    groups.windows(2).find_map(|pair| {
        let (ours, theirs) = (&pair[0], &pair[1]);
        let alike = ours.members.len() == theirs.members.len() && ours.bits == theirs.bits;
        if !alike || ours.bloom.is_some() || theirs.bloom.is_some() {
            return None;
        }
        let members = [&ours.members[..], &theirs.members].concat();
        let united = runs.filter_groups.iter().find(|group| group.members == members);
        let done = united.map_or(0, |group| group.maplets.len() / 2);
        let maplets = [ours.maplets.get(done)?.clone()?, theirs.maplets.get(done)?.clone()?];
        let can_unite = maplets[0].can_unite(&maplets[1]);
        can_unite.then(|| MapletUnion { ours: ours.members.clone(), theirs: theirs.members.clone(), maplets })
    })
}

impl Runs {
    /// Moves the united maplets to the new group, and drops them in the two old groups. Does nothing if a merge has
    /// removed one of these meanwhile.
    pub(crate) fn apply_union(&mut self, UnitedMaplets { ours, theirs, maplets }: UnitedMaplets) {
        let members = [&ours[..], &theirs].concat();
        let index_of = |groups: &[FilterGroup], members: &[u32]| {
            groups.iter().position(|group| group.members == members)
        };
        let groups = &mut self.filter_groups;
        let (Some(first), Some(second)) = (index_of(groups, &ours), index_of(groups, &theirs)) else {
            return;
        };
        debug_assert!([first, second].iter().all(|&group| groups[group].bloom.is_none()));
        let united = index_of(groups, &members).unwrap_or_else(|| {
            // Each pair of maplets becomes two, so the group has twice as many as one of the old groups.
            let bits = groups[first].bits + 1;
            groups.push(FilterGroup { members, bits, maplets: Vec::new(), bloom: None });
            groups.len() - 1
        });
        let done = groups[united].maplets.len() / 2;
        groups[united].maplets.extend(maplets.map(Some));
        for old in [first, second] {
            groups[old].maplets[done] = None;
        }
        if done + 1 == groups[first].maplets.len() {
            // The new group is complete: it takes the place of the two.
            let united = groups.remove(united);
            groups[first] = united;
            groups.remove(second);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::sqlite::index::filter::bloom::Bloom;
    use crate::store::sqlite::index::fingerprint::BITS;
    use crate::store::sqlite::index::layout;
    use crate::store::sqlite::index::run::Run;
    use crate::store::sqlite::index::run::section::NewSection;
    use crate::store::sqlite::index::{IndexEntry, IndexOptions};

    const BITS_OF_RUN: u32 = 2;

    /// Entries as a keyed hash spreads them, sorted.
    fn entries(run: u32) -> Vec<IndexEntry> {
        let hash = |n: u64| xxhash_rust::xxh3::xxh3_64_with_seed(&n.to_le_bytes(), run.into()) >> (64 - BITS);
        let mut entries: Vec<_> = (0..400).map(|n| IndexEntry { fingerprint: hash(n), offset: n }).collect();
        entries.sort_unstable();
        entries
    }

    fn entry(id: u32, level: u8, written: u32, inputs: &[u32]) -> RunEntry {
        RunEntry { id, level, bits: BITS_OF_RUN, written, entries: 400, inputs: inputs.to_vec() }
    }

    fn complete_runs(ids: std::ops::RangeInclusive<u32>) -> (Runs, Manifest) {
        let mut runs = Runs::default();
        let mut manifest = Manifest { generation: 1, key: (1, 2), covered: 0, next_run: 9, runs: Vec::new() };
        for id in ids {
            let run = entry(id, 1, 1 << BITS_OF_RUN, &[]);
            let sections = (0..run.sections()).map(|number| {
                let range = layout::section_range(BITS_OF_RUN, number);
                let own = entries(id).into_iter().filter(|entry| range.contains(&entry.fingerprint));
                let NewSection { section, maplet, .. } =
                    NewSection::of(&run, number, &own.collect::<Vec<_>>());
                (section, maplet)
            });
            runs.push(Run { id, bits: BITS_OF_RUN, answers_from: 0, sections: Vec::new() }, Vec::new(), None);
            runs.extend(id, sections);
            manifest.runs.push(run);
        }
        (runs, manifest)
    }

    fn members(runs: &Runs) -> Vec<&[u32]> {
        runs.filter_groups.iter().map(|group| &group.members[..]).collect()
    }

    /// For each entry that a run answers for, exactly one group leads to the run; for its other entries, none does.
    fn assert_all_are_found_once(runs: &Runs, ids: std::ops::RangeInclusive<u32>) {
        for id in ids {
            let from = runs.get(id).map(|run| run.answers_from);
            let asked: Vec<_> = entries(id).iter().map(|entry| entry.fingerprint).enumerate().collect();
            let mut found = vec![0; asked.len()];
            for group in runs.bloom_groups().flat_map(|group| group.filter_groups()) {
                runs.lookup(std::iter::once(group), &asked, |(position, _), run| {
                    found[position] += u32::from(run.id == id);
                });
            }
            for (position, fingerprint) in asked {
                let answers = from.is_some_and(|from| fingerprint >= from);
                assert_eq!(found[position], u32::from(answers), "{fingerprint:x} of run {id} from {from:x?}");
            }
        }
    }

    #[test]
    fn runs_are_put_together_and_found_all_the_while() {
        let (mut runs, mut manifest) = complete_runs(1..=7);
        manifest.runs.push(entry(8, 1, 1, &[70]));
        let mut steps = 0;
        while let Some(union) = next(&runs, &manifest, 8) {
            runs.apply_union(union.run());
            steps += 1;
            assert_all_are_found_once(&runs, 1..=7);
        }
        assert_eq!(members(&runs), [&[1, 2, 3, 4][..], &[5, 6], &[7]]);
        // Three pairs of four sections, and a pair of pairs with eight maplets.
        assert_eq!(steps, 3 * 4 + 8);
        assert!(runs.filter_groups.iter().flat_map(|group| &group.maplets).all(Option::is_some));
    }

    /// A run that is merged from runs of several Bloom filters is in none of them: a filter would hide the entries that
    /// only the other one has.
    #[test]
    fn runs_are_in_one_bloom_filter_if_all_of_them_are() {
        let layout = IndexOptions { memtable: 1, section: 1, fan_out: 2 };
        let [a, b] = [(); 2].map(|()| Arc::new(Bloom::new(layout).unwrap()));
        for (blooms, of_both) in [
            ([Some(&a), Some(&a)], Some(&a)),
            ([Some(&a), Some(&b)], None),
            ([Some(&a), None], None),
            ([None, Some(&a)], None),
            ([None, None], None),
        ] {
            let (mut runs, manifest) = complete_runs(1..=2);
            for (group, bloom) in runs.filter_groups.iter_mut().zip(blooms) {
                group.bloom = bloom.cloned();
            }
            assert_eq!(runs.bloom_of(&[1, 2]).as_ref().map(Arc::as_ptr), of_both.map(Arc::as_ptr));
            assert_eq!(next(&runs, &manifest, 8).is_some(), blooms.iter().all(Option::is_none));
        }
    }

    /// The memory of a maplet is free once a merge has passed it.
    fn assert_passed_maplets_are_dropped(runs: &Runs, front: u64) {
        for group in runs.filter_groups.iter().filter(|group| !group.members.contains(&5)) {
            let passed = |&(number, _): &(u32, _)| layout::section_range(group.bits, number).end <= front;
            let mut passed = (0..).zip(&group.maplets).filter(passed);
            assert!(passed.all(|(_, maplet)| maplet.is_none()), "{:?} at {front}", group.members);
        }
    }

    /// However many maplets are united when a merge begins: entries that the new run answers for are dropped, all others
    /// are found.
    #[test]
    fn a_merge_may_begin_at_any_time() {
        for steps in 0..=20 {
            let (mut runs, manifest) = complete_runs(1..=5);
            for _ in 0..steps {
                if let Some(union) = next(&runs, &manifest, 4) {
                    runs.apply_union(union.run());
                }
            }
            let mut merging = manifest.clone();
            merging.runs.push(entry(9, 2, 1, &[1, 2, 3, 4]));
            assert!(next(&runs, &merging, 4).is_none(), "after {steps}");
            let width = 1_u64 << (BITS - BITS_OF_RUN);
            for front in [1, width / 8, width / 2 + 5, width, 2 * width + width / 4, 4 * width - 1] {
                runs.advance(|id| Some(if id < 5 { front } else { 0 }));
                assert_all_are_found_once(&runs, 1..=5);
                assert_passed_maplets_are_dropped(&runs, front);
            }
            runs.advance(|id| (id == 5).then_some(0));
            assert_all_are_found_once(&runs, 1..=5);
            assert_eq!(members(&runs), [[5]]);
        }
    }

    /// Runs of two merges or of two levels are not united, nor is a run that a merge is still writing.
    #[test]
    fn runs_of_different_merges_stay_apart() {
        let (mut runs, manifest) = complete_runs(1..=7);
        while let Some(union) = next(&runs, &manifest, 3) {
            runs.apply_union(union.run());
        }
        assert_eq!(members(&runs), [&[1, 2][..], &[3], &[4, 5], &[6], &[7]]);
        let (runs, mut manifest) = complete_runs(1..=2);
        manifest.runs[0].level = 2;
        assert!(next(&runs, &manifest, 8).is_none());
        let (runs, mut manifest) = complete_runs(1..=2);
        manifest.runs[1].written -= 1;
        assert!(next(&runs, &manifest, 8).is_none());
    }
}
