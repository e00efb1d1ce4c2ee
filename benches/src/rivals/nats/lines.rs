//! The lines about NATS, and what each of them promises.

use super::single::Key;
use super::{Mode, Sync, measure};
use crate::options::Options;
use crate::rivals::Tried;
use crate::workload::Workload;

pub(in crate::rivals) struct Line {
    pub(in crate::rivals) name: &'static str,
    pub(in crate::rivals) how: &'static str,
    pub(in crate::rivals) durability: &'static str,
    /// Whether it recognizes repeats. A line that does not must store every delivery.
    pub(in crate::rivals) has_dedup: bool,
    pub(in crate::rivals) try_it: fn(&Options, &Workload) -> anyhow::Result<Tried>,
}

pub(in crate::rivals) const LINES: [Line; 12] = [
    Line {
        name: "NATS JetStream, Nats-Msg-Id",
        how: "4 connections, 500 messages under way on each, file storage, one replica; a duplicate window of one hour, \
            which is kept in memory: a repeat after that is stored again",
        durability: "written to the operating system, fsynced every two minutes; each message by itself; ids in memory for \
            an hour",
        has_dedup: true,
        try_it: |options, workload| measure(options, workload, Mode::Single(Key::MessageId), Sync::Default),
    },
    Line {
        name: "NATS JetStream, one subject per id",
        how: "4 connections, 500 messages under way on each, file storage, one replica; \
            `Nats-Expected-Last-Subject-Sequence: 0` refuses repeats without a window",
        durability: "written to the operating system, fsynced every two minutes; each message by itself; no window",
        has_dedup: true,
        try_it: |options, workload| measure(options, workload, Mode::Single(Key::Subject), Sync::Default),
    },
    Line {
        name: "NATS JetStream, Nats-Msg-Id, sync_interval: always",
        how: "as with Nats-Msg-Id above, and `sync_interval: always`",
        durability: "fsynced; each message by itself; ids in memory for an hour",
        has_dedup: true,
        try_it: |options, workload| measure(options, workload, Mode::Single(Key::MessageId), Sync::Always),
    },
    Line {
        name: "NATS JetStream, Nats-Msg-Id, persist_mode: async",
        how: "as with Nats-Msg-Id above, and `persist_mode: async`",
        durability: "in the server's memory: a killed server loses it; each message by itself; ids in memory for an hour",
        has_dedup: true,
        try_it: |options, workload| measure(options, workload, Mode::Single(Key::MessageId), Sync::Later),
    },
    Line {
        name: "NATS JetStream, fast ingest, Nats-Msg-Id",
        how: "4 connections, each with an open batch and two flows of up to 500 messages under way; the same window. The \
            answers do not say which messages were repeats, so what is stored is counted at the end",
        durability: "written to the operating system, fsynced every two minutes; each message by itself, and its fate is not \
            told; ids in memory for an hour",
        has_dedup: true,
        try_it: |options, workload| measure(options, workload, Mode::Fast, Sync::Default),
    },
    Line {
        name: "NATS JetStream, fast ingest, Nats-Msg-Id, sync_interval: always",
        how: "as fast ingest above, and `sync_interval: always`",
        durability: "fsynced; each message by itself, and its fate is not told; ids in memory for an hour",
        has_dedup: true,
        try_it: |options, workload| measure(options, workload, Mode::Fast, Sync::Always),
    },
    Line {
        name: "NATS JetStream, atomic batches, Nats-Msg-Id",
        how: "4 connections, each with a batch of 1,000 messages under way, the most there may be; the same window. One repeat makes the server refuse \
            the whole batch, whose messages are then sent again one by one",
        durability: "written to the operating system, fsynced every two minutes; a batch without repeats is stored whole or \
            not at all; ids in memory for an hour",
        has_dedup: true,
        try_it: |options, workload| measure(options, workload, Mode::Atomic { ids: true }, Sync::Default),
    },
    Line {
        name: "NATS JetStream, atomic batches, Nats-Msg-Id, sync_interval: always",
        how: "as the line above, and `sync_interval: always`",
        durability: "fsynced; a batch without repeats is stored whole or not at all; ids in memory for an hour",
        has_dedup: true,
        try_it: |options, workload| measure(options, workload, Mode::Atomic { ids: true }, Sync::Always),
    },
    Line {
        name: "NATS JetStream, a lookup and an atomic batch, one subject per id",
        how: "1 connection, which asks which of 1,000 ids are stored (`multi_last`), and sends the others in an atomic batch \
            with `Nats-Expected-Last-Subject-Sequence: 0`",
        durability: "written to the operating system, fsynced every two minutes; the new events of a batch are stored whole \
            or not at all; no window",
        has_dedup: true,
        try_it: |options, workload| measure(options, workload, Mode::LookedUp, Sync::Default),
    },
    Line {
        name: "NATS JetStream, a lookup and an atomic batch, one subject per id, sync_interval: always",
        how: "as the line above, and `sync_interval: always`, which syncs once a batch",
        durability: "fsynced; the new events of a batch are stored whole or not at all; no window",
        has_dedup: true,
        try_it: |options, workload| measure(options, workload, Mode::LookedUp, Sync::Always),
    },
    Line {
        name: "NATS JetStream, atomic batches, no dedup",
        how: "4 connections, each with a batch of 1,000 messages under way, without ids: what atomic batches could do at most",
        durability: "written to the operating system, fsynced every two minutes; a batch is stored whole or not at all; \
            **repeats are stored again**",
        has_dedup: false,
        try_it: |options, workload| measure(options, workload, Mode::Atomic { ids: false }, Sync::Default),
    },
    Line {
        name: "NATS JetStream, atomic batches, no dedup, sync_interval: always",
        how: "as the line above, and `sync_interval: always`",
        durability: "fsynced; a batch is stored whole or not at all; **repeats are stored again**",
        has_dedup: false,
        try_it: |options, workload| measure(options, workload, Mode::Atomic { ids: false }, Sync::Always),
    },
];
