-- The start of an epoch stands in the feed as number 0 of it (`spec/feed.md`).
ALTER TABLE feed DROP CONSTRAINT feed_seq_check;
ALTER TABLE feed ADD CONSTRAINT feed_seq_check CHECK (seq >= 1 OR (seq = 0 AND epoch > 1));
