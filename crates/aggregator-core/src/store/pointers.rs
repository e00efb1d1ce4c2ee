//! A pointer to a store is a store.

use std::sync::Arc;

use super::{
    Amend, AppendAcross, AttemptId, DedupStore, Forget, Maintain, Outage, Receipt, Records, Seen,
    StoreGauges, StoreInfo, StoreStats, TopicInfo, Transfer, Watch,
};
use crate::{Batch, EventRef, Identity, Page, Partition, Partitions, Query, StoreError, TopicQuery};

/// Every method goes to the store behind the pointer, those with a default as well.
macro_rules! store_behind {
    ($pointer:ident) => {
        impl<S: DedupStore + ?Sized> DedupStore for $pointer<S> {
            fn info(&self) -> &StoreInfo {
                (**self).info()
            }

            fn append(
                &self,
                partition: Partition,
                attempt: AttemptId,
                events: &[EventRef<'_>],
            ) -> Result<Vec<Receipt>, StoreError> {
                (**self).append(partition, attempt, events)
            }

            fn prepare(&self, batch: &mut Batch) {
                (**self).prepare(batch);
            }

            fn read(&self, query: &Query) -> Result<Page, StoreError> {
                (**self).read(query)
            }

            fn lookup(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
                (**self).lookup(ids)
            }

            fn topics(&self, query: &TopicQuery) -> Result<Vec<TopicInfo>, StoreError> {
                (**self).topics(query)
            }

            fn stats(&self) -> Result<StoreStats, StoreError> {
                (**self).stats()
            }

            fn check_health(&self) -> Result<(), StoreError> {
                (**self).check_health()
            }

            fn outages(&self) -> Vec<Outage> {
                (**self).outages()
            }

            fn gauges(&self) -> Option<StoreGauges> {
                (**self).gauges()
            }

            fn across(&self) -> Option<&dyn AppendAcross> {
                (**self).across()
            }

            fn maintain(&self) -> Option<&dyn Maintain> {
                (**self).maintain()
            }

            fn forget(&self) -> Option<&dyn Forget> {
                (**self).forget()
            }

            fn amend(&self) -> Option<&dyn Amend> {
                (**self).amend()
            }

            fn transfer(&self) -> Option<&dyn Transfer> {
                (**self).transfer()
            }

            fn records(&self) -> Option<&dyn Records> {
                (**self).records()
            }

            fn watch(&self) -> Option<&dyn Watch> {
                (**self).watch()
            }

            fn partitions(&self) -> Partitions {
                (**self).partitions()
            }
        }
    };
}

store_behind!(Arc);
store_behind!(Box);
