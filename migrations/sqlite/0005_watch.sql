-- A verifier can be retired; its audience is then free for the next one, its key is not.
-- SQLite cannot drop a constraint: the table is made anew.
CREATE TABLE verifier_next (
    tenant      TEXT NOT NULL,
    id          BLOB NOT NULL CHECK (length(id) = 16),
    key         BLOB NOT NULL CHECK (length(key) = 32),
    audience    TEXT NOT NULL,
    enrolled_ms INTEGER NOT NULL,
    retired_ms  INTEGER,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, key)
) STRICT, WITHOUT ROWID;
INSERT INTO verifier_next (tenant, id, key, audience, enrolled_ms) SELECT tenant, id, key, audience, enrolled_ms FROM verifier;
DROP TABLE verifier;
ALTER TABLE verifier_next RENAME TO verifier;
CREATE UNIQUE INDEX verifier_in_force ON verifier (tenant, audience) WHERE retired_ms IS NULL;

-- When the kill switch was last tried, and the leaf that says so.
CREATE TABLE drill (
    tenant TEXT NOT NULL PRIMARY KEY,
    at_ms  INTEGER NOT NULL,
    leaf   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
