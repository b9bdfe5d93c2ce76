-- Generations of the pipelines' chains and their rollouts (domain/src/rollout/record.rs). Frozen.

-- record: JSON, what is active, what was before it, what is on trial and with which evidence, what was refused.
CREATE TABLE rollout (pipeline TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
