-- Root keys that were revoked by their public key (`spec/feed.md`, item kind 6), for good. Nothing is minted under them: asked
-- inside the transaction of each mint.
CREATE TABLE killed_root_key (
    tenant TEXT NOT NULL,
    key    BLOB NOT NULL CHECK (length(key) = 32),
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER killed_root_key_never_goes BEFORE DELETE ON killed_root_key BEGIN SELECT RAISE(ABORT, 'revoked root keys stay revoked'); END;
