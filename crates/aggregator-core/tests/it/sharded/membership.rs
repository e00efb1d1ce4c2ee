//! Which stores are taken for the shards of one.

use std::sync::Arc;

use aggregator_core::store::faulty::{Call, FaultyStore};
use aggregator_core::store::sharded::{Membership, refuse_lone_shard};
use aggregator_core::{
    DedupStore, DedupStoreExt as _, MemoryStore, Partitions, Record, RecordWrite, StoreError,
};

use super::{event, memory, open, topic_of};

fn refusal(shards: &[Arc<dyn DedupStore>]) -> String {
    match open(shards) {
        Err(error @ StoreError::Invalid(_)) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it is taken"),
    }
}

fn record(store: &dyn DedupStore) -> Option<Record> {
    store.records().unwrap().get("shard", "membership").unwrap()
}

/// As after a start that was cut off before this record was written.
fn take_record(store: &dyn DedupStore) {
    let record = record(store).unwrap();
    let _ = store.records().unwrap().write(&[RecordWrite::delete(&record)]).unwrap();
}

/// As before shard 0 was told that all have their records.
fn untell(first: &dyn DedupStore) {
    let record = record(first).unwrap();
    let text = String::from_utf8(record.value.clone()).unwrap();
    assert!(text.contains("true"), "{text}");
    let write = RecordWrite::update(&record, text.replace("true", "false"));
    let _ = first.records().unwrap().write(&[write]).unwrap();
}

#[test]
fn shards_are_found_again_with_the_same_id_and_in_their_order_only() {
    let shards = [memory(), memory(), memory()];
    let whole = open(&shards).unwrap();
    let id = whole.info().id;
    assert_eq!((whole.info().shards, whole.partitions().count()), (3, 6));
    drop(whole);
    assert_eq!(open(&shards).unwrap().info().id, id);

    let [a, b, c] = shards.clone();
    let swapped = refusal(&[a.clone(), c.clone(), b.clone()]);
    assert!(swapped.contains("shard 1 (place 1) is shard 2 of the store"), "{swapped}");
    assert!(refusal(&[b.clone(), c.clone(), a.clone()]).contains("in their order"));
    let missing = refusal(&[a.clone(), b.clone()]);
    assert!(missing.contains("of 3 shards, and 2 are named"), "{missing}");
    let surplus = refusal(&[a.clone(), b.clone(), c.clone(), memory()]);
    assert!(surplus.contains("of 3 shards, and 4 are named"), "{surplus}");
    let doubled = refusal(&[a.clone(), b.clone(), b.clone()]);
    assert!(doubled.contains("shard 2 (place 2) is the same store as another shard"), "{doubled}");
    assert_eq!(open(&shards).unwrap().info().id, id, "whoever was refused changed nothing");
}

#[test]
fn a_shard_of_another_store_is_refused_and_so_is_a_new_one_in_its_place() {
    let (ours, theirs) = ([memory(), memory()], [memory(), memory()]);
    open(&ours).unwrap();
    open(&theirs).unwrap();
    let foreign = refusal(&[ours[0].clone(), theirs[1].clone()]);
    assert!(foreign.contains("shard 1 (place 1) belongs to another store"), "{foreign}");
    // Its events would be forgotten without a word, and their repeats be taken for new.
    let lost = refusal(&[ours[0].clone(), memory()]);
    assert!(
        lost.contains("shard 1 (place 1) has no record of the store") && lost.contains("backup"),
        "{lost}"
    );
    let lost = refusal(&[memory(), ours[1].clone()]);
    assert!(lost.contains("shard 0 (place 0) has no record of the store"), "{lost}");
}

#[test]
fn a_shard_is_no_store_by_itself() {
    let shards = [memory(), memory()];
    refuse_lone_shard(&*shards[1]).unwrap();
    let id = open(&shards).unwrap().info().id;
    let refused = refuse_lone_shard(&*shards[1]).unwrap_err().to_string();
    assert!(refused.contains(&format!("shard 1 of the 2 shards of the store {id}")), "{refused}");
    let first = Membership::of(&*shards[0]).unwrap().unwrap();
    assert!((first.index, first.shards, first.is_complete) == (0, 2, true), "{first:?}");
}

#[test]
fn a_store_that_took_events_before_becomes_no_shard() {
    let shards = [memory(), memory()];
    shards[1].append_one(&event("t", 1)).unwrap();
    let refused = refusal(&shards);
    assert!(refused.contains("shard 1 (place 1) has events, and was not made as a shard"), "{refused}");
    assert!(record(&*shards[0]).is_none(), "nothing was written before all were looked at");
}

