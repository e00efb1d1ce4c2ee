//! A write that expects another version changes nothing, and no version comes twice.

use super::super::{Backend, Case, CaseOptions, assert_sound, cases};
use super::{KIND, all, create, get, records, stale, write, write_one, written};
use crate::store::records::{Record, RecordOutcome, RecordWrite};

pub(in crate::store::conformance) const CASES: &[Case] = cases![
    a_write_that_expects_another_version_is_told_the_one_there_is,
    a_write_of_several_records_is_all_or_nothing,
    a_stale_write_names_every_record_that_has_another_version,
    versions_only_grow_and_never_come_again,
    versions_go_on_after_a_restart,
];

fn a_write_that_expects_another_version_is_told_the_one_there_is(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let first = write_one(&*store, create("a", "1"));
    let old = get(&*store, "a").unwrap();
    assert_eq!(write(&*store, &[create("a", "2")]), stale(&[(0, Some(first))]), "it exists");
    let second = write_one(&*store, RecordWrite::update(&old, "2"));
    assert_eq!(write(&*store, &[RecordWrite::update(&old, "3")]), stale(&[(0, Some(second))]));
    assert_eq!(write(&*store, &[RecordWrite::delete(&old)]), stale(&[(0, Some(second))]));
    let ahead = Record::new(KIND, "a", second + 1, "");
    assert_eq!(write(&*store, &[RecordWrite::update(&ahead, "3")]), stale(&[(0, Some(second))]));
    let beyond = Record::new(KIND, "a", u64::MAX, "");
    assert_eq!(write(&*store, &[RecordWrite::update(&beyond, "3")]), stale(&[(0, Some(second))]));
    let nothing = Record::new(KIND, "a", 0, "");
    assert_eq!(write(&*store, &[RecordWrite::update(&nothing, "3")]), stale(&[(0, Some(second))]));

    let current = get(&*store, "a").unwrap();
    assert_eq!(current, Record::new(KIND, "a", second, "2"));
    write_one(&*store, RecordWrite::delete(&current));
    assert_eq!(write(&*store, &[RecordWrite::update(&current, "3")]), stale(&[(0, None)]), "it is gone");
    assert_eq!(write(&*store, &[RecordWrite::delete(&current)]), stale(&[(0, None)]));
    let never = Record::new(KIND, "never", 1, "");
    assert_eq!(write(&*store, &[RecordWrite::update(&never, "1")]), stale(&[(0, None)]));
    assert_eq!(all(&*store, KIND), []);
    assert_sound(&*store);
}

fn a_write_of_several_records_is_all_or_nothing(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    written(&*store, &[create("a", "1"), create("b", "1"), create("c", "1")]);
    let before = all(&*store, KIND);
    let [a, b, c] = &before[..] else { panic!("three were written") };
    // Whichever of them it is.
    for at in 0..4 {
        let mut writes = vec![
            create("new", "2"),
            RecordWrite::update(a, "2"),
            RecordWrite::delete(b),
            RecordWrite::update(c, "2"),
        ];
        let is = if at == 0 {
            writes[0].expected_version = Some(7);
            None
        } else {
            writes[at].expected_version = Some(u64::from(u32::MAX));
            Some(before[at - 1].version)
        };
        assert_eq!(write(&*store, &writes), stale(&[(at, is)]));
        assert_eq!(all(&*store, KIND), before);
    }
    let versions = written(
        &*store,
        &[
            create("new", "2"),
            RecordWrite::update(a, "2"),
            RecordWrite::delete(b),
            RecordWrite::update(c, "2"),
        ],
    );
    let expected = [("a", versions[1]), ("c", versions[3]), ("new", versions[0])];
    assert_eq!(all(&*store, KIND), expected.map(|(name, version)| Record::new(KIND, name, version, "2")));
    assert_sound(&*store);
}

fn a_stale_write_names_every_record_that_has_another_version(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let versions = written(&*store, &[create("a", "1"), create("b", "1")]);
    let a = get(&*store, "a").unwrap();
    let gone = Record::new(KIND, "gone", versions[0], "");
    let writes = [
        create("b", "2"),
        create("c", "2"),
        RecordWrite::delete(&gone),
        RecordWrite::update(&a, "2"),
        // The same name in another kind is another record.
        RecordWrite { kind: "other".into(), ..RecordWrite::update(&a, "2") },
    ];
    assert_eq!(write(&*store, &writes), stale(&[(0, Some(versions[1])), (2, None), (4, None)]));
    assert_eq!(all(&*store, KIND).len(), 2);
    assert_sound(&*store);
}

fn versions_only_grow_and_never_come_again(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let mut last = 0;
    let mut grows = |version: u64| {
        assert!(version > last, "{version} after {last}");
        last = version;
    };
    for _ in 0..5 {
        grows(write_one(&*store, create("a", "1")));
        // What others do, or fail to do, takes nothing from it.
        let other = write_one(&*store, create("other", "1"));
        assert!(matches!(write(&*store, &[create("a", "stale")]), RecordOutcome::Stale(_)));
        grows(write_one(&*store, RecordWrite::update(&get(&*store, "a").unwrap(), "1")));
        grows(write_one(&*store, RecordWrite::delete(&get(&*store, "a").unwrap())));
        write_one(&*store, RecordWrite::delete(&Record::new(KIND, "other", other, "")));
    }
    assert_sound(&*store);
}

fn versions_go_on_after_a_restart(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    written(&*store, &[create("deleted", "1"), create("kept", "1")]);
    let deleted = get(&*store, "deleted").unwrap();
    let kept = get(&*store, "kept").unwrap();
    // The newest version is one that no record has.
    let last = write_one(&*store, RecordWrite::delete(&deleted));
    let Some(store) = backend.reopen(store, CaseOptions::default()) else { return };
    assert_eq!(all(&*store, KIND), std::slice::from_ref(&kept));
    assert!(write_one(&*store, create("deleted", "2")) > last);
    assert!(write_one(&*store, RecordWrite::update(&kept, "2")) > kept.version);
    assert_eq!(write(&*store, &[RecordWrite::delete(&deleted)]), {
        stale(&[(0, records(&*store).get(KIND, "deleted").unwrap().map(|record| record.version))])
    });
    // Nor after one in which nothing was written.
    let last = get(&*store, "deleted").unwrap();
    let last = write_one(&*store, RecordWrite::delete(&last));
    let store = backend.reopen(store, CaseOptions::default()).expect("it could be opened again before");
    let store = backend.reopen(store, CaseOptions::default()).expect("it could be opened again before");
    assert!(write_one(&*store, create("deleted", "3")) > last);
    assert_sound(&*store);
}
