-- What was taken before the machine's clock was set in a boot. Frozen: see 0001.

-- Boots of the machine. set_offset: wall minus monotonic time in nanoseconds when the clock was first known to be set;
-- NULL until then, and for ever where it never was.
CREATE TABLE boot (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, set_offset INTEGER);

-- Rows whose times are by a clock that was not set, and wait to be corrected. kind: 0 a block of history, 1 a row of
-- quarantine. monotonic: when it arrived. clock_offset: wall minus monotonic time as the clock stood then.
-- own_times: 1 where the readings brought their times along, so that their arrival alone is to be corrected.
CREATE TABLE unset (
    boot INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    id INTEGER NOT NULL,
    monotonic INTEGER NOT NULL,
    clock_offset INTEGER NOT NULL,
    own_times INTEGER NOT NULL,
    PRIMARY KEY (boot, kind, id)
) WITHOUT ROWID;

-- A window whose times are by a clock that was not set: which boot's, and how the clock stood. NULL: they are right.
ALTER TABLE open_window ADD COLUMN boot INTEGER;
ALTER TABLE open_window ADD COLUMN clock_offset INTEGER;
