-- Root keys that were revoked by their public key (`spec/feed.md`, item kind 6), for good. Nothing is minted under them: asked
-- inside the transaction of each mint.
CREATE TABLE killed_root_key (
    tenant TEXT COLLATE "C" NOT NULL,
    key    BYTEA NOT NULL CHECK (octet_length(key) = 32),
    PRIMARY KEY (tenant, key)
);

CREATE TRIGGER killed_root_key_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON killed_root_key FOR EACH STATEMENT EXECUTE FUNCTION only_grows();
ALTER TABLE killed_root_key ENABLE ALWAYS TRIGGER killed_root_key_only_grows;

-- How long what a run of a verifier said is kept after it was last posted (`spec/feed.md`, A4): as long as that run may
-- still allow on what it knew.
ALTER TABLE watch ADD COLUMN keep_ms BIGINT NOT NULL DEFAULT 60000 CHECK (keep_ms >= 0);
