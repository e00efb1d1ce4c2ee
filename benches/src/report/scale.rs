//! The part about the store over PostgreSQL.

use super::markdown::{count, ratio, row, spread, wide};
use crate::measures::scale::{Scale, ShardLine};

pub(super) fn render(scale: &Scale) -> String {
    let mut text = shards(&scale.shards);
    if let Some(reason) = &scale.skipped {
        text.push_str(&format!("Skipped: {reason}.\n"));
        return text;
    }
    if scale.lines.is_empty() {
        return text;
    }
    text.push_str(&format!(
        "PostgreSQL {version} on the same machine, over a Unix socket, with the settings of `initdb` except {settings}.\n\
         `fsync`, `synchronous_commit` and `full_page_writes` are on. {topics} topics. Every run has its own database.\n\
         The raw insert is `INSERT … SELECT FROM unnest … ON CONFLICT DO NOTHING` of the same rows, including repeats,\n\
         into the same table with the same indexes. A transaction is a prepared statement of {group} rows. Nothing is\n\
         looked up, locked, counted or announced. *store* appends the same groups from as many connections, without\n\
         HTTP. The servers have default options. {connections} connections send batches, and 64 send single events. All\n\
         nodes together share them, except with *a load each*, where every node has as many. *Behind HAProxy* uses\n\
         `docker/haproxy.cfg`: it fills a node with its limit of requests before it uses the next one, so the first may get\n\
         them all. No column has the processor time of HAProxy. A fifth of the deliveries are made before the clock runs,\n\
         because the first ones make connections and plan statements. The raw insert that a line is compared with had as\n\
         many partitions, in the same round. *Of the least* compares with the fewest partitions, or with one node that has\n\
         one load. *Per transaction* counts deliveries; notifications count as transactions too. Times are processor time\n\
         per delivery. Bytes of log are per delivery, those of table and indexes per event.\n\n\
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

fn shards(lines: &[ShardLine]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut text = "One server with default options over shards: `--store sqlite:DIR?shards=N`, or N PostgreSQL servers on this\n\
         machine with a database each. Connections that send batches of 500. A fifth of the deliveries are made before the\n\
         clock runs.\n\n\
         | what | deliveries | deliveries/s | of one | p99 (closed loop) | server |\n|---|--:|--:|--:|--:|--:|\n"
        .to_owned();
    for line in lines {
        let figures = [
            line.name.clone(),
            count(wide(line.deliveries)),
            spread(line.rate),
            line.of_one.map(ratio).unwrap_or_default(),
            format!("{:.1} ms", line.p99_ms),
            format!("{:.1} µs", line.server_us),
        ];
        row(&mut text, &figures, &[]);
    }
    text.push('\n');
    text
}
