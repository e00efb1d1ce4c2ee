use aggregator_core::EventRef;

use super::*;

const BOUNDS: DecodeLimits =
    DecodeLimits { max_events: 5, max_payload_depth: 9, lone_surrogates: LoneSurrogates::Refuse };

fn decoded(body: impl Into<Bytes>) -> Decoded {
    decode(&body.into(), Timestamp::from_micros(0), BOUNDS, &Principal::Operator).unwrap()
}

fn errors(body: &str) -> Vec<(Option<usize>, String)> {
    let decoded = decoded(body.to_owned());
    decoded.errors.into_iter().map(|error| (error.index, error.field.into_owned())).collect()
}

fn summary<'a>(event: &EventRef<'a>) -> (&'a str, &'a str, &'a str) {
    (event.topic(), event.event_id(), event.payload())
}

#[test]
fn the_three_forms_are_read() {
    let one = r#"{"topic":"t","event_id":"1","payload":{"a": [1, 2]}}"#;
    for (body, count, single) in [
        (one.to_owned(), 1, true),
        (format!(" [{one} , {one}]\n"), 2, false),
        (format!(r#"{{"events":[{one},{one},{one}]}}"#), 3, false),
        ("[]".into(), 0, false),
        (r#"{"events": []}"#.into(), 0, false),
    ] {
        let decoded = decoded(body.clone());
        assert_eq!((decoded.received, decoded.single, decoded.errors), (count, single, vec![]), "{body}");
        assert_eq!(decoded.batch.len(), count);
        assert!(decoded.batch.iter().all(|e| summary(&e) == ("t", "1", r#"{"a":[1,2]}"#)));
    }
}

#[test]
fn escapes_are_resolved_in_fields_and_kept_in_payloads() {
    let decoded = decoded(r#"{"topic":"a\u002eb","event_id":"\ud83d\ude00\/\"","payload":"\u0041"}"#);
    assert_eq!(summary(&decoded.batch.event(0)), ("a.b", "\u{1F600}/\"", r#""\u0041""#));
}

#[test]
fn defaults_stand_in_for_what_is_left_out() {
    let decoded = decoded(r#"{"topic":"t","event_id":"1"}"#);
    let event = decoded.batch.event(0);
    assert_eq!((event.source(), event.payload(), event.sequence()), ("unknown", "{}", None));
    assert_eq!(event.timestamp(), "1970-01-01T00:00:00.000000Z");
}

#[test]
fn every_fault_is_named_with_its_index_and_the_others_are_taken() {
    let body = r#"[{"topic":"t","event_id":"1"}, 7, {"event_id":5,"colour":[],"topic":"a..b"},
                   {"topic":"t","event_id":"2","event_id":"3","sequence":-1}, {"topic":"t","event_id":"4"}]"#;
    let field = |index, name: &str| (Some(index), name.to_owned());
    assert_eq!(
        errors(body),
        [
            field(1, "event"),
            field(2, "colour"),
            field(2, "event_id"),
            field(2, "topic"),
            field(3, "event_id"),
            field(3, "sequence")
        ]
    );
    assert_eq!(decoded(body).batch.len(), 2);
    assert_eq!(errors("{}"), [field(0, "topic"), field(0, "event_id")]);
}

#[test]
fn wrong_types_are_faults_of_their_fields() {
    for (json, field) in [
        (r#"{"topic":1,"event_id":"1"}"#, "topic"),
        (r#"{"topic":"t","event_id":null}"#, "event_id"),
        (r#"{"topic":"t","event_id":"1","timestamp":0}"#, "timestamp"),
        (r#"{"topic":"t","event_id":"1","source":["x"]}"#, "source"),
        (r#"{"topic":"t","event_id":"1","sequence":"7"}"#, "sequence"),
        (r#"{"topic":"t","event_id":"1","sequence":1.0}"#, "sequence"),
        (r#"{"topic":"t","event_id":"\ud800"}"#, "event_id"),
        (r#"{"topic":"t","event_id":"a\u0000b"}"#, "event_id"),
        (r#"{"topic":"t","event_id":"1","payload":[[[[[[[[[[]]]]]]]]]]}"#, "payload"),
    ] {
        assert_eq!(errors(json), [(Some(0), field.to_owned())], "{json}");
    }
    for payload in ["null", "true", "-1.5e3", "\"x\"", "[]", "{}"] {
        assert_eq!(errors(&format!(r#"{{"topic":"t","event_id":"1","payload":{payload}}}"#)), []);
    }
}

#[test]
fn what_is_not_json_as_expected_is_refused_whole() {
    let deep = "[".repeat(100_000);
    for body in [
        "",
        " ",
        "hello",
        "{",
        "[",
        "[{]",
        "7",
        "null",
        "\"x\"",
        "{} {}",
        "[] x",
        r#"{"events":{}}"#,
        r#"{"events":7}"#,
        r#"{"events":[],"topic":"t"}"#,
        r#"{"topic":"t","events":[]}"#,
        r#"{"events":[],"events":[]}"#,
        r#"{"topic":"t","event_id":"1","payload":{]}"#,
        r#"[{"topic":"t" "event_id":"1"}]"#,
        &deep,
    ] {
        let result = decode(&body.to_owned().into(), Timestamp::from_micros(0), BOUNDS, &Principal::Operator);
        assert!(result.is_err() || !result.unwrap().errors.is_empty(), "{body:.40}");
    }
    assert!(
        decode(
            &Bytes::from_static(b"{\"topic\":\"\xff\"}"),
            Timestamp::from_micros(0),
            BOUNDS,
            &Principal::Operator
        )
        .is_err()
    );
}

#[test]
fn too_many_events_are_refused_before_they_are_read() {
    let one = r#"{"topic":"t","event_id":"1"}"#;
    assert_eq!(decoded(format!("[{}]", [one; 5].join(","))).received, 5);
    let body = format!("[{}, this is not even JSON", [one; 6].join(","));
    let problem = decode(&body.into(), Timestamp::from_micros(0), BOUNDS, &Principal::Operator).unwrap_err();
    assert!(format!("{problem:?}").contains("--max-batch-events"), "{problem:?}");
}
