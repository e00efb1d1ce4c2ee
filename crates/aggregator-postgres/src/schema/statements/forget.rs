//! The statements for forgotten identities. Sessions prepare them at the first use: most never need them, and some stores
//! do not have the table.

use tokio_postgres::{Client, Statement};

use crate::fault::Result;

/// The oldest rows of a topic, behind the offset `$3`. Only the index of topics has this order, and the comparison of rows
/// lets a scan begin right behind that offset.
macro_rules! oldest_of_topic {
    ($columns:literal, $beyond:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM events i WHERE i.partition = $1 AND (i.topic_id + 0, i.\"offset\") > ($2, $3)
                  AND i.topic_id + 0 <= $2 AND i.\"offset\" ",
            $beyond,
            " ORDER BY i.topic_id + 0, i.\"offset\""
        )
    };
}

/// Up to `$5` of them that are older than the partition's newest row.
macro_rules! forgettable {
    () => {
        concat!(
            oldest_of_topic!("i.\"offset\", i.seq, i.processed_at, i.payload IS NULL", "< $4"),
            " LIMIT $5"
        )
    };
}

/// The mark of the topic with an id. Only the key gives this order.
macro_rules! mark_of_topic {
    ($partition:literal, $topic_id:literal) => {
        concat!(
            "SELECT o.* FROM forgotten o WHERE o.partition = ",
            $partition,
            " AND o.topic_id >= ",
            $topic_id,
            " AND o.topic_id <= ",
            $topic_id,
            " ORDER BY o.topic_id LIMIT 1"
        )
    };
}

/// Deletes the oldest rows of a topic, up to the offset `$4`. They are found by the index of topics, and deleted where they
/// are: for a condition that more than one index serves, the planner might scan the partition. Nobody moves them
/// meanwhile, because the partition is locked. The conditions that no index serves are for tables in parts, where a place
/// in one part is also one in the others.
pub(crate) const DELETE_IN_PLACE: &str = concat!(
    "DELETE FROM events WHERE ctid = ANY(ARRAY(",
    oldest_of_topic!("i.ctid", "<= $4"),
    ")) AND partition + 0 = $1 AND topic_id - 0 = $2 AND payload IS NULL"
);

/// The same for engines where rows have no places, and that send a statement to the shard of the partition it names.
pub(crate) const DELETE_BY_KEY: &str =
    "DELETE FROM events WHERE partition = $1 AND topic_id + 0 = $2 AND \"offset\" > $3 AND \"offset\" <= $4
     AND payload IS NULL";

statements! {
    /// The statements of appending sessions.
    ForgetWrites {
        // A topic and its mark.
        topic: concat!("SELECT t.topic_id, f.\"offset\", f.seq, f.rows, f.processed_at
                FROM (SELECT $2::text) AS k(topic) CROSS JOIN LATERAL (", topic_named!("$1"), ") AS t
                LEFT JOIN LATERAL (", mark_of_topic!("$1", "t.topic_id"), ") AS f ON true"),
        forgettable: forgettable!(),
        // The columns are those of one mark for each topic. `rows` is added to what is there.
        write_marks: "INSERT INTO forgotten AS f (partition, topic_id, \"offset\", seq, rows, processed_at)
                      SELECT p.partition, n.topic_id, n.\"offset\", n.seq, n.rows, n.processed_at
                      FROM partitions p
                      CROSS JOIN unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
                          AS n(topic_id, \"offset\", seq, rows, processed_at)
                      WHERE p.partition = $1
                      ON CONFLICT (partition, topic_id) DO UPDATE SET \"offset\" = excluded.\"offset\",
                          seq = excluded.seq, rows = f.rows + excluded.rows, processed_at = excluded.processed_at",
        seqs: concat!("SELECT f.topic_id, f.seq FROM unnest($2::bigint[]) AS k(topic_id)
               CROSS JOIN LATERAL (", mark_of_topic!("$1", "k.topic_id"), ") AS f"),
    }
}

statements! {
    /// The statements of reading sessions.
    ForgottenReads {
        forgettable: forgettable!(),
        last_mark: "SELECT partition, \"offset\" FROM forgotten WHERE partition = $1 ORDER BY \"offset\" DESC LIMIT 1",
        marks: "SELECT f.\"offset\", t.name, t.scope, f.seq, f.processed_at
                FROM (SELECT * FROM forgotten WHERE partition = $1 AND \"offset\" > $2 AND \"offset\" <= $3
                      ORDER BY \"offset\" LIMIT $4) AS f
                LEFT JOIN topics t ON t.partition = $1 AND t.topic_id = f.topic_id ORDER BY f.\"offset\"",
        // The marks of the topics with these names in one partition.
        times: concat!("SELECT t.name, f.processed_at, f.seq
                FROM (SELECT * FROM topics WHERE partition = $1 AND name = ANY($2)) AS t
                CROSS JOIN LATERAL (", mark_of_topic!("$1", "t.topic_id"), ") AS f"),
    }
}
