//! A stop that meets requests: it ends, and loses nothing that came before.

use super::*;

/// Two publishers and a stop at any time, with or without a failure of the store.
fn stop_races_with_publishers(config: &Config, failures: u64) {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    (1..=failures).for_each(|nth| store.fail_nth(nth, Failure::Unavailable));
    let service = Service::start(store, config, 8);
    let stopping = Arc::new(AtomicBool::new(false));
    let publisher = |id: &'static str, wait: bool| {
        let (service, stopping) = (Arc::clone(&service), Arc::clone(&stopping));
        move || {
            let mut waiting = service.publish(&[("t", id)], wait).unwrap();
            let came_before = !stopping.load(Ordering::SeqCst);
            if wait {
                let reply = block_on(waiting.remove(0).1);
                assert!(reply.is_ok() || !came_before, "the stop overtook a request");
                matches!(reply, Ok(Ok(_)))
            } else {
                came_before
            }
        }
    };
    let threads = [spawn(publisher("waited", true)), spawn(publisher("queued", false))];
    stopping.store(true, Ordering::SeqCst);
    service.stop();
    let told = threads.map(|thread| thread.join().unwrap());
    service.assert_empty();
    let stored = service.stored("t");
    for (id, told) in ["waited", "queued"].into_iter().zip(told) {
        let count = stored.iter().filter(|event| event.event_id == id).count();
        assert!(count == 1 || (!told && count == 0), "{id} is stored {count} times");
    }
}

#[test]
fn a_stop_that_races_with_publishers_ends_and_loses_nothing_that_came_before() {
    let config = config(2);
    for failures in 0..=2 {
        let config = config.clone();
        explore(move || stop_races_with_publishers(&config, failures));
    }
}

/// One request, and a stop that comes after it.
fn stop_follows_a_request(config: &Config, failures: u64, wait: bool) {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default())));
    (1..=failures).for_each(|nth| store.fail_nth(nth, Failure::Unavailable));
    let service = Service::start(store, config, 1);
    let mut waiting = service.publish(&[("t", "1")], wait).unwrap();
    service.drain();
    let told = wait.then(|| block_on(waiting.remove(0).1).expect("it came before the stop").is_ok());
    // What is waited for is tried once, what was queued until it is stored.
    assert_eq!(told, wait.then_some(failures == 0));
    assert_eq!(service.stored("t").len(), usize::from(told != Some(false)));
}

/// A stop and a request at once.
fn stop_meets_a_request(config: &Config) {
    let service = Service::start(Arc::new(MemoryStore::default()), config, 1);
    let reservation = service.admission.reserve(&[Weight { events: 1, bytes: 0 }]).unwrap().remove(0);
    let (reply, mut receiver) = oneshot::channel();
    let (batch, indices) = (Arc::new(batch(&[("t", "1")])), vec![0]);
    let (reply, origin) = (Some(reply), Origin::default());
    let job = Job { partition: Partition(0), batch, indices, bytes: 0, reservation, reply, origin };
    let publisher = {
        let service = Arc::clone(&service);
        spawn(move || drop(service.workers.send(vec![job])))
    };
    service.stop();
    publisher.join().unwrap();
    // It is either answered or dropped by now, and nobody waits in vain.
    let told = receiver.try_recv();
    assert_ne!(told.as_ref().err(), Some(&oneshot::error::TryRecvError::Empty));
    assert_eq!(service.stored("t").len(), usize::from(matches!(told, Ok(Ok(_)))));
    service.assert_empty();
}

#[test]
fn every_schedule_of_one_request_and_a_stop_ends() {
    let config = config(2);
    explore_all(move || stop_follows_a_request(&config, 0, true));
}

/// There are too many schedules for all of them.
#[test]
fn a_request_that_is_queued_or_fails_or_meets_a_stop_ends_too() {
    for (failures, wait) in [(0, false), (1, true), (1, false)] {
        let config = config(2);
        explore(move || stop_follows_a_request(&config, failures, wait));
    }
    let config = config(2);
    explore(move || stop_meets_a_request(&config));
}
