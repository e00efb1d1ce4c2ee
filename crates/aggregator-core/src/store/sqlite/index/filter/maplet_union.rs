//! Puts the maplets of a level's runs together, so that they are asked at once: 1 and 1, then 2 and 2.
//!
//! Not of what is in a Bloom filter, which is asked so seldom that it costs more than it saves.
//!
//! In memory alone: the file has the maplets of each run, and a start begins with those. It goes on one by one: what is
//! put together is asked there, and the rest in the two units it came from.

use super::filter_group::{FilterGroup, Runs};
use super::maplet::{MAX_RUNS, Maplet};
use crate::store::sqlite::index::manifest::{Manifest, RunEntry};

/// What two units have of a part of the range.
pub(crate) struct MapletUnion {
    ours: Vec<u32>,
    theirs: Vec<u32>,
    maplets: [Maplet; 2],
}

/// What came of it.
pub(crate) struct UnitedMaplets {
    ours: Vec<u32>,
    theirs: Vec<u32>,
    maplets: [Maplet; 2],
}

impl MapletUnion {
    pub(crate) fn run(self) -> UnitedMaplets {
        let [ours, theirs] = &self.maplets;
        let maplets = ours.join(theirs);
        UnitedMaplets { ours: self.ours, theirs: self.theirs, maplets }
    }
}

/// What to put together next. Not what a merge takes apart, nor what two merges will.
pub(crate) fn next(runs: &Runs, manifest: &Manifest, fan_out: usize) -> Option<MapletUnion> {
    let levels = manifest.runs.iter().map(|run| run.level).max()?;
    (0..=levels).find_map(|level| {
        let at_rest = |run: &&RunEntry| {
            run.level == level && run.written == run.sections() && manifest.target(run.id).is_none()
        };
        let ids: Vec<u32> = manifest.runs.iter().filter(at_rest).map(|run| run.id).collect();
        ids.chunks(fan_out)
            .flat_map(|of_merge| of_merge.chunks(MAX_RUNS as usize))
            .find_map(|ids| next_of(runs, &of_runs(runs, ids)))
    })
}

/// The units of these runs, in their order, but for what is being put together.
fn of_runs<'r>(runs: &'r Runs, ids: &[u32]) -> Vec<&'r FilterGroup> {
    let least = |id: &u32| {
        let units = runs.units.iter().filter(|unit| unit.members.first() == Some(id));
        units.min_by_key(|unit| unit.members.len())
    };
    ids.iter().filter_map(least).collect()
}

fn next_of(runs: &Runs, units: &[&FilterGroup]) -> Option<MapletUnion> {
    units.windows(2).find_map(|two| {
        let (ours, theirs) = (&two[0], &two[1]);
        let alike = ours.members.len() == theirs.members.len() && ours.bits == theirs.bits;
        if !alike || ours.bloom.is_some() || theirs.bloom.is_some() {
            return None;
        }
        let together = [&ours.members[..], &theirs.members].concat();
        let new = runs.units.iter().find(|unit| unit.members == together);
        let done = new.map_or(0, |unit| unit.maplets.len() / 2);
        let maplets = [ours.maplets.get(done)?.clone()?, theirs.maplets.get(done)?.clone()?];
        let fit = maplets[0].fits(&maplets[1]);
        fit.then(|| MapletUnion { ours: ours.members.clone(), theirs: theirs.members.clone(), maplets })
    })
}

