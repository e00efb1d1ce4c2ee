//! Puts the maplets of a level's runs together, so that they are asked at once: 1 and 1, then 2 and 2.
//!
//! In memory alone: the file has the maplets of each run, and a start begins with those. It goes on one by one: what is
//! put together is asked there, and the rest in the two units it came from.

use super::manifest::{Manifest, RunEntry};
use super::maplet::{MAX_RUNS, Maplet};
use super::unit::{Runs, Unit};

/// What two units have of a part of the range.
pub(super) struct Join {
    ours: Vec<u32>,
    theirs: Vec<u32>,
    maplets: [Maplet; 2],
}

/// What came of it.
pub(super) struct Joined {
    ours: Vec<u32>,
    theirs: Vec<u32>,
    maplets: [Maplet; 2],
}

impl Join {
    pub(super) fn run(self) -> Joined {
        let [ours, theirs] = &self.maplets;
        let maplets = ours.join(theirs);
        Joined { ours: self.ours, theirs: self.theirs, maplets }
    }
}

/// What to put together next. Not what a merge takes apart, nor what two merges will.
pub(super) fn next(runs: &Runs, manifest: &Manifest, fan_out: usize) -> Option<Join> {
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
fn of_runs<'r>(runs: &'r Runs, ids: &[u32]) -> Vec<&'r Unit> {
    let least = |id: &u32| {
        let units = runs.units.iter().filter(|unit| unit.members.first() == Some(id));
        units.min_by_key(|unit| unit.members.len())
    };
    ids.iter().filter_map(least).collect()
}

fn next_of(runs: &Runs, units: &[&Unit]) -> Option<Join> {
    units.windows(2).find_map(|two| {
        let (ours, theirs) = (&two[0], &two[1]);
        if ours.members.len() != theirs.members.len() || ours.bits != theirs.bits {
            return None;
        }
        let together = [&ours.members[..], &theirs.members].concat();
        let new = runs.units.iter().find(|unit| unit.members == together);
        let done = new.map_or(0, |unit| unit.maplets.len() / 2);
        let maplets = [ours.maplets.get(done)?.clone()?, theirs.maplets.get(done)?.clone()?];
        let fit = maplets[0].fits(&maplets[1]);
        fit.then(|| Join { ours: ours.members.clone(), theirs: theirs.members.clone(), maplets })
    })
}

impl Runs {
    /// Asks there from now on.
    pub(super) fn take(&mut self, Joined { ours, theirs, maplets }: Joined) {
        let together = [&ours[..], &theirs].concat();
        let at = |units: &[Unit], members: &[u32]| units.iter().position(|unit| unit.members == members);
        let (Some(first), Some(second)) = (at(&self.units, &ours), at(&self.units, &theirs)) else { return };
        let new = at(&self.units, &together).unwrap_or_else(|| {
            // As many of them, and of each two.
            let bits = self.units[first].bits + 1;
            self.units.push(Unit { members: together, bits, maplets: Vec::new() });
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
