//! Identities in the bodies of requests: they may have any character, so they come in no URL.

use std::fmt;
use std::marker::PhantomData;

use aggregator_core::{EventId, Identity, InvalidField, Source, Topic};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::problem::{ItemError, Problem};

/// An identity before it is checked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RequestedIdentity {
    topic: String,
    event_id: String,
    source: Option<String>,
}

/// A value that is written as an object. Serde alone would also take a list of a struct's fields.
#[derive(Debug)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

/// The identities, or every fault of them. `what` is what errors call one.
pub(crate) fn checked(
    requested: Vec<Object<RequestedIdentity>>,
    what: &str,
) -> Result<Vec<Identity>, Problem> {
    let mut errors = Vec::new();
    let mut ids = Vec::with_capacity(requested.len());
    for (index, Object(requested)) in requested.into_iter().enumerate() {
        match requested.check() {
            Ok(id) => ids.push(id),
            Err(error) => {
                errors.push(ItemError {
                    index: Some(index),
                    field: error.field.into(),
                    detail: error.reason,
                });
            }
        }
    }
    if errors.is_empty() { Ok(ids) } else { Err(Problem::invalid(errors, what)) }
}

impl RequestedIdentity {
    pub(crate) fn check(self) -> Result<Identity, InvalidField> {
        Ok(Identity {
            topic: Topic::new(self.topic)?,
            event_id: EventId::new(self.event_id)?,
            source: self.source.map(Source::new).transpose()?,
        })
    }
}
