-- The start of an epoch stands in the feed as number 0 of it (`spec/feed.md`). This engine's table allows that already.
SELECT 1;
