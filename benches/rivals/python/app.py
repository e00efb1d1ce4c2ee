"""A small version of the earlier design: FastAPI, an asyncio queue, one consumer, one SQLite commit per event.

A reply says only that the events were queued. If the process ends, queued events are lost. So are the statistics,
which are kept in memory.
"""

import asyncio
import json
import os
import sqlite3
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field


class Event(BaseModel):
    topic: str = Field(min_length=1)
    event_id: str = Field(min_length=1)
    timestamp: datetime
    source: str
    payload: dict[str, Any] = {}


class DedupStore:
    def __init__(self, path: str) -> None:
        self.connection = sqlite3.connect(path)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")
        self.connection.execute(
            """CREATE TABLE IF NOT EXISTS processed_events (
                   topic TEXT NOT NULL,
                   event_id TEXT NOT NULL,
                   timestamp TEXT NOT NULL,
                   source TEXT NOT NULL,
                   payload TEXT NOT NULL,
                   PRIMARY KEY (topic, event_id)
               )"""
        )

    def store(self, event: Event) -> bool:
        """Stores the event and returns whether it is new."""
        cursor = self.connection.execute(
            "INSERT OR IGNORE INTO processed_events VALUES (?, ?, ?, ?, ?)",
            (event.topic, event.event_id, event.timestamp.isoformat(), event.source, json.dumps(event.payload)),
        )
        self.connection.commit()
        return cursor.rowcount == 1


store = DedupStore(os.environ["DB_PATH"])
queue: asyncio.Queue[Event] = asyncio.Queue()
stats = {"received": 0, "unique_processed": 0, "duplicate_dropped": 0}


async def consume() -> None:
    while True:
        event = await queue.get()
        new = store.store(event)
        stats["unique_processed" if new else "duplicate_dropped"] += 1
        queue.task_done()


@asynccontextmanager
async def lifespan(_: FastAPI):
    consumer = asyncio.create_task(consume())
    yield
    consumer.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/publish", status_code=202)
async def publish(events: Event | list[Event]) -> JSONResponse:
    events = events if isinstance(events, list) else [events]
    for event in events:
        stats["received"] += 1
        await queue.put(event)
    return JSONResponse({"status": "accepted", "received": len(events)}, status_code=202)


@app.get("/stats")
async def read_stats() -> dict[str, int]:
    return stats
