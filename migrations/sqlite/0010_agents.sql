-- Who stopped an agent: what one person stopped, only they or the role security may resume.
ALTER TABLE agent ADD COLUMN stopped_by BLOB CHECK (stopped_by IS NULL OR length(stopped_by) = 16);

-- When a rotated key ends. Whoever finds it ended revokes it.
ALTER TABLE agent_key ADD COLUMN ends_ms INTEGER;
CREATE INDEX agent_key_ending ON agent_key (tenant, ends_ms) WHERE ends_ms IS NOT NULL AND state = 'live';

-- Living keys first: revoked ones must not crowd them out of a bounded list.
DROP INDEX agent_key_by_agent;
CREATE INDEX agent_key_by_agent ON agent_key (tenant, agent, state, added_ms DESC, key);

-- What receipts have shown of a delegation: each token, each link under it, how often and when last.
-- `lid` and `parent` are empty for the token itself; `agent` is null for a link to a bare key.
CREATE TABLE used (
    tenant       TEXT NOT NULL,
    delegation   BLOB NOT NULL CHECK (length(delegation) = 16),
    tid          BLOB NOT NULL CHECK (length(tid) = 16),
    lid          BLOB NOT NULL CHECK (length(lid) IN (0, 16)),
    parent       BLOB NOT NULL CHECK (length(parent) IN (0, 16)),
    agent        BLOB CHECK (agent IS NULL OR length(agent) = 16),
    holder       BLOB NOT NULL CHECK (length(holder) = 32),
    expires_secs INTEGER NOT NULL,
    allowed      INTEGER NOT NULL,
    denied       INTEGER NOT NULL,
    last_ms      INTEGER NOT NULL,
    last_leaf    INTEGER NOT NULL,
    PRIMARY KEY (tenant, delegation, tid, lid)
) STRICT;
CREATE INDEX used_newest ON used (tenant, delegation, last_ms);
CREATE INDEX used_by_expiry ON used (expires_secs);
