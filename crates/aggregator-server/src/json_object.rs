//! JSON objects whose members are told apart.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

/// A JSON object that has no member twice. Parsers differ in which one of two they take, so whoever checks one of them and
/// uses the other is deceived.
#[derive(Debug, Default)]
pub(crate) struct JsonObject(BTreeMap<String, Value>);

impl JsonObject {
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A member that is a string, if there is one.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }
}

impl<'de> Deserialize<'de> for JsonObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = JsonObject;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonObject, A::Error> {
        let mut members = BTreeMap::new();
        while let Some((name, value)) = map.next_entry()? {
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member is there twice"));
            }
        }
        Ok(JsonObject(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_no_member_twice_however_it_is_spelled() {
        let object: JsonObject = serde_json::from_str(r#"{"a": 1, "b": {"a": 2}, "A": "x"}"#).unwrap();
        assert_eq!((object.text("A"), object.text("a"), object.get("a")), (Some("x"), None, Some(&1.into())));
        for wrong in [r#"{"a":1,"a":1}"#, r#"{"a":1,"b":2,"\u0061":3}"#, "[]", "null", "{", r#""a""#, "{} {}"]
        {
            assert!(serde_json::from_str::<JsonObject>(wrong).is_err(), "{wrong}");
        }
    }
}
