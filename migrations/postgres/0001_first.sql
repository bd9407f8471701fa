-- Every table is keyed by tenant. Ids, keys and hashes are their bytes; times are milliseconds since 1970.
-- Text is compared and sorted by its bytes (`COLLATE "C"`), whatever locale the database was made with.

-- Where log and feed end. Every commit locks this row first and writes it last: it alone gives places and numbers
-- (sequences leave holes and are not in the order of commits). Room in the page lets each update stay in it.
CREATE TABLE head (
    tenant     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tree_size  BIGINT NOT NULL CHECK (tree_size >= 0),
    tree_root  BYTEA NOT NULL CHECK (octet_length(tree_root) = 32),
    feed_epoch BIGINT NOT NULL CHECK (feed_epoch >= 1),
    feed_seq   BIGINT NOT NULL CHECK (feed_seq >= 0),
    feed_hash  BYTEA NOT NULL CHECK (octet_length(feed_hash) = 32)
) WITH (fillfactor = 10);

-- Signed envelopes, as they were signed.
CREATE TABLE leaf (
    tenant TEXT COLLATE "C" NOT NULL,
    place  BIGINT NOT NULL CHECK (place >= 0),
    bytes  BYTEA NOT NULL,
    PRIMARY KEY (tenant, place)
);

-- Hash tiles at their widest; a narrower one is a prefix. Hashes do not compress: `EXTERNAL` saves the attempt.
CREATE TABLE tile (
    tenant TEXT COLLATE "C" NOT NULL,
    level  BIGINT NOT NULL CHECK (level >= 0),
    place  BIGINT NOT NULL CHECK (place >= 0),
    hashes BYTEA NOT NULL CHECK (octet_length(hashes) % 32 = 0 AND octet_length(hashes) BETWEEN 32 AND 8192),
    PRIMARY KEY (tenant, level, place)
);
ALTER TABLE tile ALTER COLUMN hashes SET STORAGE EXTERNAL;

CREATE TABLE feed (
    tenant  TEXT COLLATE "C" NOT NULL,
    epoch   BIGINT NOT NULL CHECK (epoch >= 1),
    seq     BIGINT NOT NULL CHECK (seq >= 1),
    payload BYTEA NOT NULL,
    key     BYTEA NOT NULL CHECK (octet_length(key) = 32),
    PRIMARY KEY (tenant, epoch, seq)
);

-- A log only grows. The service has no statement that would do these; this is for whoever else has its password.
-- The rights are taken from the owner, too; the triggers, which fire for replication roles as well, hold for a superuser.
REVOKE UPDATE, DELETE, TRUNCATE ON leaf, feed FROM PUBLIC, CURRENT_USER;
CREATE FUNCTION only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % never change and never go', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER leaf_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON leaf FOR EACH STATEMENT EXECUTE FUNCTION only_grows();
CREATE TRIGGER feed_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON feed FOR EACH STATEMENT EXECUTE FUNCTION only_grows();
ALTER TABLE leaf ENABLE ALWAYS TRIGGER leaf_only_grows;
ALTER TABLE feed ENABLE ALWAYS TRIGGER feed_only_grows;

CREATE TABLE key_list (
    tenant  TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL CHECK (version >= 1),
    signed  BYTEA NOT NULL,
    PRIMARY KEY (tenant, version)
);

-- How high each thing that can be killed has risen. What is not here stands at 0. The generation is the floor (law 6).
CREATE TABLE generation (
    tenant     TEXT COLLATE "C" NOT NULL,
    scope      BYTEA NOT NULL,
    generation BIGINT NOT NULL CHECK (generation > 0),
    PRIMARY KEY (tenant, scope)
);

CREATE FUNCTION only_rises() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'UPDATE' THEN
        RAISE EXCEPTION 'generations never go' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF new.generation <= old.generation OR new.tenant <> old.tenant OR new.scope <> old.scope THEN
        RAISE EXCEPTION 'generations only rise' USING ERRCODE = 'check_violation';
    END IF;
    RETURN new;
END $$;
CREATE TRIGGER generation_only_rises BEFORE UPDATE OR DELETE ON generation FOR EACH ROW EXECUTE FUNCTION only_rises();
CREATE TRIGGER generation_never_goes BEFORE TRUNCATE ON generation FOR EACH STATEMENT EXECUTE FUNCTION only_rises();
ALTER TABLE generation ENABLE ALWAYS TRIGGER generation_only_rises;
ALTER TABLE generation ENABLE ALWAYS TRIGGER generation_never_goes;

-- The only place that knows who a pseudonym is. Rows may be erased: nothing refers to them.
-- What the provider said is kept as UTF-8 bytes: PostgreSQL's text cannot hold U+0000, a provider's subject can.
CREATE TABLE human (
    tenant  TEXT COLLATE "C" NOT NULL,
    id      BYTEA NOT NULL CHECK (octet_length(id) = 16),
    issuer  BYTEA NOT NULL,
    subject BYTEA NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, issuer, subject)
);

-- What opens the salted hashes in the log. Erasable, like `human`, and bytes for the same reason.
CREATE TABLE opening (
    tenant TEXT COLLATE "C" NOT NULL,
    hash   BYTEA NOT NULL CHECK (octet_length(hash) = 32),
    salt   BYTEA NOT NULL CHECK (octet_length(salt) = 16),
    text   BYTEA NOT NULL,
    PRIMARY KEY (tenant, hash)
);

