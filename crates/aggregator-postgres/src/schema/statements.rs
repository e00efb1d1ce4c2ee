//! The statements of frequent calls. A session prepares them once.

use tokio_postgres::Client;

use aggregator_core::event::ERASED_PAYLOAD;

use crate::connection::engine::Engine;
use crate::connection::session::Role;
use crate::fault::Result;

/// Names statements, and prepares all of them in one round trip.
macro_rules! statements {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $sql:expr,)+ }) => {
        $(#[$doc])*
        pub(crate) struct $name {
            $(pub(crate) $field: Statement,)+
        }

        impl $name {
            pub(crate) async fn prepare(client: &Client) -> Result<Self> {
                // Boxed, because every call that may have to connect would be larger by all of them on its stack.
                let ($($field,)+) = tokio::try_join!($(Box::pin(client.prepare($sql)),)+)?;
                Ok(Self { $($field,)+ })
            }
        }
    };
}

/// The event with an identity. While the table is small or was never analyzed, all indexes that begin with the
/// partition look alike to the planner, and a plan made then can last long. With another index, it would read a whole
/// topic or partition for each identity. Only the index of identities gives this order without a sort.
macro_rules! identity {
    ($partition:literal, $topic_id:literal, $source_key:literal) => {
        concat!(
            "SELECT i.* FROM events i
             WHERE i.partition = ",
            $partition,
            " AND i.topic_id = ",
            $topic_id,
            " AND i.event_id >= k.event_id AND i.event_id <= k.event_id AND i.source_key = ",
            $source_key,
            " ORDER BY i.event_id LIMIT 1"
        )
    };
}

/// The rows that have an identity, or had it before it was released.
///
/// A released row has another `source_key`, so that the unique index lets its identity come again: the key, the
/// character 1, and the row's offset. No source has a control character, so released rows stand right behind the row
/// that has the identity, and in front of all other identities.
macro_rules! all_of_identity {
    ($partition:literal, $topic_id:literal, $source_key:literal) => {
        concat!(
            "SELECT i.*, i.source_key > ",
            $source_key,
            " AS released FROM events i
             WHERE i.partition = ",
            $partition,
            " AND i.topic_id = ",
            $topic_id,
            " AND i.event_id >= k.event_id AND i.event_id <= k.event_id AND i.source_key >= ",
            $source_key,
            " AND i.source_key < ",
            $source_key,
            " || chr(2) ORDER BY i.event_id"
        )
    };
}

/// An identity's key in the topic `t`.
macro_rules! key_in_topic {
    () => {
        "(SELECT CASE t.scope WHEN 0 THEN '' ELSE k.source END) AS s(key)"
    };
}

/// The topic with a name. Only the indexes on names give this order.
macro_rules! topic_named {
    ($partition:literal) => {
        concat!(
            "SELECT o.* FROM topics o WHERE o.partition = ",
            $partition,
            " AND o.name >= k.topic AND o.name <= k.topic ORDER BY o.name LIMIT 1"
        )
    };
}

/// The names of settings that are off on the server that runs this, so that it can lose acknowledged events.
macro_rules! unsafe_settings {
    ($further:literal) => {
        concat!(
            "concat_ws(', ', CASE WHEN current_setting('fsync', true) = 'off' THEN 'fsync' END,
                 CASE WHEN current_setting('full_page_writes', true) = 'off' THEN 'full_page_writes' END",
            $further,
            ")"
        )
    };
}
pub(crate) const UNSAFE_SETTINGS: &str = unsafe_settings!("");

/// What is read under the lock of a partition, beside its row. The clock is read after the lock is granted.
macro_rules! read_under_lock {
    () => {
        concat!(
            "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
             coalesce(current_setting('synchronous_standby_names', true), ''), ",
            // Citus runs this where the partition is, and that is not the server to which the session was made.
            unsafe_settings!(
                ", CASE WHEN current_setting('synchronous_commit', true) NOT IN ('on', 'remote_apply')
                        THEN 'synchronous_commit' END"
            )
        )
    };
}

/// Locks rows of partitions.
macro_rules! locked {
    ($which:literal) => {
        concat!(
            "SELECT p.*, ",
            read_under_lock!(),
            " FROM (SELECT partition, last_offset, last_processed_at, topics FROM partitions WHERE ",
            $which,
            " FOR UPDATE) AS p"
        )
    };
}

/// Locks a partition in a Citus cluster. A row that was only locked could be on another server by the time when it is
/// written: Citus moves shards while rows are locked, but not while a transaction that has changed one is open. The
/// statement after the lock would then see newer events than the lock has shown, or its commit would set them back.
const LOCK_IN_CLUSTER: &str = concat!(
    "WITH p AS (UPDATE partitions SET topics = topics WHERE partition = $1
                RETURNING partition, last_offset, last_processed_at, topics)
     SELECT p.*, ",
    read_under_lock!(),
    " FROM p"
);

