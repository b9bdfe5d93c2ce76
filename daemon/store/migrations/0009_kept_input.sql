-- What entered pipelines, kept for a while so that a module can be rehearsed on it (store/src/kept.rs). Frozen.

-- id: ascending in the order of commits. arrival: what the filters saw as the present, nanoseconds since the epoch.
-- data: the readings, with the names of their series (block.rs).
CREATE TABLE input (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pipeline INTEGER NOT NULL,
    arrival INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE INDEX input_of_pipeline ON input (pipeline, id);
