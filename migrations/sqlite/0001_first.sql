-- Every table is keyed by tenant. Ids, keys and hashes are their bytes; times are milliseconds since 1970.
-- `STRICT`: a column holds its type or nothing.

-- Where log and feed end. Every commit reads this row first and writes it last.
CREATE TABLE head (
    tenant     TEXT NOT NULL PRIMARY KEY,
    tree_size  INTEGER NOT NULL CHECK (tree_size >= 0),
    tree_root  BLOB NOT NULL CHECK (length(tree_root) = 32),
    feed_epoch INTEGER NOT NULL CHECK (feed_epoch >= 1),
    feed_seq   INTEGER NOT NULL CHECK (feed_seq >= 0),
    feed_hash  BLOB NOT NULL CHECK (length(feed_hash) = 32)
) STRICT, WITHOUT ROWID;

-- Signed envelopes, as they were signed.
CREATE TABLE leaf (
    tenant TEXT NOT NULL,
    place  INTEGER NOT NULL,
    bytes  BLOB NOT NULL,
    PRIMARY KEY (tenant, place)
) STRICT;

-- A log only grows. The application has no statement that would do these; this is for whoever else opens the file.
CREATE TRIGGER leaf_never_changes BEFORE UPDATE ON leaf BEGIN SELECT RAISE(ABORT, 'leaves never change'); END;
CREATE TRIGGER leaf_never_goes BEFORE DELETE ON leaf BEGIN SELECT RAISE(ABORT, 'leaves never go'); END;

-- Hash tiles at their widest; a narrower one is a prefix.
CREATE TABLE tile (
    tenant TEXT NOT NULL,
    level  INTEGER NOT NULL,
    place  INTEGER NOT NULL,
    hashes BLOB NOT NULL CHECK (length(hashes) % 32 = 0 AND length(hashes) BETWEEN 32 AND 8192),
    PRIMARY KEY (tenant, level, place)
) STRICT;

CREATE TABLE feed (
    tenant  TEXT NOT NULL,
    epoch   INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    payload BLOB NOT NULL,
    key     BLOB NOT NULL CHECK (length(key) = 32),
    PRIMARY KEY (tenant, epoch, seq)
) STRICT;

CREATE TRIGGER feed_never_changes BEFORE UPDATE ON feed BEGIN SELECT RAISE(ABORT, 'feed messages never change'); END;
CREATE TRIGGER feed_never_goes BEFORE DELETE ON feed BEGIN SELECT RAISE(ABORT, 'feed messages never go'); END;

CREATE TABLE key_list (
    tenant  TEXT NOT NULL,
    version INTEGER NOT NULL,
    signed  BLOB NOT NULL,
    PRIMARY KEY (tenant, version)
) STRICT;

-- How high each thing that can be killed has risen. What is not here stands at 0. The generation is the floor (law 6).
CREATE TABLE generation (
    tenant     TEXT NOT NULL,
    scope      BLOB NOT NULL,
    generation INTEGER NOT NULL CHECK (generation > 0),
    PRIMARY KEY (tenant, scope)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER generation_only_rises BEFORE UPDATE ON generation WHEN new.generation <= old.generation
BEGIN SELECT RAISE(ABORT, 'generations only rise'); END;

-- The only place that knows who a pseudonym is. Rows may be erased: nothing refers to them.
CREATE TABLE human (
    tenant  TEXT NOT NULL,
    id      BLOB NOT NULL CHECK (length(id) = 16),
    issuer  TEXT NOT NULL,
    subject TEXT NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, issuer, subject)
) STRICT, WITHOUT ROWID;

-- What opens the salted hashes in the log. Erasable, like `human`.
CREATE TABLE opening (
    tenant TEXT NOT NULL,
    hash   BLOB NOT NULL CHECK (length(hash) = 32),
    salt   BLOB NOT NULL CHECK (length(salt) = 16),
    text   TEXT NOT NULL,
    PRIMARY KEY (tenant, hash)
) STRICT, WITHOUT ROWID;

