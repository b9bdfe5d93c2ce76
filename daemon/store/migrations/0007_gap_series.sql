-- The series of a loss, or the narrowest glob over those that were summed up; NULL where none is known.
ALTER TABLE gap ADD COLUMN series TEXT;
