-- The first layout of the store. Frozen: a change is a new numbered file beside this one.
-- Times are nanoseconds since the epoch unless a column says otherwise.

-- Every count and clock in one small table, so that a commit dirties one page for all of them.
-- scope: 0 the store itself, 1 a source, 2 a pipeline, 3 an uplink.
CREATE TABLE counter (
    scope INTEGER NOT NULL,
    name TEXT NOT NULL,
    counter TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (scope, name, counter)
) WITHOUT ROWID;

-- Names that rows refer to by number.
CREATE TABLE pipeline (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE uplink (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, stream TEXT NOT NULL);
CREATE TABLE slot (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
-- slots: the filters of the chain, as JSON.
CREATE TABLE generation (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, slots TEXT NOT NULL);
-- seen: a block of history near the last one that names the series; see series.rs.
CREATE TABLE series (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, seen INTEGER NOT NULL);

-- Readings, one block for a pipeline's share of a commit group, at most 1024 rows. id: the order of commits, never
-- used twice. arrival: by the wall clock, NULL while that was not set. data: see block.rs.
CREATE TABLE history (
    id INTEGER PRIMARY KEY,
    pipeline INTEGER NOT NULL,
    generation INTEGER,
    arrival INTEGER,
    from_time INTEGER NOT NULL,
    to_time INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    data BLOB NOT NULL
);

-- Windows that are not closed yet. Their readings are the rows of blocks from first_block on that lie in
-- [from_time, to_time). opened: the arrival clock at that moment.
CREATE TABLE open_window (
    pipeline INTEGER NOT NULL,
    from_time INTEGER NOT NULL,
    series INTEGER NOT NULL,
    to_time INTEGER NOT NULL,
    late INTEGER NOT NULL,
    opened INTEGER NOT NULL,
    first_block INTEGER NOT NULL,
    incomplete INTEGER NOT NULL,
    PRIMARY KEY (pipeline, from_time, series, to_time, late)
) WITHOUT ROWID;

-- What waits for the uplinks. id: (uplink, kind, priority) in the upper bits, a counter in the lower 40; see
-- outbox.rs. created: by the wall clock. from_time, to_time: milliseconds. body: JSON objects joined by commas.
CREATE TABLE item (
    id INTEGER PRIMARY KEY,
    created INTEGER NOT NULL,
    pipeline INTEGER,
    items INTEGER NOT NULL,
    from_time INTEGER NOT NULL,
    to_time INTEGER NOT NULL,
    body BLOB NOT NULL
);

-- Sealed messages that wait: the rows first_item..=last_item of `item`.
CREATE TABLE message (
    uplink INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    items INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    first_item INTEGER NOT NULL,
    last_item INTEGER NOT NULL,
    PRIMARY KEY (uplink, priority, seq)
) WITHOUT ROWID;

-- Messages that the other end refused, with their bytes.
CREATE TABLE rejected (
    id INTEGER PRIMARY KEY,
    uplink INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    items INTEGER NOT NULL,
    time INTEGER NOT NULL,
    reason TEXT NOT NULL,
    body BLOB NOT NULL
);

-- Losses that no gap item has told yet. from_time, to_time: milliseconds. items: NULL where nobody knows.
CREATE TABLE gap (
    id INTEGER PRIMARY KEY,
    uplink INTEGER NOT NULL,
    source TEXT,
    pipeline TEXT,
    reason TEXT NOT NULL,
    from_time INTEGER NOT NULL,
    to_time INTEGER NOT NULL,
    items INTEGER,
    seq_from INTEGER,
    seq_to INTEGER
);

-- Alarms that are raised.
CREATE TABLE alarm (
    pipeline TEXT NOT NULL,
    series TEXT NOT NULL,
    code TEXT NOT NULL,
    filter TEXT NOT NULL,
    severity TEXT NOT NULL,
    time INTEGER NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (pipeline, series, code)
) WITHOUT ROWID;

-- What a decoder or a filter failed on. A message has source and topic, and data is its payload as far as it was kept;
-- readings have pipeline and filter, and data is a block with names (block.rs). items: 1, or the rows.
-- length: the payload's before it was cut. bytes: what the row counts for in quarantine's share of the store.
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY,
    source TEXT,
    topic TEXT,
    pipeline TEXT,
    filter TEXT,
    generation INTEGER,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    arrival INTEGER NOT NULL,
    synced INTEGER NOT NULL,
    items INTEGER NOT NULL,
    length INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    data BLOB NOT NULL
);

-- Filter state: a snapshot of each slot and what changed since; see state.rs.
CREATE TABLE state_snapshot (slot INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE state_log (id INTEGER PRIMARY KEY, slot INTEGER NOT NULL, delta BLOB NOT NULL);

-- How often a redelivered message was attempted after unclean exits, by SHA-256.
CREATE TABLE attempt (digest BLOB PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
