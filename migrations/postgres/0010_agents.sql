-- Who stopped an agent: what one person stopped, only they or the role security may resume.
ALTER TABLE agent ADD COLUMN stopped_by BYTEA CHECK (stopped_by IS NULL OR octet_length(stopped_by) = 16);

-- When a rotated key ends. Whoever finds it ended revokes it.
ALTER TABLE agent_key ADD COLUMN ends_ms BIGINT;
CREATE INDEX agent_key_ending ON agent_key (tenant, ends_ms) WHERE ends_ms IS NOT NULL AND state = 'live';

-- Living keys first: revoked ones must not crowd them out of a bounded list.
DROP INDEX agent_key_by_agent;
CREATE INDEX agent_key_by_agent ON agent_key (tenant, agent, state, added_ms DESC, key);

-- What receipts have shown of a delegation: each token, each link under it, how often and when last.
-- `lid` and `parent` are empty for the token itself; `agent` is null for a link to a bare key.
CREATE TABLE used (
    tenant       TEXT COLLATE "C" NOT NULL,
    delegation   BYTEA NOT NULL CHECK (octet_length(delegation) = 16),
    tid          BYTEA NOT NULL CHECK (octet_length(tid) = 16),
    lid          BYTEA NOT NULL CHECK (octet_length(lid) IN (0, 16)),
    parent       BYTEA NOT NULL CHECK (octet_length(parent) IN (0, 16)),
    agent        BYTEA CHECK (agent IS NULL OR octet_length(agent) = 16),
    holder       BYTEA NOT NULL CHECK (octet_length(holder) = 32),
    expires_secs BIGINT NOT NULL,
    allowed      BIGINT NOT NULL,
    denied       BIGINT NOT NULL,
    last_ms      BIGINT NOT NULL,
    last_leaf    BIGINT NOT NULL,
    PRIMARY KEY (tenant, delegation, tid, lid)
);
CREATE INDEX used_newest ON used (tenant, delegation, last_ms);
CREATE INDEX used_by_expiry ON used (tenant, expires_secs);
