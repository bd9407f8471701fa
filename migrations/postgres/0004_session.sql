-- Who is signed in, found by the hash of a secret that only they have. Dead once a generation of the sign-in is below its
-- floor, whatever else the row says. `how` is JSON: when, how strongly and by which methods they showed who they are.
CREATE TABLE session (
    tenant            TEXT COLLATE "C" NOT NULL,
    secret            BYTEA NOT NULL CHECK (octet_length(secret) = 32),
    human             BYTEA NOT NULL CHECK (octet_length(human) = 16),
    how               TEXT NOT NULL,
    global_generation BIGINT NOT NULL CHECK (global_generation >= 0),
    tenant_generation BIGINT NOT NULL CHECK (tenant_generation >= 0),
    human_generation  BIGINT NOT NULL CHECK (human_generation >= 0),
    created_ms        BIGINT NOT NULL CHECK (created_ms >= 0),
    idle_until_ms     BIGINT NOT NULL CHECK (idle_until_ms >= 0),
    ends_ms           BIGINT NOT NULL CHECK (ends_ms >= 0),
    PRIMARY KEY (tenant, secret)
);
CREATE INDEX session_by_human ON session (tenant, human, created_ms DESC);
CREATE INDEX session_by_end ON session (tenant, idle_until_ms);

-- Secrets that are good once, as tagged hashes, until they have expired.
CREATE TABLE spent (
    tenant     TEXT COLLATE "C" NOT NULL,
    hash       BYTEA NOT NULL CHECK (octet_length(hash) = 32),
    expires_ms BIGINT NOT NULL CHECK (expires_ms >= 0),
    PRIMARY KEY (tenant, hash)
);
CREATE INDEX spent_by_expiry ON spent (tenant, expires_ms);
