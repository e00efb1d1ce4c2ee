//! Options of tokens that cannot be right end the start, before a store is made.

use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;

use super::issuer::{AUDIENCE, ISSUER, Issuer};
use crate::support::{Process, refused};

fn start(directory: &Path, options: &[&str]) -> (i32, String) {
    let store = format!("sqlite:{}", directory.join("a.db").display());
    refused(&[&["--listen", "127.0.0.1:0", "--store", &store], options].concat())
}

#[test]
fn the_options_of_tokens_are_given_together_and_have_sense() {
    let directory = TempDir::new().unwrap();
    let issuer = Issuer::new();
    let path = issuer.path();
    let file = path.to_str().unwrap();
    let bad = directory.path().join("bad.json");
    let bad = bad.to_str().unwrap();
    std::fs::write(bad, "{\"keys\":[{\"kty\":\"oct\",\"k\":\"c2VjcmV0Q2FuYXJ5\"").unwrap();
    let whole = ["--jwt-issuer", "i", "--jwt-audience", "a", "--jwt-jwks", file];
    for (options, code, says) in [
        (&whole[..2], 2, "--jwt-issuer without --jwt-audience and --jwt-jwks"),
        (&whole[2..], 2, "without --jwt-issuer"),
        (&whole[..4], 2, "without --jwt-jwks"),
        (&[&whole[..], &["--allow-anonymous"]].concat(), 2, "--allow-anonymous contradicts"),
        (&[&whole[..], &["--jwt-algorithms", "RS256,HS256"]].concat(), 2, "is symmetric"),
        (&[&whole[..], &["--jwt-algorithms", "none"]].concat(), 2, "signs nothing"),
        (&[&whole[..], &["--jwt-scopes-claim", " "]].concat(), 2, "--jwt-scopes-claim must not be empty"),
        (&[&whole[..4], &["--jwt-jwks", "http://issuer.example/jwks"]].concat(), 2, "use https"),
        (
            &[&whole[..4], &["--jwt-jwks", "/nothing/there.json"]].concat(),
            1,
            "--jwt-jwks /nothing/there.json cannot be read",
        ),
        (&[&whole[..4], &["--jwt-jwks", "/"]].concat(), 1, "--jwt-jwks / cannot be read"),
        (&[&whole[..4], &["--jwt-jwks", bad]].concat(), 1, "is no JSON Web Key Set"),
    ] {
        let (status, said) = start(directory.path(), options);
        assert!(status == code && said.contains(says), "{options:?}: {status}, {said}");
        assert!(!said.contains("c2VjcmV0Q2FuYXJ5"), "{said}");
        assert!(!directory.path().join("a.db").exists(), "{options:?}: {said}");
    }
}

#[tokio::test]
async fn an_issuer_without_keys_is_told_in_the_log_and_lets_nobody_in() {
    let issuer = Issuer::new();
    let path = issuer.path();
    for (set, left_out) in
        [("{\"keys\":[]}", "0"), ("{\"keys\":[{\"kty\":\"oct\",\"k\":\"c2VjcmV0Q2FuYXJ5\"}]}", "1")]
    {
        issuer.publish(set);
        let mut command =
            Process::command(&["--listen", "127.0.0.1:0", "--store", "memory:", "--log-format", "human"]);
        command.args([
            "--jwt-issuer",
            ISSUER,
            "--jwt-audience",
            AUDIENCE,
            "--jwt-jwks",
            path.to_str().unwrap(),
        ]);
        command.stderr(Stdio::piped());
        let server = Process::spawn(command);
        let request = crate::support::client().get(format!("{}/events", server.url));
        let answer = request.bearer_auth(issuer.token(&["read:*"])).send().await.unwrap();
        assert_eq!(answer.status(), 401);
        let log = server.stop_and_read_stderr();
        assert!(
            log.contains("nobody gets in with a token") && log.contains(&format!("left_out={left_out}")),
            "{log}"
        );
        assert!(!log.contains("c2VjcmV0Q2FuYXJ5"), "{log}");
    }
}
