-- Alarms have a life (domain/src/alarm.rs), and some belong to a source. Frozen.

-- scope: that of `counter`. A row is there for as long as the alarm holds, floods, or has changes that were not told.
-- time, acknowledged_at: nanoseconds since the epoch.
CREATE TABLE alarm_life (
    scope INTEGER NOT NULL,
    owner TEXT NOT NULL,
    series TEXT NOT NULL,
    code TEXT NOT NULL,
    filter TEXT NOT NULL,
    severity TEXT NOT NULL,
    time INTEGER NOT NULL,
    text TEXT NOT NULL,
    value REAL,
    generation TEXT,
    state TEXT NOT NULL,
    acknowledged_by TEXT,
    acknowledged_at INTEGER,
    flooding INTEGER NOT NULL,
    suppressed INTEGER NOT NULL,
    PRIMARY KEY (scope, owner, series, code)
) WITHOUT ROWID;
INSERT INTO alarm_life
    SELECT 2, pipeline, series, code, filter, severity, time, text, NULL, NULL, 'raised', NULL, NULL, 0, 0 FROM alarm;
DROP TABLE alarm;
ALTER TABLE alarm_life RENAME TO alarm;

-- Filters that change too many alarms, with the changes that were not told.
CREATE TABLE alarm_flood (
    scope INTEGER NOT NULL,
    owner TEXT NOT NULL,
    filter TEXT NOT NULL,
    suppressed INTEGER NOT NULL,
    PRIMARY KEY (scope, owner, filter)
) WITHOUT ROWID;

-- Series that a source sent, to know which fell silent (domain/src/silence.rs). stale: when it was heard last, by the wall
-- clock; NULL while it is heard.
CREATE TABLE heard (
    source TEXT NOT NULL,
    series TEXT NOT NULL,
    stale INTEGER,
    PRIMARY KEY (source, series)
) WITHOUT ROWID;
