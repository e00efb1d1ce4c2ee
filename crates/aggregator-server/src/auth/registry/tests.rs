use std::sync::Arc;

use aggregator_core::MemoryStore;

use super::*;
use crate::auth::token::SecretHash;

fn new(name: &str, scopes: &[&str], expires_in: Option<&str>) -> NewKey {
    NewKey {
        name: name.into(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        expires_in: expires_in.map(str::to_owned),
        limits: RateLimits::default(),
    }
}

fn make(store: &dyn DedupStore, name: &str) -> (KeyInfo, Token) {
    create(store, &new(name, &["publish:a.*", "read:*"], None), "test").unwrap()
}

#[test]
fn a_key_is_made_listed_and_revoked_and_the_audit_tells_of_it() {
    let store = MemoryStore::default();
    assert_eq!(newest_change(&store).unwrap(), None);
    let (first, token) = make(&store, "first");
    let change = newest_change(&store).unwrap().unwrap();
    let (second, _) = make(&store, "second");
    assert!(newest_change(&store).unwrap().unwrap() > change);
    let mut both = vec![first.clone(), second.clone()];
    both.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(list(&store).unwrap(), both);
    let stored = all(&store).unwrap();
    let of_first = &stored.iter().find(|(id, _)| *id == first.id).unwrap().1;
    assert!(SecretHash::parse(&of_first.sha256).unwrap().is(&token.hash()));

    assert_eq!(revoke(&store, &first.id, "somebody").unwrap(), first);
    assert_eq!(list(&store).unwrap(), [second]);
    assert!(matches!(revoke(&store, &first.id, "somebody"), Err(KeyError::Unknown(_))));
    let told: Vec<_> = audit::list(&store)
        .unwrap()
        .into_iter()
        .map(|entry| (entry.action, entry.by, entry.key.unwrap().name))
        .collect();
    let told: Vec<_> = told.iter().map(|(action, by, name)| (&**action, &**by, &**name)).collect();
    assert_eq!(
        told,
        [
            ("key-revoked", "somebody", "first"),
            ("key-created", "test", "second"),
            ("key-created", "test", "first")
        ]
    );
    // Also without any key there was one once.
    revoke(&store, &list(&store).unwrap()[0].id, "test").unwrap();
    assert!(list(&store).unwrap().is_empty() && newest_change(&store).unwrap().is_some());
}

#[test]
fn nothing_that_is_stored_or_shown_has_a_secret() {
    let store = MemoryStore::default();
    let (info, token) = make(&store, "first");
    let revealed = token.reveal();
    let secret = revealed.rsplit('_').next().unwrap();
    let records = store.records().unwrap();
    for kind in [KEY, KEY_USE, CHANGES, "audit"] {
        for record in list_all(records, kind).unwrap() {
            assert!(!String::from_utf8(record.value).unwrap().contains(secret), "{kind}");
        }
    }
    assert!(!format!("{info:?} {:?} {:?}", all(&store), audit::list(&store)).contains(secret));
}

#[test]
fn a_new_key_is_checked_field_by_field() {
    let store = MemoryStore::default();
    let long = "x".repeat(MAX_NAME_CHARS + 1);
    for (key, wrong) in [
        (new("", &["metrics"], None), "name"),
        (new(" ", &["metrics"], None), "name"),
        (new(&long, &["metrics"], None), "name"),
        (new("a\nb", &["metrics"], None), "name"),
        (new("a", &[], None), "scopes"),
        (new("a", &["metrics"; 101], None), "scopes"),
        (new("a", &["read:a b"], None), "scopes"),
        (new("a", &["metrics"], Some("soon")), "expires_in"),
        (new("a", &["metrics"], Some("0s")), "expires_in"),
        (new("a", &["metrics"], Some("101years")), "expires_in"),
    ] {
        match create(&store, &key, "test") {
            Err(KeyError::Invalid { field, .. }) => assert_eq!(field, wrong, "{key:?}"),
            other => panic!("{key:?}: {other:?}"),
        }
    }
    assert!(all(&store).unwrap().is_empty() && newest_change(&store).unwrap().is_none());
    let (info, _) = create(&store, &new(" a ", &["metrics"], Some("30d")), "test").unwrap();
    let micros = |time: &str| time.parse::<Timestamp>().unwrap().as_micros();
    assert_eq!(info.name, "a");
    assert_eq!(micros(&info.expires_at.unwrap()) - micros(&info.created_at), 30 * 86_400 * 1_000_000);
}

#[test]
fn changes_at_the_same_time_all_count() {
    let store = Arc::new(MemoryStore::default());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = Arc::clone(&store);
            scope.spawn(move || {
                for n in 0..5 {
                    let (info, _) = make(&*store, &format!("{thread}-{n}"));
                    if n == 0 {
                        revoke(&*store, &info.id, "test").unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(list(&*store).unwrap().len(), 16);
    assert_eq!(audit::list(&*store).unwrap().len(), 24);
    let counted = changes(store.records().unwrap()).unwrap().1;
    assert_eq!((counted.keys, counted.changes), (16, 24));
}

#[test]
fn the_last_use_of_a_key_is_shown_and_goes_with_it() {
    let store = MemoryStore::default();
    let ids: Vec<_> = ["a", "b", "c"].map(|name| make(&store, name).0.id).to_vec();
    let at = |second: i64| Timestamp::from_micros(1_800_000_000_000_000 + second * 1_000_000);
    note_uses(&store, &[(ids[0].clone(), at(1)), (ids[2].clone(), at(2))]).unwrap();
    note_uses(&store, &[(ids[2].clone(), at(3))]).unwrap();
    revoke(&store, &ids[0], "test").unwrap();
    note_uses(&store, &[(ids[0].clone(), at(4))]).unwrap();
    let shown: Vec<_> = list(&store).unwrap().into_iter().map(|key| (key.name, key.last_used_at)).collect();
    assert!(shown.contains(&("b".into(), None)) && shown.contains(&("c".into(), Some(at(3).to_string()))));
    assert_eq!(list_all(store.records().unwrap(), KEY_USE).unwrap().len(), 1);
}

/// Large entries make a list of records end early.
#[test]
fn the_audit_has_the_newest_changes_however_large_they_are() {
    let store = MemoryStore::default();
    let long: Vec<String> = (0..100).map(|n| format!("read:{}{n}", "x".repeat(250))).collect();
    let scopes: Vec<&str> = long.iter().map(String::as_str).collect();
    for n in 0..400 {
        create(&store, &new(&n.to_string(), &scopes, None), "test").unwrap();
    }
    make(&store, "the last one");
    let told = audit::list(&store).unwrap();
    assert_eq!((told.len(), told[0].key.as_ref().unwrap().name.as_str()), (401, "the last one"));
    assert_eq!(list(&store).unwrap().len(), 401);
}
