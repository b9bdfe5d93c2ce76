-- What sources call their messages by, so that one that comes twice is known. Frozen: see 0001.
CREATE TABLE source (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

-- The latest identities of each source that gives them: 16 bytes each, those of one commit group in a row.
-- id: the source's number in the upper bits, a counter in the lower 40, so that a source's rows are one range and a
-- commit appends to its end.
CREATE TABLE identity (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
