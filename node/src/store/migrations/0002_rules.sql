-- Offers have rules, and permissions have limits. What tasks are and what they used is stored in
-- another form than before, so jobs of format 1 cannot be read any more and go; whom the owner
-- allowed stays. Nothing of format 1 was ever released.
DELETE FROM jobs;
DELETE FROM dispatched;
DELETE FROM ends;
DELETE FROM hosted;
DELETE FROM templates;
DELETE FROM outbox;
DELETE FROM kept;

DROP TABLE offer;

-- What the owner offers: no row or one.
CREATE TABLE offer (
    only      INTEGER PRIMARY KEY CHECK (only = 1),
    total     BLOB    NOT NULL,
    allow_any INTEGER NOT NULL,
    rules     BLOB    NOT NULL
) STRICT;

-- NULL limits nothing.
ALTER TABLE allowed ADD COLUMN limits BLOB;

-- Peers that asked to run tasks here and were not allowed.
CREATE TABLE requests (
    seq     INTEGER PRIMARY KEY,
    peer    BLOB    NOT NULL UNIQUE,
    request BLOB    NOT NULL
) STRICT;
