-- Who is signed in, found by the hash of a secret that only they have. Dead once a generation of the sign-in is below its
-- floor, whatever else the row says. `how` is JSON: when, how strongly and by which methods they showed who they are.
CREATE TABLE session (
    tenant            TEXT NOT NULL,
    secret            BLOB NOT NULL CHECK (length(secret) = 32),
    human             BLOB NOT NULL CHECK (length(human) = 16),
    how               TEXT NOT NULL,
    global_generation INTEGER NOT NULL CHECK (global_generation >= 0),
    tenant_generation INTEGER NOT NULL CHECK (tenant_generation >= 0),
    human_generation  INTEGER NOT NULL CHECK (human_generation >= 0),
    created_ms        INTEGER NOT NULL,
    idle_until_ms     INTEGER NOT NULL,
    ends_ms           INTEGER NOT NULL,
    PRIMARY KEY (tenant, secret)
) STRICT;
CREATE INDEX session_by_human ON session (tenant, human, created_ms DESC);
CREATE INDEX session_by_end ON session (idle_until_ms);

-- Secrets that are good once, as tagged hashes, until they have expired.
CREATE TABLE spent (
    tenant     TEXT NOT NULL,
    hash       BLOB NOT NULL CHECK (length(hash) = 32),
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, hash)
) STRICT;
CREATE INDEX spent_by_expiry ON spent (expires_ms);
