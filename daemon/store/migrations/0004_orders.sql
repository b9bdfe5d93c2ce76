-- What an operator orders about quarantine, carried out row by row over many commits. Frozen.

-- attempts: how often a replay of the row failed. tried: the last order whose replay failed on it.
ALTER TABLE quarantine ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE quarantine ADD COLUMN tried INTEGER NOT NULL DEFAULT 0;

-- Orders under way. id: ascending, never used twice. action: 0 replay, 1 drop. accepted: by the wall clock.
-- selection: JSON, as in the API. last: the highest row that was there. through, failed: rows so far that left
-- quarantine by it, and that stayed.
CREATE TABLE quarantine_order (
    id INTEGER PRIMARY KEY,
    action INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    selection TEXT NOT NULL,
    last INTEGER NOT NULL,
    through INTEGER NOT NULL,
    failed INTEGER NOT NULL
);
