-- What verifiers begin with, cut from the feed and cut anew as it grows: it could be lost without loss.

-- Contents pages of snapshots, as the feed key signs them. The newest few are kept.
CREATE TABLE snapshot (
    tenant  TEXT COLLATE "C" NOT NULL,
    epoch   BIGINT NOT NULL CHECK (epoch >= 1),
    seq     BIGINT NOT NULL CHECK (seq >= 1),
    payload BYTEA NOT NULL,
    key     BYTEA NOT NULL CHECK (octet_length(key) = 32),
    PRIMARY KEY (tenant, epoch, seq)
);

-- Their segments by SHA-256. One that no page of the newest few names goes when it is old. Ids do not compress.
CREATE TABLE segment (
    tenant    TEXT COLLATE "C" NOT NULL,
    hash      BYTEA NOT NULL CHECK (octet_length(hash) = 32),
    bytes     BYTEA NOT NULL CHECK (octet_length(bytes) BETWEEN 1 AND 1048576),
    stored_ms BIGINT NOT NULL CHECK (stored_ms >= 0),
    PRIMARY KEY (tenant, hash)
);
ALTER TABLE segment ALTER COLUMN bytes SET STORAGE EXTERNAL;
