-- A verifier can be retired; its audience is then free for the next one, its key is not.
ALTER TABLE verifier ADD COLUMN retired_ms BIGINT CHECK (retired_ms >= 0);
ALTER TABLE verifier DROP CONSTRAINT verifier_tenant_audience_key;
CREATE UNIQUE INDEX verifier_in_force ON verifier (tenant, audience) WHERE retired_ms IS NULL;

-- When the kill switch was last tried, and the leaf that says so.
CREATE TABLE drill (
    tenant TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    at_ms  BIGINT NOT NULL CHECK (at_ms >= 0),
    leaf   BIGINT NOT NULL CHECK (leaf >= 0)
);

-- What each process of a verifier last acknowledged, at whichever replica. Outside the head's lock, and worth nothing
-- after a crash: verifiers say it again within a second.
CREATE UNLOGGED TABLE watch (
    tenant   TEXT COLLATE "C" NOT NULL,
    verifier BYTEA NOT NULL CHECK (octet_length(verifier) = 16),
    run      BYTEA NOT NULL CHECK (octet_length(run) = 16),
    number   BIGINT NOT NULL CHECK (number >= 1),
    since_ms BIGINT NOT NULL CHECK (since_ms >= 0),
    acked_ms BIGINT NOT NULL CHECK (acked_ms >= 0),
    streams  BOOLEAN NOT NULL,
    ack      BYTEA NOT NULL CHECK (octet_length(ack) <= 1024),
    posted   TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (tenant, verifier, run)
) WITH (fillfactor = 50);
CREATE INDEX watch_by_posted ON watch (tenant, posted);
