//! The statements of reading sessions.

use tokio_postgres::{Client, Statement};

use crate::fault::Result;

/// The name of an event's topic. Only the index of ids gives this order.
macro_rules! name_of_topic {
    () => {
        "(SELECT o.name FROM topics o WHERE o.partition = $1 AND o.topic_id >= e.topic_id
              AND o.topic_id <= e.topic_id ORDER BY o.topic_id LIMIT 1) AS t"
    };
}

/// What a scan needs to know about rows. The inner query finds the events before their topics, so that no plan reads
/// more events.
macro_rules! scan {
    ($from:literal, $beyond:literal, $order:literal) => {
        concat!(
            "SELECT e.\"offset\", e.processed_at, octet_length(e.payload), e.event_id, e.source, t.name, e.seq
             FROM (SELECT i.* FROM events i WHERE i.partition = $1 AND ",
            $from,
            " AND i.\"offset\" ",
            $beyond,
            " $2 ORDER BY i.\"offset\" ",
            $order,
            " LIMIT $3) AS e CROSS JOIN LATERAL ",
            name_of_topic!(),
            " ORDER BY e.\"offset\" ",
            $order
        )
    };
}

/// The same for the rows with one event id. They are found first, by the only index that gives their order, and sorted
/// then: there are few. Without the OFFSET, the planner would rather read the partition in the order of offsets.
macro_rules! scan_id {
    ($beyond:literal, $order:literal) => {
        concat!(
            "SELECT e.\"offset\", e.processed_at, octet_length(e.payload), e.event_id, e.source, t.name, e.seq
             FROM (SELECT f.* FROM (SELECT i.* FROM events i WHERE i.partition = $1 AND i.topic_id = $4
                                    AND i.event_id >= $5 AND i.event_id <= $5 ORDER BY i.event_id OFFSET 0) AS f
                   WHERE f.\"offset\" ",
            $beyond,
            " $2 ORDER BY f.\"offset\" ",
            $order,
            " LIMIT $3) AS e CROSS JOIN LATERAL ",
            name_of_topic!(),
            " ORDER BY e.\"offset\" ",
            $order
        )
    };
}

/// The same for several topics: up to `$3` rows of each.
macro_rules! scan_topics {
    ($beyond:literal, $order:literal) => {
        concat!(
            "SELECT e.\"offset\", e.processed_at, octet_length(e.payload), e.event_id, e.source, e.topic_id, e.seq
             FROM unnest($4::bigint[]) AS k(topic_id)
             CROSS JOIN LATERAL (SELECT i.* FROM events i
                                 WHERE i.partition = $1 AND i.topic_id + 0 = k.topic_id AND i.\"offset\" ",
            $beyond,
            " $2 ORDER BY i.\"offset\" ",
            $order,
            " LIMIT $3) AS e ORDER BY e.\"offset\" ",
            $order
        )
    };
}

macro_rules! topic_columns {
    () => {
        "SELECT t.name, t.scope, t.slot, t.last_seq, t.purged_seq, t.duplicates, t.conflicts"
    };
}

/// The first topics within ranges of names. No more are read of each range than fit into the page.
macro_rules! page_of_topics {
    () => {
        " FROM (SELECT n.* FROM unnest($1::text[], $2::text[]) AS k(low, high)
                CROSS JOIN LATERAL (SELECT o.* FROM topics o WHERE o.name >= k.low AND o.name < k.high
                                    ORDER BY o.name LIMIT $3) AS n
                ORDER BY n.name LIMIT $3) AS t"
    };
}

/// The time of a topic's first event from one end. Identities that were imported without events lie among the events:
/// at most 1,000 of them are passed over.
macro_rules! event_at_end {
    ($name:literal, $partition:literal, $which:literal, $order:literal) => {
        concat!(
            " LEFT JOIN LATERAL (
                  SELECT e.processed_at
                  FROM (SELECT i.processed_at, i.seq, i.\"offset\" FROM events i
                        WHERE i.partition = ",
            $partition,
            " AND i.topic_id + 0 = t.topic_id ",
            $which,
            " ORDER BY i.\"offset\" ",
            $order,
            " LIMIT 1001) AS e
                  WHERE e.seq IS NOT NULL ORDER BY e.\"offset\" ",
            $order,
            " LIMIT 1) AS ",
            $name,
            " ON true"
        )
    };
}

/// The times of the oldest event after the purged ones and of the newest event. The index on topics gives each from its
/// end.
macro_rules! times_of_topic {
    ($partition:literal) => {
        concat!(
            event_at_end!(
                "first",
                $partition,
                "AND t.purged_seq < t.last_seq AND i.\"offset\" > t.purged_offset",
                "ASC"
            ),
            event_at_end!("last", $partition, "AND t.last_seq > 0", "DESC")
        )
    };
}

statements! {
    /// The statements of reads and lookups.
    Read {
        // Of the statements about ends, anchors and removals, each has a form for one partition. Where partitions are on
        // several servers, that is the only form that is used.
        ends: "SELECT partition, last_offset FROM partitions",
        // For all topics: the last entry of each partition in the index of purged topics.
        purged_at_all: "SELECT p.partition, coalesce(t.purged_offset, 0) FROM partitions p
                        LEFT JOIN LATERAL (SELECT o.purged_offset FROM topics o
                                           WHERE o.partition = p.partition AND o.purged_offset > 0
                                           ORDER BY o.purged_offset DESC LIMIT 1) AS t ON true",
        purged_in_partition: "SELECT o.partition, o.purged_offset FROM topics o
                              WHERE o.partition = $1 AND o.purged_offset > 0 ORDER BY o.purged_offset DESC LIMIT 1",
        purged_of: "SELECT t.partition, max(t.purged_offset)
                    FROM unnest($2::text[], $3::text[]) AS k(low, high)
                    JOIN topics t ON t.partition = $1 AND t.purged_offset > 0 AND t.name >= k.low AND t.name < k.high
                    GROUP BY t.partition",
        purged: "SELECT t.partition, max(t.purged_offset)
                 FROM unnest($1::text[], $2::text[]) AS k(low, high)
                 JOIN topics t ON t.purged_offset > 0 AND t.name >= k.low AND t.name < k.high GROUP BY t.partition",
        // The row at each place, or the newest one before it, if there is one. Only the indexes of offsets and ids give these orders.
        anchors: "SELECT k.partition, e.\"offset\", t.name, e.seq, e.event_id, k.at
                  FROM unnest($1::integer[], $2::bigint[]) AS k(partition, at)
                  CROSS JOIN LATERAL (SELECT i.* FROM events i WHERE i.partition = k.partition AND i.\"offset\" <= k.at
                                      ORDER BY i.\"offset\" DESC LIMIT 1) AS e
                  CROSS JOIN LATERAL (SELECT o.name FROM topics o WHERE o.partition = k.partition
                                      AND o.topic_id >= e.topic_id AND o.topic_id <= e.topic_id
                                      ORDER BY o.topic_id LIMIT 1) AS t",
        anchors_of: "SELECT e.partition, e.\"offset\", t.name, e.seq, e.event_id, k.at
                     FROM unnest($2::bigint[]) AS k(at)
                     CROSS JOIN LATERAL (SELECT i.* FROM events i WHERE i.partition = $1 AND i.\"offset\" <= k.at
                                         ORDER BY i.\"offset\" DESC LIMIT 1) AS e
                     CROSS JOIN LATERAL (SELECT o.name FROM topics o WHERE o.partition = $1
                                         AND o.topic_id >= e.topic_id AND o.topic_id <= e.topic_id
                                         ORDER BY o.topic_id LIMIT 1) AS t",
        topic: "SELECT topic_id, purged_offset FROM topics WHERE partition = $1 AND name = $2",
        all_up: scan!("true", ">", "ASC"),
        all_down: scan!("true", "<", "DESC"),
        // The same expression as in the index on topics.
        topic_up: scan!("i.topic_id + 0 = $4", ">", "ASC"),
        topic_down: scan!("i.topic_id + 0 = $4", "<", "DESC"),
        id_up: scan_id!(">", "ASC"),
        id_down: scan_id!("<", "DESC"),
        topics_up: scan_topics!(">", "ASC"),
        topics_down: scan_topics!("<", "DESC"),
        topics_named: "SELECT t.topic_id, t.name FROM unnest($2::text[], $3::text[]) AS k(low, high)
                       CROSS JOIN LATERAL (SELECT o.topic_id, o.name FROM topics o
                                           WHERE o.partition = $1 AND o.name >= k.low AND o.name < k.high
                                           ORDER BY o.name LIMIT $4) AS t
                       LIMIT $4",
        // Binary search for an offset from $2 to $3. Events after $2 and up to it were stored before $4, later ones at
        // $4 or after. Identities that were imported without events may have any time, and are skipped.
        before_time: "WITH RECURSIVE search(low, high, middle) AS (
                          SELECT $2::bigint, $3::bigint, $2::bigint
                          UNION ALL
                          SELECT n.low, n.high, n.low + (n.high - n.low) / 2
                          FROM search s
                          LEFT JOIN LATERAL (SELECT e.\"offset\", e.processed_at FROM events e
                                             WHERE e.partition = $1 AND e.\"offset\" > s.middle AND e.seq IS NOT NULL
                                             ORDER BY e.\"offset\" LIMIT 1) AS e ON true
                          CROSS JOIN LATERAL (
                              SELECT CASE WHEN e.processed_at < $4 THEN least(e.\"offset\", s.high) ELSE s.low END,
                                     CASE WHEN e.processed_at < $4 THEN s.high ELSE s.middle END
                          ) AS n(low, high)
                          WHERE s.low < s.high)
                      SELECT max(low) FROM search",
        bodies: concat!("SELECT e.\"offset\", t.name, e.event_id, e.timestamp, e.source, e.payload, e.sequence,
                        e.content_type, e.attributes, e.seq, e.processed_at
                 FROM unnest($2::bigint[]) AS k(at) CROSS JOIN LATERAL (", row_at!(), ") AS e
                 CROSS JOIN LATERAL ", name_of_topic!()),
        seen: concat!("SELECT k.at, e.seq, e.processed_at, e.payload IS NULL
               FROM unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS k(topic, event_id, source, at)
               JOIN topics t ON t.partition = $1 AND t.name = k.topic
               CROSS JOIN LATERAL (",
               identity!("$1", "t.topic_id", "CASE t.scope WHEN 0 THEN '' ELSE k.source END"), ") AS e"),
        topics: concat!(topic_columns!(), page_of_topics!(), " ORDER BY t.name"),
        topics_with_times: concat!(topic_columns!(), ", first.processed_at, last.processed_at", page_of_topics!(),
                                   times_of_topic!("t.partition"), " ORDER BY t.name"),
        // Within one range of names, for engines with shards: each gives its own first ones.
        topics_in_range: concat!(topic_columns!(), " FROM topics t WHERE t.name >= $1 AND t.name < $2 ORDER BY t.name LIMIT $3"),
        // The topics with these names in one partition.
        topics_of: concat!(topic_columns!(), " FROM topics t WHERE t.partition = $1 AND t.name = ANY($2)"),
        topics_of_with_times: concat!(topic_columns!(), ", first.processed_at, last.processed_at",
                                      " FROM (SELECT * FROM topics WHERE partition = $1 AND name = ANY($2)) AS t",
                                      times_of_topic!("$1")),
        end: "SELECT last_offset FROM partitions WHERE partition = $1",
        end_of: "SELECT partition, last_offset FROM partitions WHERE partition = $1",
        totals_of: "SELECT stored, duplicates, conflicts, topics, last_processed_at FROM partitions WHERE partition = $1",
        // The last row is the one at which the payloads reach $4 bytes.
        rows: "SELECT e.\"offset\", t.name, t.scope, e.event_id, e.processed_at, e.seq, e.digest, e.payload,
                      e.source, e.timestamp, e.sequence, e.content_type, e.attributes,
                      strpos(e.source_key, chr(1)) > 0
               FROM (SELECT *, coalesce(sum(octet_length(payload)) OVER (
                                   ORDER BY \"offset\" ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
                     FROM (SELECT * FROM events WHERE partition = $1 AND \"offset\" > $2 ORDER BY \"offset\" LIMIT $3) i) e
               LEFT JOIN topics t ON t.partition = $1 AND t.topic_id = e.topic_id
               WHERE e.before < $4 ORDER BY e.\"offset\"",
        // Binary search for an offset from $3 to $4: events of the topic up to it have seqs below $5, later ones do not. The
        // events from there on are summed up to the seq $6.
        bytes: "WITH RECURSIVE search(low, high, middle) AS (
                    SELECT $3::bigint, $4::bigint, $3::bigint
                    UNION ALL
                    SELECT n.low, n.high, n.low + (n.high - n.low) / 2
                    FROM search s
                    LEFT JOIN LATERAL (SELECT i.\"offset\", i.seq FROM events i
                                       WHERE i.partition = $1 AND i.topic_id + 0 = $2 AND i.\"offset\" > s.middle
                                       AND i.seq IS NOT NULL
                                       ORDER BY i.\"offset\" LIMIT 1) AS e ON true
                    CROSS JOIN LATERAL (
                        SELECT CASE WHEN e.seq < $5 THEN least(e.\"offset\", s.high) ELSE s.low END,
                               CASE WHEN e.seq < $5 THEN s.high ELSE s.middle END
                    ) AS n(low, high)
                    WHERE s.low < s.high)
                SELECT coalesce(sum(octet_length(e.event_id) + octet_length(e.source) + octet_length(e.payload)), 0)::bigint
                FROM (SELECT max(low) AS low FROM search) AS f
                CROSS JOIN LATERAL (SELECT i.* FROM events i
                                    WHERE i.partition = $1 AND i.topic_id + 0 = $2 AND i.\"offset\" > f.low
                                    AND i.seq IS NOT NULL
                                    ORDER BY i.\"offset\" LIMIT $6::bigint - $5::bigint + 1) AS e
                WHERE e.seq <= $6 AND e.payload IS NOT NULL",
        totals: "SELECT coalesce(sum(stored), 0)::bigint, coalesce(sum(duplicates), 0)::bigint,
                        coalesce(sum(conflicts), 0)::bigint, coalesce(sum(topics), 0)::bigint, max(last_processed_at)
                 FROM partitions",
    }
}
