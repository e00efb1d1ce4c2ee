//! Tokens that are not good. Each of these would get in if one check were missing.

use ring::hmac;
use serde_json::{Value, json};

use super::issuer::{self, AUDIENCE, ISSUER, Issuer, SigningKey, base64url, claims, jwks, now};
use super::{config, with, without};
use crate::guard::Guarded;

fn good() -> Value {
    claims(&["read:a.*"])
}

/// Asserts that the token is refused with these words, which repeat nothing of it.
async fn refused(server: &Guarded, what: &str, token: &str, says: &str) {
    let answer = server.answer(token).await;
    assert_eq!(answer.status, 401, "{what}: {}", answer.json);
    answer.problem(401, "bad-credential");
    let told = answer.json.to_string();
    assert!(told.contains(says), "{what}: {told}");
    let is_repeated = token.split('.').any(|part| part.len() > 8 && told.contains(part));
    assert!(!is_repeated, "{what}: {told}");
}

/// A token that HMAC signs, with this secret.
fn hmac_token(header: &Value, secret: &[u8]) -> String {
    let message = format!("{}.{}", base64url(header.to_string()), base64url(good().to_string()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    format!("{message}.{}", base64url(hmac::sign(&key, message.as_bytes())))
}

#[tokio::test]
async fn claims_that_are_missing_wrong_or_of_another_form() {
    let server = Guarded::of_issuer().await;
    let issuer = server.issuer.as_ref().unwrap();
    let text = |name: &str, value: &str| {
        let claims = with(good(), name, "SLOT").to_string();
        claims.replace("\"SLOT\"", value)
    };
    let later = (now() + 600).to_string();
    for (what, claims, says) in [
        ("no exp", without(good(), "exp").to_string(), "exp"),
        ("exp in the past", text("exp", &(now() - 31).to_string()), "expired"),
        ("exp is zero", text("exp", "0"), "expired"),
        ("exp is a string", text("exp", &format!("{later:?}")), "exp"),
        ("exp is a fraction", text("exp", &format!("{later}.0")), "exp"),
        ("exp has an exponent", text("exp", "9e9"), "exp"),
        ("exp is negative", text("exp", "-1"), "exp"),
        ("exp is null", text("exp", "null"), "exp"),
        ("exp is beyond all numbers", text("exp", "99999999999999999999999"), "exp"),
        ("exp is infinite", text("exp", "1e999"), "object"),
        ("nbf in the future", text("nbf", &(now() + 60).to_string()), "nbf"),
        ("nbf is a string", text("nbf", "\"5\""), "nbf"),
        ("nbf is a fraction", text("nbf", "5.5"), "nbf"),
        ("no iss", without(good(), "iss").to_string(), "iss"),
        ("another iss", text("iss", "\"https://issuer.example/realm/\""), "iss"),
        ("iss begins the same", text("iss", "\"https://issuer.example\""), "iss"),
        ("iss is an array", text("iss", &json!([ISSUER]).to_string()), "iss"),
        ("no aud", without(good(), "aud").to_string(), "aud"),
        ("another aud", text("aud", "\"aggregator2\""), "aud"),
        ("aud of another case", text("aud", "\"Aggregator\""), "aud"),
        ("aud is an array without ours", text("aud", "[\"other\",\"aggregator \"]"), "aud"),
        ("aud is an empty array", text("aud", "[]"), "aud"),
        ("aud has a number beside ours", text("aud", &json!([AUDIENCE, 1]).to_string()), "aud"),
        ("aud is an object", text("aud", "{\"aggregator\":1}"), "aud"),
        ("no sub", without(good(), "sub").to_string(), "sub"),
        ("sub is empty", text("sub", "\"\""), "sub"),
        ("sub is a number", text("sub", "5"), "sub"),
        ("sub is long", text("sub", &format!("{:?}", "x".repeat(256))), "sub"),
        ("scope is an object", text("scope", "{\"admin\":true}"), "scopes"),
        ("scope has a number", text("scope", "[\"admin\",5]"), "scopes"),
        ("exp twice", text("x", &format!("1,\"exp\":{later}")), "twice"),
        ("scope twice", text("x", "1,\"scope\":\"admin\""), "twice"),
        ("scope twice, spelled in two ways", text("x", "1,\"sc\\u006fpe\":\"admin\""), "twice"),
        ("unknown claim twice", text("x", "1,\"x\":1"), "twice"),
        ("claims are an array", "[]".to_owned(), "object"),
        ("claims are empty", String::new(), "empty part"),
        ("claims are no JSON", "{\"iss\"".to_owned(), "object"),
        ("claims are followed by others", format!("{}{{}}", good()), "object"),
    ] {
        refused(&server, what, &issuer.key.sign(&issuer.key.header().to_string(), &claims), says).await;
    }
    assert_eq!(server.status(&issuer.key.token(&good())).await, 200);
    server.stop().await;
}

#[tokio::test]
async fn headers_that_would_have_the_server_verify_otherwise() {
    let server = Guarded::of_issuer().await;
    let issuer = server.issuer.as_ref().unwrap();
    let stranger = SigningKey::ec("first");
    let header = issuer.key.header();
    let (message, claims) = (header.to_string(), good().to_string());
    for (what, header, says) in [
        ("crit", with(header.clone(), "crit", json!(["exp"])), "crit"),
        ("unknown crit", with(with(header.clone(), "crit", json!(["x"])), "x", 1), "crit"),
        ("empty crit", with(header.clone(), "crit", json!([])), "crit"),
        ("b64", with(with(header.clone(), "crit", json!(["b64"])), "b64", false), "crit"),
        ("b64 alone", with(header.clone(), "b64", false), "malformed"),
        ("kid is a path", with(header.clone(), "kid", "../../../../etc/passwd"), "kid"),
        ("kid is the file", with(header.clone(), "kid", issuer.path().to_str().unwrap()), "kid"),
        ("kid is a URL", with(header.clone(), "kid", "http://127.0.0.1:1/jwks.json"), "kid"),
        ("kid is a query", with(header.clone(), "kid", "first' OR '1'='1"), "kid"),
        ("kid of another case", with(header.clone(), "kid", "First"), "kid"),
        ("kid with a zero", with(header.clone(), "kid", "first\0"), "kid"),
        ("kid is empty", with(header.clone(), "kid", ""), "kid"),
        ("kid is long", with(header.clone(), "kid", "x".repeat(257)), "kid"),
        ("kid is a number", with(header.clone(), "kid", 1), "kid"),
        ("kid is null", with(header.clone(), "kid", Value::Null), "kid"),
        ("no alg", without(header.clone(), "alg"), "alg"),
        ("alg that is not pinned", with(header.clone(), "alg", "ES384"), "--jwt-algorithms"),
        ("alg of another type of key", with(header.clone(), "alg", "RS256"), "alg"),
        ("alg of another type of curve", with(header.clone(), "alg", "EdDSA"), "alg"),
        ("alg in small letters", with(header.clone(), "alg", "es256"), "alg"),
    ] {
        refused(&server, what, &issuer.key.sign(&header.to_string(), &claims), says).await;
    }
    // What the header says of another key is not looked at: the signature is not that of the issuer's.
    for (member, value) in [
        ("jwk", stranger.jwk()),
        ("jku", json!("http://127.0.0.1:1/jwks.json")),
        ("x5u", json!("http://127.0.0.1:1/a.pem")),
        ("x5c", json!(["AAAA"])),
    ] {
        let header = with(header.clone(), member, value);
        refused(&server, member, &stranger.sign(&header.to_string(), &claims), "signature").await;
    }
    for (what, header) in [
        ("alg twice", message.replacen('{', "{\"alg\":\"none\",", 1)),
        ("alg twice, the same", message.replacen('{', "{\"alg\":\"ES256\",", 1)),
        ("kid twice, spelled in two ways", message.replacen('{', "{\"k\\u0069d\":\"first\",", 1)),
        ("unknown member twice", message.replacen('{', "{\"x\":1,\"x\":1,", 1)),
        ("no JSON", "{".to_owned()),
        ("an array", "[]".to_owned()),
    ] {
        refused(&server, what, &issuer.key.sign(&header, &claims), "twice").await;
    }
    assert_eq!(server.status(&issuer.key.token(&good())).await, 200);
    server.stop().await;
}

#[tokio::test]
async fn tokens_that_nobody_or_somebody_else_has_signed() {
    let server = Guarded::of_issuer().await;
    let issuer = server.issuer.as_ref().unwrap();
    let token = issuer.key.token(&good());
    assert_eq!(server.status(&token).await, 200);
    let (message, signature) = token.rsplit_once('.').unwrap();
    for alg in ["none", "None", "NONE", "nOnE"] {
        let header = with(issuer.key.header(), "alg", alg);
        let unsigned = format!("{}.{}.", base64url(header.to_string()), base64url(good().to_string()));
        refused(&server, alg, &unsigned, "nobody has signed").await;
        refused(&server, alg, &format!("{unsigned}{signature}"), "alg").await;
    }
    let point = serde_json::to_vec(&issuer.key.jwk()).unwrap();
    let hs256 = with(issuer.key.header(), "alg", "HS256");
    for secret in [&point[..], b"", issuer.key.jwk()["x"].as_str().unwrap().as_bytes()] {
        refused(&server, "HS256", &hmac_token(&hs256, secret), "--jwt-algorithms").await;
        refused(&server, "HMAC", &hmac_token(&issuer.key.header(), secret), "signature").await;
    }
    refused(&server, "another key", &SigningKey::ec("first").token(&good()), "signature").await;
    refused(&server, "a DER signature", &issuer.key.token_with_der_signature(&good()), "signature").await;
    let other = issuer.key.token(&with(good(), "sub", "other"));
    let (other_message, other_signature) = other.rsplit_once('.').unwrap();
    let mixed = format!(
        "{}.{}.{signature}",
        message.split_once('.').unwrap().0,
        other_message.split_once('.').unwrap().1
    );
    let zeros = base64url([0; 64]);
    for (what, changed) in [
        ("another token's signature", format!("{message}.{other_signature}")),
        ("another token's claims", mixed),
        ("a signature of zeros", format!("{message}.{zeros}")),
        ("a truncated signature", token[..token.len() - 4].to_owned()),
        ("a signature twice", format!("{message}.{signature}{signature}")),
        ("a padded signature", format!("{token}==")),
        ("no signature", format!("{message}.")),
        ("two parts", message.to_owned()),
        ("four parts", format!("{token}.{signature}")),
        ("a space within", token.replacen('.', " .", 1)),
        ("a megabyte", format!("{message}{}.{signature}", "A".repeat(40_000))),
    ] {
        refused(&server, what, &changed, "token").await;
    }
    // Each character of the signature counts, also the last one's lowest bits.
    for at in message.len() + 1..token.len() {
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let next = (alphabet.find(&token[at..=at]).unwrap() + 1) % 64;
        let changed = format!("{}{}{}", &token[..at], &alphabet[next..=next], &token[at + 1..]);
        assert_eq!(server.status(&changed).await, 401, "{at}");
    }
    assert_eq!(server.status(&token).await, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_megabyte_as_a_token_costs_nothing() {
    let config = aggregator_server::Config {
        max_head_bytes: "4MiB".parse().unwrap(),
        ..config(Issuer::new().location())
    };
    let issuer = Issuer::new();
    let server = Guarded::of(aggregator_server::Config { jwt_jwks: Some(issuer.location()), ..config }).await;
    let header = with(issuer.key.header(), "kid", "x".repeat(1 << 20));
    let answer = server.answer(&issuer.key.sign(&header.to_string(), &good().to_string())).await;
    answer.problem(401, "bad-credential");
    answer.tells(&["8 KiB"]);
    let claims = with(good(), "x", "x".repeat(8 << 10));
    server.answer(&issuer.key.token(&claims)).await.tells(&["8 KiB"]);
    server.stop().await;
}

/// The oldest of these: the public key, which everybody has, as the secret of HMAC.
#[tokio::test]
async fn the_public_key_of_rsa_is_no_secret() {
    let Some(rsa) = issuer::rsa() else { return };
    let issuer = Issuer::with_key(SigningKey::rsa("first", "RS256").unwrap());
    let server = Guarded::of(config(issuer.location())).await;
    let header = with(issuer.key.header(), "alg", "HS256");
    let pem = &rsa.public_pem[..];
    for secret in [pem, pem.trim_ascii(), issuer.key.jwk()["n"].as_str().unwrap().as_bytes()] {
        refused(&server, "HS256", &hmac_token(&header, secret), "--jwt-algorithms").await;
        refused(&server, "RS256", &hmac_token(&issuer.key.header(), secret), "signature").await;
    }
    let token = issuer.key.token(&good());
    let pss = SigningKey::rsa("first", "PS256").unwrap();
    refused(&server, "PS256", &pss.token(&good()), "--jwt-algorithms").await;
    refused(
        &server,
        "PSS as RS256",
        &pss.sign(&issuer.key.header().to_string(), &good().to_string()),
        "signature",
    )
    .await;
    refused(&server, "truncated", &token[..token.len() - 2], "signature").await;
    assert_eq!(server.status(&token).await, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_key_of_the_issuer_verifies_only_what_it_is_for() {
    let issuer = Issuer::new();
    let (jwk, key) = (issuer.key.jwk(), &issuer.key);
    let token = key.token(&good());
    let unnamed = key.sign(&without(key.header(), "kid").to_string(), &good().to_string());
    let secret = json!({"kty": "oct", "kid": "first", "k": base64url("secret")});
    let symmetric = hmac_token(&with(key.header(), "alg", "HS256"), b"secret");
    for (what, keys, is_good) in [
        ("as it is", json!([jwk]), true),
        ("for ES256", json!([with(with(jwk.clone(), "alg", "ES256"), "use", "sig")]), true),
        ("for another algorithm", json!([with(jwk.clone(), "alg", "ES384")]), false),
        ("for encryption", json!([with(jwk.clone(), "use", "enc")]), false),
        ("of another curve", json!([with(jwk.clone(), "crv", "P-384")]), false),
        ("of another type", json!([with(jwk.clone(), "kty", "RSA")]), false),
        ("with its private part", json!([with(jwk.clone(), "d", jwk["x"].clone())]), false),
        ("beside a symmetric one of that name", json!([secret, jwk]), true),
        ("none but a symmetric one", json!([secret]), false),
        ("none", json!([]), false),
    ] {
        issuer.publish(&json!({"keys": keys}).to_string());
        let server = Guarded::of(config(issuer.location())).await;
        let wanted = if is_good { 200 } else { 401 };
        for token in [&token, &unnamed] {
            assert_eq!(server.status(token).await, wanted, "{what}");
        }
        assert_eq!(server.status(&symmetric).await, 401, "{what}");
        server.stop().await;
    }
    // Without a name, a token has to be of the only key that it can be of.
    issuer.publish(&jwks(&[key, &SigningKey::ed("other")]));
    let server = Guarded::of(config(issuer.location())).await;
    assert_eq!((server.status(&token).await, server.status(&unnamed).await), (200, 200));
    server.stop().await;
    issuer.publish(&jwks(&[key, &SigningKey::ec("other")]));
    let server = Guarded::of(config(issuer.location())).await;
    assert_eq!(server.status(&token).await, 200);
    refused(&server, "two keys", &unnamed, "several keys").await;
    server.stop().await;
}
