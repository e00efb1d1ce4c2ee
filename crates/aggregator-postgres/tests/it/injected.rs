//! Errors that a healthy server does not raise by itself. A trigger in the test's schema raises them.

use aggregator_core::Outcome::{Duplicate, Stored};
use aggregator_core::{AttemptId, DedupStore, DedupStoreExt, Import, Partition, StoreError};
use aggregator_postgres::PostgresOptions;
use aggregator_postgres::test_server::TestServer;

use crate::proxy::Proxy;
use crate::support::{append, assert_complete, events, open, options, stored};

/// Raises `code` at the first `times` changes of the table `partitions`. A sequence counts them, because it is not
/// rolled back. `when` is empty, or `DEFERRABLE INITIALLY DEFERRED` for errors of the commit itself.
fn raise(server: &TestServer, schema: &str, code: &str, times: u32, when: &str) {
    let _ = raise_at(server, schema, "partitions", code, times, when);
}

/// The same for another table. Returns a function that tells how many changes there were, including those that failed.
pub(crate) fn raise_at<'a>(
    server: &'a TestServer,
    schema: &'a str,
    table: &str,
    code: &str,
    times: u32,
    when: &str,
) -> impl Fn() -> String + use<'a> {
    let kind = if when.is_empty() { "" } else { "CONSTRAINT" };
    server.sql(&format!(
        "SET search_path = {schema};
         CREATE SEQUENCE raised;
         CREATE FUNCTION raise() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF nextval('{schema}.raised') <= {times} THEN
                     RAISE EXCEPTION 'injected' USING ERRCODE = '{code}';
                 END IF;
                 RETURN NULL;
             END
         $$;
         CREATE {kind} TRIGGER raise AFTER INSERT OR UPDATE ON {table} {when} FOR EACH ROW EXECUTE FUNCTION raise()"
    ));
    move || server.sql(&format!("SELECT last_value FROM {schema}.raised"))
}

fn stop_raising(server: &TestServer, schema: &str) {
    server.sql(&format!(
        "SET search_path = {schema}; DROP TRIGGER raise ON partitions; DROP FUNCTION raise; DROP SEQUENCE raised"
    ));
}

#[test]
fn an_append_that_collided_with_another_transaction_is_tried_again() {
    let Some(server) = TestServer::shared_own() else { return };
    for code in ["40001", "40P01", "40003"] {
        for when in ["", "DEFERRABLE INITIALLY DEFERRED"] {
            let options = options();
            let store = open(&server.url(), &options);
            append(&store, &events("t", 0..2));
            raise(server, &options.schema, code, 3, when);
            let receipts = append(&store, &events("t", [1, 2, 3]));
            let told: Vec<_> = receipts.iter().map(|receipt| receipt.outcome).collect();
            assert_eq!(told, [Duplicate, Stored, Stored], "{code} {when}");
            let raised = server.sql(&format!("SELECT last_value FROM {}.raised", options.schema));
            assert_eq!(raised, "4", "three were raised: {code} {when}");
            assert_complete(&store, 4);
            assert_eq!(store.stats().unwrap().duplicates, 1, "{code} {when}");
        }
    }
}

#[test]
fn other_errors_are_reported_and_pass_when_their_cause_does() {
    let Some(server) = TestServer::shared_own() else { return };
    for code in ["53100", "57014", "53200", "XX000", "XX001"] {
        for when in ["", "DEFERRABLE INITIALLY DEFERRED"] {
            let options = options();
            let store = open(&server.url(), &options);
            append(&store, &events("t", 0..2));
            raise(server, &options.schema, code, u32::MAX, when);
            let new = events("t", 2..5);
            let views: Vec<_> = new.iter().map(aggregator_core::Event::view).collect();
            let of_append = store.append(Partition(0), AttemptId::new(), &views).unwrap_err();
            let of_import = store.import(Partition(0), Import::rows(&[])).unwrap_err();
            for error in [of_append, of_import] {
                let as_expected = match code {
                    "53100" => matches!(error, StoreError::NoSpace { .. }),
                    "XX001" => matches!(error, StoreError::Corrupt { .. }),
                    _ => matches!(error, StoreError::Unavailable { .. }),
                };
                assert!(as_expected && error.to_string().contains("injected"), "{code} {when}: {error:?}");
                assert_eq!(error.is_retryable(), code != "XX001", "{code}");
            }
            assert_eq!(store.stats().unwrap().stored, 2, "nothing of it was stored");
            stop_raising(server, &options.schema);
            assert_eq!(stored(&append(&store, &new)), 3, "{code} {when}");
            assert_complete(&store, 5);
        }
    }
}

#[test]
fn a_warning_of_an_earlier_call_casts_no_doubt_on_a_commit() {
    let Some(server) = TestServer::shared_own() else { return };
    let (proxy, options) = (Proxy::new(server), PostgresOptions { append_connections: 1, ..options() });
    let store = open(&proxy.url(), &options);
    append(&store, &events("t", 0..1));
    // The commit fails and ends its transaction. The server warns of the ROLLBACK that follows.
    raise(server, &options.schema, "53100", 1, "DEFERRABLE INITIALLY DEFERRED");
    assert!(matches!(store.append_one(&events("t", 1..2)[0]), Err(StoreError::NoSpace { .. })));
    let before = proxy.commits();
    append(&store, &events("t", 1..2));
    assert_eq!(proxy.commits() - before, 1, "a commit that was doubted is made again");
    assert_complete(&store, 2);
}
