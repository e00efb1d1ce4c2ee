//! The part about the store over PostgreSQL.

use super::markdown::{count, ratio, row, spread, wide};
use crate::measures::scale::Scale;

pub(super) fn render(scale: &Scale) -> String {
    let mut text = String::from("## Over PostgreSQL\n\n");
    if let Some(reason) = &scale.skipped {
        text.push_str(&format!("Skipped: {reason}.\n"));
        return text;
    }
    text.push_str(&format!(
        "PostgreSQL {version} on the same machine, over a Unix socket, as `initdb` makes it but for {settings};\n\
         `fsync`, `synchronous_commit` and `full_page_writes` are on. {topics} topics. Every run has a database of its\n\
         own. The raw insert is `INSERT … SELECT FROM unnest … ON CONFLICT DO NOTHING` of the same rows, repeats\n\
         included, into the same table with the same indexes: a prepared statement of {group} rows is a transaction, and\n\
         nothing is looked up, locked, counted or told. *store* appends the same groups from as many connections, without\n\
         HTTP. The servers have default options; {connections} connections send batches, 64 single events: all nodes together\n\
         share them, but for *a load each*, where every node has so many. *Behind HAProxy* is `docker/haproxy.cfg`, which\n\
         fills a node with its limit of requests before it goes on to the next, so that the first may have them all; what\n\
         processor time it takes is in no column. A fifth of the deliveries come before the clock\n\
         runs: connections are made, and statements planned, by those who first need them. What lines are held against\n\
         had as many partitions in the same round; *of the least* compares with the fewest partitions, or with one node\n\
         that has one load. *Per transaction* are deliveries, where notifications count as transactions, too. Times\n\
         are processor time per delivery; bytes of log are per delivery, those of table and indexes per event.\n\n\
         | what | deliveries | deliveries/s | of the raw insert | of the least | p99 (closed loop) | per transaction \
         | nodes | database | log | table | indexes |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        version = scale.version,
        settings = scale.settings.join(", "),
        topics = scale.topics,
        group = scale.group,
        connections = scale.connections,
    ));
    for line in &scale.lines {
        let or_nothing = |figure: Option<String>| figure.unwrap_or_default();
        let deliveries = wide(line.deliveries);
        let figures = [
            line.name.clone(),
            count(deliveries),
            spread(line.rate),
            or_nothing(line.of_raw.map(ratio)),
            or_nothing(line.of_least.map(ratio)),
            or_nothing(line.p99_ms.map(|ms| format!("{ms:.1} ms"))),
            format!("{:.0}", line.cost.group),
            or_nothing(line.nodes_us.map(|us| format!("{us:.1} µs"))),
        ];
        let cost = &line.cost;
        let bytes = [cost.wal_bytes, cost.table_bytes, cost.index_bytes].map(|bytes| format!("{bytes:.0} B"));
        row(&mut text, &figures, &[&[format!("{:.1} µs", cost.database_us)][..], &bytes].concat());
    }
    if let Some(reason) = &scale.without {
        text.push_str(&format!("\nNo lines behind HAProxy: {reason}.\n"));
    }
    text
}