impl Runs {
    /// Asks there from now on.
    pub(crate) fn take(&mut self, UnitedMaplets { ours, theirs, maplets }: UnitedMaplets) {
        let together = [&ours[..], &theirs].concat();
        let at =
            |units: &[FilterGroup], members: &[u32]| units.iter().position(|unit| unit.members == members);
        let (Some(first), Some(second)) = (at(&self.units, &ours), at(&self.units, &theirs)) else { return };
        debug_assert!([first, second].iter().all(|&unit| self.units[unit].bloom.is_none()));
        let new = at(&self.units, &together).unwrap_or_else(|| {
            // As many of them, and of each two.
            let bits = self.units[first].bits + 1;
            self.units.push(FilterGroup { members: together, bits, maplets: Vec::new(), bloom: None });
            self.units.len() - 1
        });
        let done = self.units[new].maplets.len() / 2;
        self.units[new].maplets.extend(maplets.map(Some));
        for unit in [first, second] {
            self.units[unit].maplets[done] = None;
        }
        if done + 1 == self.units[first].maplets.len() {
            // In the place of the two.
            let new = self.units.remove(new);
            self.units[first] = new;
            self.units.remove(second);
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
    use crate::store::sqlite::index::{Entry, IndexOptions};

    const BITS_OF_RUN: u32 = 2;

    /// As a keyed hash spreads them.
    fn entries(run: u32) -> Vec<Entry> {
        let hash = |n: u64| xxhash_rust::xxh3::xxh3_64_with_seed(&n.to_le_bytes(), run.into()) >> (64 - BITS);
        let mut entries: Vec<_> = (0..400).map(|n| Entry { fingerprint: hash(n), offset: n }).collect();
        entries.sort_unstable();
        entries
    }

    fn entry(id: u32, level: u8, written: u32, inputs: &[u32]) -> RunEntry {
        RunEntry { id, level, bits: BITS_OF_RUN, written, entries: 400, inputs: inputs.to_vec() }
    }

    fn at_rest(ids: std::ops::RangeInclusive<u32>) -> (Runs, Manifest) {
        let mut runs = Runs::default();
        let mut manifest = Manifest { generation: 1, key: (1, 2), covered: 0, next_run: 9, runs: Vec::new() };
        for id in ids {
            let run = entry(id, 1, 1 << BITS_OF_RUN, &[]);
            let sections = (0..run.sections()).map(|number| {
                let range = layout::fingerprints(BITS_OF_RUN, number);
                let own = entries(id).into_iter().filter(|entry| range.contains(&entry.fingerprint));
                let NewSection { section, maplet, .. } =
                    NewSection::of(&run, number, &own.collect::<Vec<_>>());
                (section, maplet)
            });
            runs.push(Run { id, bits: BITS_OF_RUN, from: 0, sections: Vec::new() }, Vec::new(), None);
            runs.extend(id, sections);
            manifest.runs.push(run);
        }
        (runs, manifest)
    }

    fn members(runs: &Runs) -> Vec<&[u32]> {
        runs.units.iter().map(|unit| &unit.members[..]).collect()
    }

    /// Each run is found for all it has from where it answers, by one unit, and for nothing before.
    fn assert_all_are_found_once(runs: &Runs, ids: std::ops::RangeInclusive<u32>) {
        for id in ids {
            let from = runs.get(id).map(|run| run.from);
            let asked: Vec<_> = entries(id).iter().map(|entry| entry.fingerprint).enumerate().collect();
            let mut found = vec![0; asked.len()];
            for unit in runs.groups().flat_map(|group| group.units()) {
                runs.ask(std::iter::once(unit), &asked, |(position, _), run| {
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
        let (mut runs, mut manifest) = at_rest(1..=7);
        manifest.runs.push(entry(8, 1, 1, &[70]));
        let mut steps = 0;
        while let Some(join) = next(&runs, &manifest, 8) {
            runs.take(join.run());
            steps += 1;
            assert_all_are_found_once(&runs, 1..=7);
        }
        assert_eq!(members(&runs), [&[1, 2, 3, 4][..], &[5, 6], &[7]]);
        // Three pairs of four sections, and a pair of pairs with eight maplets.
        assert_eq!(steps, 3 * 4 + 8);
        assert!(runs.units.iter().flat_map(|unit| &unit.maplets).all(Option::is_some));
    }

    /// What is merged from several filters is in none: it would not be asked for what they do not have in common.
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
            let (mut runs, manifest) = at_rest(1..=2);
            for (unit, bloom) in runs.units.iter_mut().zip(blooms) {
                unit.bloom = bloom.cloned();
            }
            assert_eq!(runs.bloom_of(&[1, 2]).as_ref().map(Arc::as_ptr), of_both.map(Arc::as_ptr));
            assert_eq!(next(&runs, &manifest, 8).is_some(), blooms.iter().all(Option::is_none));
        }
    }

    /// Whatever of it is done when a merge takes the runs apart: what the front has passed is forgotten, the rest is
    /// found.
    #[test]
    fn a_merge_may_begin_at_any_time() {
        for steps in 0..=20 {
            let (mut runs, manifest) = at_rest(1..=5);
            for _ in 0..steps {
                if let Some(join) = next(&runs, &manifest, 4) {
                    runs.take(join.run());
                }
            }
            let mut merging = manifest.clone();
            merging.runs.push(entry(9, 2, 1, &[1, 2, 3, 4]));
            assert!(next(&runs, &merging, 4).is_none(), "after {steps}");
            let width = 1_u64 << (BITS - BITS_OF_RUN);
            for front in [1, width / 8, width / 2 + 5, width, 2 * width + width / 4, 4 * width - 1] {
                runs.advance(|id| Some(if id < 5 { front } else { 0 }));
                assert_all_are_found_once(&runs, 1..=5);
            }
            runs.advance(|id| (id == 5).then_some(0));
            assert_all_are_found_once(&runs, 1..=5);
            assert_eq!(members(&runs), [[5]]);
        }
    }

    /// As two merges will take them, and what is written by a merge only once it is whole.
    #[test]
    fn runs_of_different_merges_stay_apart() {
        let (mut runs, manifest) = at_rest(1..=7);
        while let Some(join) = next(&runs, &manifest, 3) {
            runs.take(join.run());
        }
        assert_eq!(members(&runs), [&[1, 2][..], &[3], &[4, 5], &[6], &[7]]);
        let (runs, mut manifest) = at_rest(1..=2);
        manifest.runs[1].written -= 1;
        assert!(next(&runs, &manifest, 8).is_none());
    }
}
