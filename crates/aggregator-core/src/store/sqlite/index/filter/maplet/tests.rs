//! Of one run, of several together, and of bytes that are no maplet.

use super::*;

/// As a keyed hash spreads them, in order.
fn fractions(seed: u64, count: u64) -> Vec<u64> {
    let hash = |n: u64| xxhash_rust::xxh3::xxh3_64_with_seed(&n.to_le_bytes(), seed);
    let mut fractions: Vec<_> = (0..count).map(hash).collect();
    fractions.sort_unstable();
    fractions
}

/// What becomes of 1, 2 or 4 of them, by the parts of the range.
fn all_of(maplets: &[Maplet]) -> Vec<Maplet> {
    let (ours, theirs) = maplets.split_at(maplets.len() / 2);
    if ours.is_empty() {
        return theirs.to_vec();
    }
    let (ours, theirs) = (all_of(ours), all_of(theirs));
    ours.iter()
        .zip(&theirs)
        .flat_map(|(ours, theirs)| {
            assert!(ours.fits(theirs));
            ours.join(theirs)
        })
        .collect()
}

fn runs_of(parts: &[Maplet], fraction: u64) -> u32 {
    let bits = parts.len().trailing_zeros();
    let part = usize::try_from(fraction.unbounded_shr(64 - bits)).unwrap();
    parts[part].runs(fraction << bits)
}

fn of(fractions: &[u64], usual: u64) -> Maplet {
    Maplet::of(fractions.iter().copied(), usual)
}

/// Each run's fingerprints are found to be its own, however many runs were put together, and next to no others
/// are.
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
        let held: Vec<_> = (0..runs).map(|run| fractions(run, count - count * run / 100)).collect();
        let maplets: Vec<_> = held.iter().map(|held| of(held, count)).collect();
        assert!(!maplets[0].fits(&of(&fractions(9, 2 * count + 100), 2 * count + 100)));
        let parts = all_of(&maplets);
        let runs_of = |fraction| runs_of(&parts, fraction);
        for (run, held) in held.iter().enumerate() {
            let lost = held.iter().filter(|&&fraction| runs_of(fraction) >> run & 1 == 0).count();
            assert_eq!(lost, 0, "of run {run} of {runs} with {count} each");
        }
        let strangers = fractions(99, 100_000);
        let taken_for: u32 = strangers.iter().map(|&stranger| runs_of(stranger).count_ones()).sum();
        let most = 100_000 * runs / 280 + 30;
        assert!(u64::from(taken_for) < most, "{taken_for} of {runs} runs with {count} each");
    }
}

/// A test's fingerprints, of which there are few and the same again and again.
#[test]
fn fingerprints_may_be_as_unevenly_spread_as_can_be() {
    for held in [
        vec![0; 3],
        vec![u64::MAX; 2],
        (0..100_000).collect(),
        (0..100_000).map(|n| n << 40).collect(),
        (0..64_u64).map(|n| n << 58).collect(),
    ] {
        let maplet = of(&held, held.len() as u64);
        let joined = maplet.join(&of(&[7 << 30], held.len() as u64));
        for &fraction in &held {
            assert_eq!((maplet.runs(fraction), runs_of(&joined, fraction) & 1), (1, 1));
        }
        assert_eq!(runs_of(&joined, 7 << 30) & 2, 2);
    }
}

/// In slots of any length, beside others.
#[test]
fn no_mark_of_a_slot_is_passed_over() {
    // One line, a step for each mark, of which a slot has 256.
    let at = |slot: u64, mark: u64| slot << 58 | mark << 50;
    for marks in 1..70 {
        for before in [0, 1, 30] {
            let others = (0..before).map(|slot| at(slot, 7));
            let held = others.chain((0..marks).map(|mark| at(40, 3 * mark))).chain([at(41, 3), at(63, 9)]);
            let maplet = of(&held.clone().collect::<Vec<_>>(), 1);
            for fraction in held {
                assert_eq!(maplet.runs(fraction), 1, "of {marks} behind {before}");
            }
            let strangers = (0..marks).map(|mark| at(40, 3 * mark + 1)).chain([at(41, 4), at(62, 9)]);
            assert_eq!(strangers.map(|fraction| maplet.runs(fraction)).max(), Some(0));
        }
    }
}

/// Looking for many at once says what looking for each says.
#[test]
fn many_are_looked_for_at_once() {
    let [maplet, _] = of(&fractions(1, 1_000), 1_000).join(&of(&fractions(2, 1_000), 1_000));
    let asked: Vec<_> = (0..4).flat_map(|seed| fractions(seed, 300)).collect();
    let spots: Vec<_> = asked.iter().map(|&fraction| (fraction, maplet.spot(fraction))).collect();
    let mut found = Vec::new();
    for spots in spots.chunks(TOGETHER) {
        Spot::look(spots, |fraction, runs| found.push((fraction, runs)));
    }
    let one_by_one = asked.iter().map(|&fraction| (fraction, maplet.runs(fraction)));
    assert_eq!(found, one_by_one.filter(|(_, runs)| *runs != 0).collect::<Vec<_>>());
}

#[test]
fn no_other_bytes_make_a_lookup_panic() {
    let held = fractions(3, 120);
    let mut encoded = Vec::new();
    of(&held, 120).encode(&mut encoded);
    assert!(Maplet::decode(&encoded).is_some());
    let asked = [&held[..], &fractions(4, 100)].concat();
    for bit in 0..encoded.len() * 8 {
        let mut flipped = encoded.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let read = Maplet::decode(&flipped);
        assert!(read.is_none() || bit >= 32, "bit {bit} was not missed");
        if let Some(maplet) = read {
            let _ = asked.iter().map(|&fraction| maplet.runs(fraction)).max();
            let _ = maplet.join(&maplet);
        }
    }
    assert!((0..encoded.len()).all(|length| Maplet::decode(&encoded[..length]).is_none()));
}
