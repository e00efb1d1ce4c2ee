//! Every request gets its own receipts, in order and within its room, through failures of the store.

use super::*;

#[test]
fn every_request_is_answered_with_its_own_receipts_and_has_given_its_room_back() {
    for across in [true, false] {
        answer_requests(across);
    }
}

fn answer_requests(across: bool) {
    let config = config(2);
    explore(move || {
        let (store, far) = two_partitions(across);
        let service = Service::start(Arc::new(store), &config, 8);
        let publisher = |name: &'static str| {
            let service = Arc::clone(&service);
            let body = move || {
                for n in 0..2 {
                    let ids = [format!("{name}{n}-1"), format!("{name}{n}-2"), format!("{name}{n}-3")];
                    let events = [("a", ids[0].as_str()), (far, &ids[1]), ("a", &ids[2])];
                    for (ids, reply) in service.publish(&events, true).unwrap() {
                        let receipts = block_on(reply).expect("a worker lives").expect("the store is well");
                        service.check(&ids, &receipts);
                    }
                    assert!(service.admission.used().events <= 3, "a reply came before the room was free");
                }
            };
            Box::new(body) as Box<dyn FnOnce() + Send>
        };
        in_threads(vec![publisher("x"), publisher("y")]);
        service.drain();
        assert_eq!(service.stored("*").len(), 12);
    });
}

#[test]
fn two_workers_store_what_was_queued_in_its_order_through_failures_and_a_stop() {
    for (across, failures) in [(true, 1), (true, 3), (false, 1), (false, 3)] {
        let config = config(4);
        explore(move || {
            let (inner, far) = two_partitions(across);
            let store = Arc::new(FaultyStore::new(Arc::new(inner)));
            (1..=failures).for_each(|nth| store.fail_nth(nth, Failure::Unavailable));
            let service = Service::start(store, &config, 8);
            let queues = {
                let service = Arc::clone(&service);
                move || {
                    for (a, b) in [("1", "2"), ("3", "4"), ("5", "6")] {
                        service.publish(&[("a", a), (far, b)], false).unwrap();
                    }
                }
            };
            let waits = {
                let service = Arc::clone(&service);
                move || service.publish_until_stored(&[(far, "x")])
            };
            in_threads(vec![Box::new(queues), Box::new(waits)]);
            service.drain();
            for (topic, ids) in [("a", ["1", "3", "5"]), (far, ["2", "4", "6"])] {
                let mut stored: Vec<_> =
                    service.stored(topic).into_iter().map(|event| event.event_id).collect();
                stored.retain(|id| id != "x");
                assert_eq!(stored, ids);
            }
        });
    }
}

#[test]
fn what_was_queued_is_stored_in_its_order_once_the_store_recovers() {
    use Failure::{LostReply, NoSpace, Unavailable};
    let config = config(4);
    let plans: [&[(u64, Failure)]; 6] = [
        &[(1, Unavailable), (2, NoSpace)],
        &[(2, Unavailable)],
        &[(2, Unavailable), (3, Unavailable)],
        &[(2, Unavailable), (4, LostReply)],
        &[(1, LostReply), (3, Unavailable)],
        &[(3, Unavailable), (4, Unavailable), (5, Unavailable)],
    ];
    for plan in plans {
        let config = config.clone();
        explore(move || {
            // The topic there is stays the only one: other events are refused.
            let inner = Arc::new(MemoryStore::default().with_max_topics(1));
            inner.append_one(&Event::new("t", "0").unwrap()).unwrap();
            let store = Arc::new(FaultyStore::new(inner));
            plan.iter().for_each(|&(nth, failure)| store.fail_nth(nth, failure));
            let service = Service::start(store, &config, 8);
            let queues = {
                let service = Arc::clone(&service);
                move || {
                    service.publish(&[("t", "1")], false).unwrap();
                    service.publish(&[("t", "2"), ("refused", "2")], false).unwrap();
                    service.publish(&[("t", "3")], false).unwrap();
                    service.publish_until_stored(&[("t", "4")]);
                }
            };
            let waits = {
                let service = Arc::clone(&service);
                move || {
                    service.publish_until_stored(&[("refused", "x"), ("t", "x")]);
                    service.publish_until_stored(&[("t", "x")]);
                }
            };
            in_threads(vec![Box::new(queues), Box::new(waits)]);
            service.drain();
            let stored = service.stored("t");
            let mut ids: Vec<_> = stored.iter().map(|event| event.event_id.as_str()).collect();
            ids.retain(|id| *id != "x");
            assert_eq!((ids, stored.len()), (vec!["0", "1", "2", "3", "4"], 6));
        });
    }
}

#[test]
fn no_more_is_admitted_than_there_is_room_for_and_room_is_held_until_the_commit() {
    let config = config(2);
    explore(move || {
        let service = Service::start(Arc::new(MemoryStore::default()), &config, 3);
        let (admission, last) = (Arc::clone(&service.admission), AtomicU64::new(0));
        // A store survives callbacks that panic, so they only note what is wrong.
        let early = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&early);
        let _listener = service.store.on_commit(Box::new(move |_, offset| {
            let committed = offset - last.swap(offset, Ordering::SeqCst);
            noted.fetch_or((admission.used().events as u64) < committed, Ordering::SeqCst);
        }));
        let full = Arc::new(AtomicU64::new(0));
        let publisher = |ids: &'static [&'static str]| {
            let (service, full) = (Arc::clone(&service), Arc::clone(&full));
            let body = move || {
                let events: Vec<_> = ids.iter().map(|id| ("t", *id)).collect();
                match service.publish(&events, true) {
                    Ok(mut waiting) => {
                        let (ids, reply) = waiting.remove(0);
                        service.check(&ids, &block_on(reply).unwrap().unwrap());
                    }
                    Err(refused) => {
                        assert_eq!(refused, Refused::Full);
                        full.fetch_add(1, Ordering::SeqCst);
                    }
                }
            };
            Box::new(body) as Box<dyn FnOnce() + Send>
        };
        in_threads(vec![publisher(&["1", "2"]), publisher(&["3"]), publisher(&["4", "5"])]);
        service.drain();
        assert!(!early.load(Ordering::SeqCst), "room was given back before the commit");
        assert_eq!(service.admission.refused(), full.load(Ordering::SeqCst));
    });
}
