-- Whose authority a receipt's token rests on, and the newest receipts of a person or of all: the pages read them.
ALTER TABLE receipt ADD COLUMN human BLOB CHECK (human IS NULL OR length(human) = 16);
CREATE INDEX receipt_by_leaf ON receipt (tenant, leaf);
CREATE INDEX receipt_by_human ON receipt (tenant, human, leaf) WHERE human IS NOT NULL;
