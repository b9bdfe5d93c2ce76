-- Commands from the cloud (domain/src/command.rs). Frozen.

-- What was answered, so that a command that comes again is answered again and not carried out again; a bounded number of
-- them, the oldest go first. time: nanoseconds since the epoch. reply: the item, as JSON.
CREATE TABLE command (
    number INTEGER PRIMARY KEY,
    uplink INTEGER NOT NULL,
    id TEXT NOT NULL,
    time INTEGER NOT NULL,
    reply BLOB NOT NULL,
    UNIQUE (uplink, id)
);

-- Series whose every reading goes up for a time. until: nanoseconds since the epoch. sent: readings.
CREATE TABLE detail (
    uplink INTEGER NOT NULL,
    id TEXT NOT NULL,
    pipeline TEXT,
    series TEXT NOT NULL,
    until INTEGER NOT NULL,
    sent INTEGER NOT NULL,
    PRIMARY KEY (uplink, id)
) WITHOUT ROWID;

-- Readings of history on their way up: those of blocks next_block to end_block, not in it, whose time lies in
-- [from_time, to_time), nanoseconds since the epoch.
CREATE TABLE backfill (
    uplink INTEGER NOT NULL,
    id TEXT NOT NULL,
    pipeline TEXT,
    series TEXT NOT NULL,
    from_time INTEGER NOT NULL,
    to_time INTEGER NOT NULL,
    most INTEGER NOT NULL,
    next_block INTEGER NOT NULL,
    end_block INTEGER NOT NULL,
    sent INTEGER NOT NULL,
    incomplete INTEGER NOT NULL,
    PRIMARY KEY (uplink, id)
) WITHOUT ROWID;