#[test]
fn shards_are_alike() {
    let four: Arc<dyn DedupStore> = Arc::new(MemoryStore::new(Partitions::new(4).unwrap()));
    let refused = refusal(&[memory(), four]);
    assert!(refused.contains("shard 1 (place 1) has 4 partitions, and shard 0 has 2"), "{refused}");
    let unlike = [memory(), memory(), Arc::new(MemoryStore::default())];
    assert!(refusal(&unlike).contains("shard 2 (place 2) has 1 partitions, and shard 0 has 2"));
    let wide = || -> Arc<dyn DedupStore> { Arc::new(MemoryStore::new(Partitions::new(600).unwrap())) };
    assert!(refusal(&[wide(), wide()]).contains("1024"));
    assert!(refusal(&[]).contains("no shards"));
}

/// A new database has as many partitions as a new one has by default, and that is not what is wrong with it.
#[test]
fn a_new_store_in_the_place_of_a_shard_is_named_whatever_its_partitions_are() {
    let shards = [memory(), memory(), memory()];
    open(&shards).unwrap();
    for index in 0..3 {
        let mut with_new = shards.clone();
        with_new[index] = Arc::new(MemoryStore::new(Partitions::new(4).unwrap()));
        let lost = refusal(&with_new);
        assert!(
            lost.contains(&format!("shard {index} (place {index}) has no record of the store")),
            "{lost}"
        );
    }
}

/// The records are written one after the other, and a crash may come between any two.
#[test]
fn a_start_that_was_cut_off_between_the_records_is_completed() {
    let shards = [memory(), memory(), memory()];
    let id = open(&shards).unwrap().info().id;
    for with_record in 1..=3 {
        untell(&*shards[0]);
        shards[with_record..].iter().for_each(|shard| take_record(&**shard));
        let whole = open(&shards).unwrap();
        assert_eq!(whole.info().id, id);
        for (index, shard) in (0..).zip(&shards) {
            let membership = Membership::of(&**shard).unwrap().unwrap();
            assert_eq!((membership.index, membership.whole), (index, id));
        }
        assert!(Membership::of(&*shards[0]).unwrap().unwrap().is_complete);
    }
    // One with events is none that the cut has left without its record.
    untell(&*shards[0]);
    take_record(&*shards[2]);
    shards[2].append_one(&event("t", 1)).unwrap();
    assert!(refusal(&shards).contains("has events"));
}

#[test]
fn starts_that_race_agree_on_one_store() {
    let shards = [memory(), memory(), memory()];
    let ids: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| open(&shards).unwrap().info().id)).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

/// Another start may be done, and its events stored, between any two steps of this one.
#[test]
fn a_start_that_another_one_overtakes_joins_its_store() {
    for (call, at) in
        [(Call::Stats, 0), (Call::Stats, 1), (Call::Records, 0), (Call::Records, 1), (Call::Records, 2)]
    {
        let shards = [memory(), memory(), memory()];
        let slow: Vec<_> = shards.iter().map(|shard| Arc::new(FaultyStore::new(Arc::clone(shard)))).collect();
        let (id, told) = std::sync::mpsc::channel();
        slow[at].before_next(call, move || {
            let whole = open(&shards).unwrap();
            for shard in 0..3 {
                whole.append_one(&event(&topic_of(&whole, shard), 1)).unwrap();
            }
            id.send(whole.info().id).unwrap();
        });
        let slow: Vec<_> = slow.into_iter().map(|store| store as Arc<dyn DedupStore>).collect();
        let whole = open(&slow).unwrap_or_else(|error| panic!("{call:?} of shard {at}: {error}"));
        assert_eq!(whole.info().id, told.recv().unwrap(), "{call:?} of shard {at}");
        assert_eq!(whole.stats().unwrap().stored, 3);
    }
}

#[test]
fn a_record_of_a_newer_program_is_left_as_it_is() {
    let shards = [memory(), memory()];
    let whole = open(&shards).unwrap();
    let topic = topic_of(&whole, 1);
    whole.append_one(&event(&topic, 1)).unwrap();
    let old = record(&*shards[1]).unwrap();
    let newer = String::from_utf8(old.value.clone()).unwrap().replace("\"format\":1", "\"format\":2");
    let _ = shards[1].records().unwrap().write(&[RecordWrite::update(&old, newer)]).unwrap();
    let Err(error) = open(&shards) else { panic!("it is taken") };
    assert!(matches!(error, StoreError::Format { found: 2, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("shard 1 (place 1)"), "{error}");
}
