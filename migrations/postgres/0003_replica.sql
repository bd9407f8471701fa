-- One row for each process that beats: a transaction that writes nothing waits for no standby and proves nothing.
-- Room in the page lets each update stay in it.
CREATE TABLE beat (
    replica BYTEA NOT NULL PRIMARY KEY CHECK (octet_length(replica) = 16),
    at      TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 10);
