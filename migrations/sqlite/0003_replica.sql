-- PostgreSQL keeps a table of the processes that beat. SQLite has one writer, whose memory is that proof: no table here.
SELECT 1;