CREATE TABLE agent (
    tenant     TEXT COLLATE "C" NOT NULL,
    id         BYTEA NOT NULL CHECK (octet_length(id) = 16),
    name       TEXT COLLATE "C" NOT NULL,
    owner      BYTEA NOT NULL CHECK (octet_length(owner) = 16),
    state      TEXT NOT NULL CHECK (state IN ('active', 'suspended', 'retired')),
    generation BIGINT NOT NULL CHECK (generation >= 0),
    created_ms BIGINT NOT NULL CHECK (created_ms >= 0),
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, name)
);
CREATE INDEX agent_by_owner ON agent (tenant, owner, name);

CREATE TABLE agent_key (
    tenant   TEXT COLLATE "C" NOT NULL,
    key      BYTEA NOT NULL CHECK (octet_length(key) = 32),
    agent    BYTEA NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('live', 'revoked')),
    added_ms BIGINT NOT NULL CHECK (added_ms >= 0),
    PRIMARY KEY (tenant, key),
    FOREIGN KEY (tenant, agent) REFERENCES agent (tenant, id)
);
CREATE INDEX agent_key_by_agent ON agent_key (tenant, agent, added_ms, key);

-- Terms and generations are the JSON text that was written, byte for byte.
CREATE TABLE delegation (
    tenant      TEXT COLLATE "C" NOT NULL,
    id          BYTEA NOT NULL CHECK (octet_length(id) = 16),
    human       BYTEA NOT NULL CHECK (octet_length(human) = 16),
    agent       BYTEA NOT NULL,
    terms       TEXT NOT NULL,
    generations TEXT NOT NULL,
    version     BIGINT NOT NULL CHECK (version >= 1),
    revoked_ms  BIGINT CHECK (revoked_ms >= 0),
    created_ms  BIGINT NOT NULL CHECK (created_ms >= 0),
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, agent) REFERENCES agent (tenant, id)
);
CREATE INDEX delegation_by_human ON delegation (tenant, human, created_ms DESC, id);
CREATE INDEX delegation_by_agent ON delegation (tenant, agent, created_ms DESC, id);

-- What was minted, never its bytes.
CREATE TABLE token (
    tenant       TEXT COLLATE "C" NOT NULL,
    id           BYTEA NOT NULL CHECK (octet_length(id) = 16),
    delegation   BYTEA NOT NULL,
    expires_secs BIGINT NOT NULL CHECK (expires_secs >= 0),
    ancestors    BYTEA NOT NULL CHECK (octet_length(ancestors) % 16 = 0),
    revoked_ms   BIGINT CHECK (revoked_ms >= 0),
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, delegation) REFERENCES delegation (tenant, id)
);
CREATE INDEX token_by_expiry ON token (tenant, expires_secs);

-- Client assertions used up, until they have expired.
CREATE TABLE jti (
    tenant     TEXT COLLATE "C" NOT NULL,
    agent      BYTEA NOT NULL,
    hash       BYTEA NOT NULL CHECK (octet_length(hash) = 32),
    expires_ms BIGINT NOT NULL CHECK (expires_ms >= 0),
    PRIMARY KEY (tenant, agent, hash)
);
CREATE INDEX jti_by_expiry ON jti (tenant, expires_ms);

CREATE TABLE verifier (
    tenant      TEXT COLLATE "C" NOT NULL,
    id          BYTEA NOT NULL CHECK (octet_length(id) = 16),
    key         BYTEA NOT NULL CHECK (octet_length(key) = 32),
    audience    TEXT COLLATE "C" NOT NULL,
    enrolled_ms BIGINT NOT NULL CHECK (enrolled_ms >= 0),
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, key),
    UNIQUE (tenant, audience)
);

-- Which receipts were taken in, so that a second delivery is answered like the first.
CREATE TABLE receipt (
    tenant TEXT COLLATE "C" NOT NULL,
    slot   BYTEA NOT NULL CHECK (octet_length(slot) = 32),
    hash   BYTEA NOT NULL CHECK (octet_length(hash) = 32),
    leaf   BIGINT NOT NULL CHECK (leaf >= 0),
    PRIMARY KEY (tenant, slot)
);

-- Answers to requests that may be repeated; never a token.
CREATE TABLE answer (
    tenant     TEXT COLLATE "C" NOT NULL,
    key        BYTEA NOT NULL CHECK (octet_length(key) = 32),
    request    BYTEA NOT NULL CHECK (octet_length(request) = 32),
    body       TEXT NOT NULL,
    expires_ms BIGINT NOT NULL CHECK (expires_ms >= 0),
    leaf_from  BIGINT NOT NULL CHECK (leaf_from >= 0),
    leaf_until BIGINT NOT NULL CHECK (leaf_until >= leaf_from),
    feed_seq   BIGINT CHECK (feed_seq >= 1),
    PRIMARY KEY (tenant, key)
);
CREATE INDEX answer_by_expiry ON answer (tenant, expires_ms);

-- Which batches were committed: asked when the answer to a COMMIT got lost. Kept by time, not by count:
-- other replicas go on writing while one looks for its answer.
CREATE TABLE batch (
    tenant TEXT COLLATE "C" NOT NULL,
    id     BYTEA NOT NULL CHECK (octet_length(id) = 16),
    begun  TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, id)
);
CREATE INDEX batch_by_age ON batch (tenant, begun);