/// A stored payload, if it is as long as the one that was sent or as the one of an erased event. Any other one differs
/// anyway.
macro_rules! payload_to_compare {
    () => {
        "CASE WHEN octet_length(e.payload) IN (k.payload_bytes, 15) THEN e.payload END"
    };
}
const _: () = assert!(ERASED_PAYLOAD.len() == 15, "the statement above says how long it is");

/// What is stored under identities, as `$rows` finds it.
macro_rules! originals {
    ($rows:ident, $partition:literal, $array:literal, $column:literal) => {
        concat!(
            "SELECT k.at, e.\"offset\", e.seq, e.processed_at, e.payload IS NULL, e.digest, ",
            payload_to_compare!(),
            " FROM unnest(",
            $array,
            "$2::bigint[], $3::text[], $4::text[], $5::bigint[]) WITH ORDINALITY AS k(",
            $column,
            "topic_id, event_id, source_key, payload_bytes, at)
             CROSS JOIN LATERAL (",
            $rows!($partition, "k.topic_id", "k.source_key"),
            ") AS e"
        )
    };
}

/// The event at an offset. Of the indexes that begin with the partition, only the one of offsets gives this order.
macro_rules! row_at {
    () => {
        "SELECT i.* FROM events i WHERE i.partition = $1 AND i.\"offset\" >= k.at AND i.\"offset\" <= k.at
         ORDER BY i.\"offset\" LIMIT 1"
    };
}

/// Changes the rows at offsets of one partition. They exist, so the insert always updates. For an UPDATE … FROM, the
/// planner might scan the partition.
macro_rules! change_rows {
    ($arrays:literal, $digest:literal, $set:literal) => {
        concat!(
            "INSERT INTO events (partition, \"offset\", topic_id, event_id, source, source_key, timestamp, processed_at,
                 digest)
             SELECT e.partition, e.\"offset\", e.topic_id, e.event_id, e.source, e.source_key, e.timestamp, e.processed_at, ",
            $digest,
            " FROM unnest(",
            $arrays,
            ") CROSS JOIN LATERAL (",
            row_at!(),
            ") AS e ON CONFLICT (partition, \"offset\") DO UPDATE SET ",
            $set
        )
    };
}

/// Writes topics in the state in which an import leaves them.
macro_rules! imported_topics {
    () => {
        "INSERT INTO topics (partition, topic_id, name, slot, scope, last_seq, purged_seq, purged_offset, duplicates,
             conflicts)
         SELECT p.partition, n.topic_id, n.name, n.slot, n.scope, n.last_seq, n.purged_seq, n.purged_offset,
                n.duplicates, n.conflicts
         FROM partitions p
         CROSS JOIN unnest($2::bigint[], $3::text[], $4::integer[], $5::integer[], $6::bigint[], $7::bigint[],
                           $8::bigint[], $9::bigint[], $10::bigint[])
             AS n(topic_id, name, slot, scope, last_seq, purged_seq, purged_offset, duplicates, conflicts)
         WHERE p.partition = $1"
    };
}

// The modules stand after the macros that they use.
mod append;
mod forget;
mod read;
mod records;

pub(crate) use self::append::Append;
pub(crate) use self::forget::{DELETE_BY_KEY, DELETE_IN_PLACE, ForgetWrites, ForgottenReads};
pub(crate) use self::read::Read;
pub(crate) use self::records::{RecordReads, RecordWrites};

/// The statements that a session has prepared.
pub(crate) enum Statements {
    Append(Box<Append>),
    Read(Box<Read>),
    None,
}

impl Statements {
    pub(crate) async fn prepare(client: &Client, role: Role, engine: Engine) -> Result<Self> {
        Ok(match role {
            Role::Append => {
                let mut append = Box::new(Append::prepare(client).await?);
                if engine == Engine::Citus {
                    append.lock = client.prepare(LOCK_IN_CLUSTER).await?;
                }
                Self::Append(append)
            }
            Role::Read => Self::Read(Box::new(Read::prepare(client).await?)),
            Role::Relay | Role::Migrate => Self::None,
        })
    }

    /// The statements of an appending session.
    pub(crate) fn append(&self) -> &Append {
        let Self::Append(statements) = self else { unreachable!("only appending sessions append") };
        statements
    }

    /// The statements of a reading session.
    pub(crate) fn read(&self) -> &Read {
        let Self::Read(statements) = self else { unreachable!("only reading sessions read") };
        statements
    }
}