CREATE TABLE agent (
    tenant     TEXT NOT NULL,
    id         BLOB NOT NULL CHECK (length(id) = 16),
    name       TEXT NOT NULL,
    owner      BLOB NOT NULL CHECK (length(owner) = 16),
    state      TEXT NOT NULL CHECK (state IN ('active', 'suspended', 'retired')),
    generation INTEGER NOT NULL CHECK (generation >= 0),
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX agent_by_owner ON agent (tenant, owner, name);

CREATE TABLE agent_key (
    tenant   TEXT NOT NULL,
    key      BLOB NOT NULL CHECK (length(key) = 32),
    agent    BLOB NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('live', 'revoked')),
    added_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, key),
    FOREIGN KEY (tenant, agent) REFERENCES agent (tenant, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX agent_key_by_agent ON agent_key (tenant, agent, added_ms, key);

CREATE TABLE delegation (
    tenant      TEXT NOT NULL,
    id          BLOB NOT NULL CHECK (length(id) = 16),
    human       BLOB NOT NULL CHECK (length(human) = 16),
    agent       BLOB NOT NULL,
    terms       TEXT NOT NULL,
    generations TEXT NOT NULL,
    version     INTEGER NOT NULL CHECK (version >= 1),
    revoked_ms  INTEGER,
    created_ms  INTEGER NOT NULL,
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, agent) REFERENCES agent (tenant, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX delegation_by_human ON delegation (tenant, human, created_ms DESC, id);
CREATE INDEX delegation_by_agent ON delegation (tenant, agent, created_ms DESC, id);

-- What was minted, never its bytes.
CREATE TABLE token (
    tenant       TEXT NOT NULL,
    id           BLOB NOT NULL CHECK (length(id) = 16),
    delegation   BLOB NOT NULL,
    expires_secs INTEGER NOT NULL,
    ancestors    BLOB NOT NULL CHECK (length(ancestors) % 16 = 0),
    revoked_ms   INTEGER,
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, delegation) REFERENCES delegation (tenant, id)
) STRICT;
CREATE INDEX token_by_expiry ON token (expires_secs);

-- Client assertions used up, until they have expired.
CREATE TABLE jti (
    tenant     TEXT NOT NULL,
    agent      BLOB NOT NULL,
    hash       BLOB NOT NULL CHECK (length(hash) = 32),
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, agent, hash)
) STRICT;
CREATE INDEX jti_by_expiry ON jti (expires_ms);

CREATE TABLE verifier (
    tenant      TEXT NOT NULL,
    id          BLOB NOT NULL CHECK (length(id) = 16),
    key         BLOB NOT NULL CHECK (length(key) = 32),
    audience    TEXT NOT NULL,
    enrolled_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, key),
    UNIQUE (tenant, audience)
) STRICT, WITHOUT ROWID;

-- Which receipts were taken in, so that a second delivery is answered like the first.
CREATE TABLE receipt (
    tenant TEXT NOT NULL,
    slot   BLOB NOT NULL CHECK (length(slot) = 32),
    hash   BLOB NOT NULL CHECK (length(hash) = 32),
    leaf   INTEGER NOT NULL,
    PRIMARY KEY (tenant, slot)
) STRICT, WITHOUT ROWID;

-- Answers to requests that may be repeated; never a token.
CREATE TABLE answer (
    tenant     TEXT NOT NULL,
    key        BLOB NOT NULL CHECK (length(key) = 32),
    request    BLOB NOT NULL CHECK (length(request) = 32),
    body       TEXT NOT NULL,
    expires_ms INTEGER NOT NULL,
    leaf_from  INTEGER NOT NULL,
    leaf_until INTEGER NOT NULL,
    feed_seq   INTEGER,
    PRIMARY KEY (tenant, key)
) STRICT;
CREATE INDEX answer_by_expiry ON answer (expires_ms);

-- Which batches were committed: asked when the answer to a COMMIT got lost.
CREATE TABLE batch (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    id     BLOB NOT NULL CHECK (length(id) = 16),
    UNIQUE (tenant, id)
) STRICT;
