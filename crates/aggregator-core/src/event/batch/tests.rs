use super::*;

fn raw<'a>(topic: &'a str, event_id: &'a str) -> RawEvent<'a> {
    RawEvent {
        topic,
        event_id,
        timestamp: None,
        source: None,
        payload: None,
        sequence: None,
        scope: Scope::Topic,
    }
}

#[test]
fn events_come_back_as_they_were_whether_borrowed_or_copied() {
    let body = Bytes::from_static(br#"orders e-1 {"a": 1} {"b":2}"#);
    let text = std::str::from_utf8(&body).unwrap();
    let json = |from, to| serde_json::from_str::<&RawValue>(&text[from..to]).unwrap();
    let mut builder = BatchBuilder::new(body.clone(), Timestamp::from_micros(1)).unwrap();
    builder.push(&RawEvent { payload: Some(json(11, 19)), ..raw(&text[..6], &text[7..10]) }).unwrap();
    builder.push(&RawEvent { payload: Some(json(20, 27)), ..raw("elsewhere", "ä") }).unwrap();
    builder.push(&RawEvent { source: Some("me"), sequence: Some(7), ..raw("x", "y") }).unwrap();
    let batch = builder.finish();
    let events: Vec<_> = batch.iter().collect();
    assert_eq!(
        (events[0].topic(), events[0].event_id(), events[0].payload()),
        ("orders", "e-1", r#"{"a":1}"#)
    );
    assert_eq!(
        (events[1].topic(), events[1].event_id(), events[1].payload()),
        ("elsewhere", "ä", r#"{"b":2}"#)
    );
    assert_eq!((events[2].source(), events[2].sequence(), events[2].payload()), ("me", Some(7), "{}"));
    assert_eq!(events[0].timestamp(), "1970-01-01T00:00:00.000001Z");
    assert_eq!(events[0].source(), "unknown");
}

#[test]
fn every_bad_field_is_named_and_nothing_is_taken() {
    let mut builder = BatchBuilder::new(Bytes::new(), Timestamp::now()).unwrap();
    let bad = RawEvent {
        timestamp: Some("yesterday"),
        source: Some("a\tb"),
        sequence: Some(u64::MAX),
        ..raw("a..b", "")
    };
    let faults = builder.push(&bad).unwrap_err();
    let fields: Vec<_> = faults.iter().map(|fault| fault.field).collect();
    assert_eq!(fields, ["topic", "event_id", "timestamp", "source", "sequence"]);
    assert_eq!(builder.check(&bad), Err(faults));
    assert_eq!(builder.check(&raw("a.b", "1")), Ok(()));
    assert!(builder.is_empty());
}

#[test]
fn a_batch_says_what_it_holds() {
    let body = "orders e-1";
    let mut builder =
        BatchBuilder::new(Bytes::from_static(body.as_bytes()), Timestamp::from_micros(1)).unwrap();
    assert_eq!(builder.body(), body);
    for (at, (topic, id)) in [("a", "1"), ("b", "2"), ("c", "3")].into_iter().enumerate() {
        assert_eq!((builder.len(), builder.is_empty()), (at, at == 0));
        builder.push(&raw(topic, id)).unwrap();
    }
    let mut batch = builder.finish();
    assert_eq!((batch.len(), batch.is_empty()), (3, false));
    assert_eq!((batch.topic(1), batch.event_id(2)), ("b", "3"));
    let bytes = body.len() + batch.rewritten.capacity() + batch.items.capacity() * size_of::<Item>();
    assert_eq!(batch.bytes(), bytes);
    batch.set_hints(vec![None; 3]);
    assert_eq!(batch.bytes(), bytes + 3 * size_of::<Option<Hint>>());
}

#[test]
fn room_is_made_for_as_many_events_as_the_first_one_lets_expect() {
    let builder = BatchBuilder::new(Bytes::from(vec![b' '; 10_000]), Timestamp::from_micros(1)).unwrap();
    let payload = serde_json::from_str::<&RawValue>(r#"{"total":12}"#).unwrap();
    let first = RawEvent {
        timestamp: Some("2026-01-31T12:00:00Z"),
        source: Some("shop"),
        payload: Some(payload),
        ..raw("orders", "o-1")
    };
    assert_eq!(builder.expected(&first), 10_000 / (25 + 6 + 3 + 20 + 4 + 12));
}

/// Positions in it are kept in 32 bits.
#[test]
fn an_event_is_refused_once_the_rewritten_text_has_become_too_long() {
    let mut builder = BatchBuilder::new(Bytes::new(), Timestamp::from_micros(1)).unwrap();
    // Zeroed memory that is only read takes no room.
    builder.batch.rewritten = String::from_utf8(vec![0; BatchBuilder::MAX_BODY_BYTES + 1]).unwrap();
    let faults = builder.check(&raw("t", "1")).unwrap_err();
    assert_eq!(faults.iter().map(|fault| fault.field).collect::<Vec<_>>(), ["body"]);
    builder.batch.rewritten.truncate(BatchBuilder::MAX_BODY_BYTES);
    assert_eq!(builder.check(&raw("t", "1")), Ok(()));
}

#[test]
fn a_batch_gives_its_attributes_to_each_event_and_takes_a_compact_object_only() {
    let mut builder = BatchBuilder::new(Bytes::new(), Timestamp::from_micros(0)).unwrap();
    builder.push(&raw("t", "1")).unwrap();
    builder.push(&raw("t", "2")).unwrap();
    let mut batch = builder.finish();
    for wrong in ["", "[]", "1", "{", r#"{"a": 1}"#, r#"{"a":1} "#] {
        let fault = batch.set_attributes(wrong.to_owned()).unwrap_err();
        assert_eq!(fault.field, "attributes", "{wrong}");
    }
    assert!(batch.iter().all(|event| event.attributes().is_none()));
    let before = batch.bytes();
    batch.set_attributes(r#"{"a":1}"#.to_owned()).unwrap();
    assert!(batch.iter().all(|event| event.attributes() == Some(r#"{"a":1}"#)));
    assert!(batch.bytes() > before, "it holds them");
}
