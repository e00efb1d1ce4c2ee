use super::*;

/// Fractions as a keyed hash spreads them, sorted.
fn fractions(seed: u64, count: u64) -> Vec<u64> {
    let hash = |n: u64| xxhash_rust::xxh3::xxh3_64_with_seed(&n.to_le_bytes(), seed);
    let mut fractions: Vec<_> = (0..count).map(hash).collect();
    fractions.sort_unstable();
    fractions
}

/// Unites 1, 2 or 4 maplets; the results are in the order of the range.
fn all_of(maplets: &[Maplet]) -> Vec<Maplet> {
    let (ours, theirs) = maplets.split_at(maplets.len() / 2);
    if ours.is_empty() {
        return theirs.to_vec();
    }
    let (ours, theirs) = (all_of(ours), all_of(theirs));
    ours.iter()
        .zip(&theirs)
        .flat_map(|(ours, theirs)| {
            assert!(ours.can_unite(theirs));
            ours.unite(theirs)
        })
        .collect()
}

fn runs_of(parts: &[Maplet], fraction: u64) -> u32 {
    let bits = parts.len().trailing_zeros();
    let part = usize::try_from(fraction.unbounded_shr(64 - bits)).unwrap();
    parts[part].runs(fraction << bits)
}

fn of(fractions: &[u64], expected: u64) -> Maplet {
    Maplet::of(fractions.iter().copied(), expected)
}

/// Each fingerprint leads to its run, however many runs were united, and very few others do.
#[test]
fn it_tells_the_runs_of_a_fingerprint() {
    for (count, runs) in [
        (0, 4),
        (1, 1),
        (3, 2),
        (47, 4),
        (100, 2),
        (150, 4),
        (1_000, 4),
        (5_000, 1),
        (57_344, 2),
        (50_000, 4),
    ] {
        let state: Vec<_> = (0..runs).map(|run| fractions(run, count - count * run / 100)).collect();
        let maplets: Vec<_> = state.iter().map(|state| of(state, count)).collect();
        assert!(!maplets[0].can_unite(&of(&fractions(9, 2 * count + 100), 2 * count + 100)));
        let parts = all_of(&maplets);
        if let [first, second, ..] = &parts[..] {
            assert_eq!(first.can_unite(second), runs < u64::from(MAX_RUNS), "of {runs} runs");
        }
        let runs_of = |fraction| runs_of(&parts, fraction);
        for (run, state) in state.iter().enumerate() {
            let lost = state.iter().filter(|&&fraction| runs_of(fraction) >> run & 1 == 0).count();
            assert_eq!(lost, 0, "of run {run} of {runs} with {count} each");
        }
        let strangers = fractions(99, 100_000);
        let taken_for: u32 = strangers.iter().map(|&stranger| runs_of(stranger).count_ones()).sum();
        let most = 100_000 * runs / 280 + 30;
        assert!(u64::from(taken_for) < most, "{taken_for} of {runs} runs with {count} each");
    }
}

/// Tests shorten fingerprints, so that there are few different ones.
#[test]
fn fingerprints_may_be_as_unevenly_spread_as_can_be() {
    for state in [
        vec![0; 3],
        vec![u64::MAX; 2],
        (0..100_000).collect(),
        (0..100_000).map(|n| n << 40).collect(),
        (0..64_u64).map(|n| n << 58).collect(),
    ] {
        let maplet = of(&state, state.len() as u64);
        let united = maplet.unite(&of(&[7 << 30], state.len() as u64));
        for &fraction in &state {
            assert_eq!((maplet.runs(fraction), runs_of(&united, fraction) & 1), (1, 1));
        }
        assert_eq!(runs_of(&united, 7 << 30) & 2, 2);
    }
}

/// Slots may have any number of remainders, with other slots before and behind.
#[test]
fn no_mark_of_a_slot_is_passed_over() {
    // One line; a slot has 256 different remainders.
    let at = |slot: u64, remainder: u64| slot << 58 | remainder << 50;
    for remainders in 1..70 {
        for before in [0, 1, 30] {
            let others = (0..before).map(|slot| at(slot, 7));
            let state = others
                .chain((0..remainders).map(|remainder| at(40, 3 * remainder)))
                .chain([at(41, 3), at(63, 9)]);
            let maplet = of(&state.clone().collect::<Vec<_>>(), 1);
            for fraction in state {
                assert_eq!(maplet.runs(fraction), 1, "of {remainders} behind {before}");
            }
            let strangers =
                (0..remainders).map(|remainder| at(40, 3 * remainder + 1)).chain([at(41, 4), at(62, 9)]);
            assert_eq!(strangers.map(|fraction| maplet.runs(fraction)).max(), Some(0));
        }
    }
}

/// A lookup of many fingerprints says the same as a lookup of each.
#[test]
fn many_are_looked_for_at_once() {
    let [maplet, _] = of(&fractions(1, 900), 1_000).unite(&of(&fractions(2, 1_000), 1_000));
    let asked: Vec<_> = (0..4).flat_map(|seed| fractions(seed, 300)).collect();
    let slots: Vec<_> = asked.iter().map(|&fraction| (fraction, maplet.slot(fraction))).collect();
    let mut found = Vec::new();
    for slots in slots.chunks(MAX_SLOTS) {
        SlotRef::lookup(slots, |fraction, runs| found.push((fraction, runs)));
    }
    let one_by_one = asked.iter().map(|&fraction| (fraction, maplet.runs(fraction)));
    assert_eq!(found, one_by_one.filter(|(_, runs)| *runs != 0).collect::<Vec<_>>());
}

#[test]
fn no_other_bytes_make_a_lookup_panic() {
    let state = fractions(3, 120);
    let mut encoded = Vec::new();
    of(&state, 120).encode(&mut encoded);
    assert!(Maplet::decode(&encoded).is_some());
    let asked = [&state[..], &fractions(4, 100)].concat();
    for bit in 0..encoded.len() * 8 {
        let mut flipped = encoded.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let read = Maplet::decode(&flipped);
        assert!(read.is_none() || bit >= 32, "bit {bit} was not missed");
        if let Some(maplet) = read {
            let _ = asked.iter().map(|&fraction| maplet.runs(fraction)).max();
            let _ = maplet.unite(&maplet);
        }
    }
    assert!((0..encoded.len()).all(|length| Maplet::decode(&encoded[..length]).is_none()));
}

#[test]
fn a_maplet_without_lines_or_with_room_before_the_first_is_refused() {
    let encoded = |lines: u32, starts: &[u32], bytes: &[u8]| {
        let heads = starts.iter().flat_map(|start| [&start.to_le_bytes()[..], &[0; 8]].concat());
        lines.to_le_bytes().into_iter().chain(heads).chain(bytes.iter().copied()).collect::<Vec<_>>()
    };
    assert!(Maplet::decode(&encoded(1, &[24, 24], &[])).is_some());
    assert!(Maplet::decode(&encoded(0, &[12], &[])).is_none());
    assert!(Maplet::decode(&encoded(1, &[25, 25], &[0])).is_none());
}

/// Only maplets of the same number of lines can be united, and no two sections have the same number of entries.
#[test]
fn sections_of_about_the_same_size_have_the_same_number_of_lines() {
    let load = LINE_LOAD as u64;
    let mut counts: Vec<_> = (512 * load..=1024 * load).map(line_count).collect();
    assert_eq!((counts[0], counts.last()), (512, Some(&1024)));
    counts.dedup();
    assert!(counts.is_sorted() && counts.len() == 17, "{counts:?}");
}
