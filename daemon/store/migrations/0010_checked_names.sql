-- Names carry a checksum of table, number and name, so that salvage knows a damaged one (store/src/names.rs). Frozen.
-- The rows that are there already get theirs in the same transaction.
ALTER TABLE pipeline ADD COLUMN checksum INTEGER;
ALTER TABLE uplink ADD COLUMN checksum INTEGER;
ALTER TABLE slot ADD COLUMN checksum INTEGER;
ALTER TABLE source ADD COLUMN checksum INTEGER;
ALTER TABLE series ADD COLUMN checksum INTEGER;
