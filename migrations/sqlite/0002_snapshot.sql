-- What verifiers begin with, cut from the feed and cut anew as it grows: it could be lost without loss.

-- Contents pages of snapshots, as the feed key signs them. The newest few are kept.
CREATE TABLE snapshot (
    tenant  TEXT NOT NULL,
    epoch   INTEGER NOT NULL CHECK (epoch >= 1),
    seq     INTEGER NOT NULL CHECK (seq >= 1),
    payload BLOB NOT NULL,
    key     BLOB NOT NULL CHECK (length(key) = 32),
    PRIMARY KEY (tenant, epoch, seq)
) STRICT, WITHOUT ROWID;

-- Their segments by SHA-256. One that no page of the newest few names goes when it is old.
CREATE TABLE segment (
    tenant    TEXT NOT NULL,
    hash      BLOB NOT NULL CHECK (length(hash) = 32),
    bytes     BLOB NOT NULL CHECK (length(bytes) BETWEEN 1 AND 1048576),
    stored_ms INTEGER NOT NULL CHECK (stored_ms >= 0),
    PRIMARY KEY (tenant, hash)
) STRICT;
