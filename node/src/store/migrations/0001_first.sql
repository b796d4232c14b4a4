-- What a node must find again after it ended in any way. Children name their parent by its `seq`;
-- a parent and its children always go in one transaction. `seq` is also the order of storing.

-- This node's own jobs. `state` is NULL while a job is not over.
CREATE TABLE jobs (
    seq         INTEGER PRIMARY KEY,
    id          BLOB    NOT NULL UNIQUE,
    plan        BLOB    NOT NULL,
    out         TEXT,
    created_ms  INTEGER NOT NULL,
    state       INTEGER,
    finished_ms INTEGER,
    notes       BLOB
) STRICT;

-- Finds the finished jobs beyond the newest thousand without reading a single plan.
CREATE INDEX jobs_over ON jobs (seq) WHERE state IS NOT NULL;

-- One row an offer. `digest` names peer and tasks, so that an offer is stored once.
CREATE TABLE dispatched (
    seq    INTEGER PRIMARY KEY,
    job    INTEGER NOT NULL,
    digest BLOB    NOT NULL,
    peer   BLOB    NOT NULL,
    tasks  BLOB    NOT NULL,
    UNIQUE (job, digest)
) STRICT;

-- One row an attempt that ended. `rest` is outcome, usage and outputs.
CREATE TABLE ends (
    seq       INTEGER PRIMARY KEY,
    job       INTEGER NOT NULL,
    step      INTEGER NOT NULL,
    task      INTEGER NOT NULL,
    attempt   INTEGER NOT NULL,
    peer      BLOB    NOT NULL,
    rest      BLOB    NOT NULL,
    collected INTEGER NOT NULL,
    last      INTEGER NOT NULL,
    UNIQUE (job, step, task, attempt)
) STRICT;

-- Other peers' jobs that this node runs tasks of.
CREATE TABLE hosted (
    seq          INTEGER PRIMARY KEY,
    submitter    BLOB    NOT NULL,
    job          BLOB    NOT NULL,
    acknowledged INTEGER NOT NULL DEFAULT 0,
    UNIQUE (submitter, job)
) STRICT;

CREATE TABLE templates (
    seq      INTEGER PRIMARY KEY,
    hosted   INTEGER NOT NULL,
    step     INTEGER NOT NULL,
    template BLOB    NOT NULL,
    UNIQUE (hosted, step)
) STRICT;

-- Events that the submitter has not acknowledged.
CREATE TABLE outbox (
    hosted INTEGER NOT NULL,
    number INTEGER NOT NULL,
    event  BLOB    NOT NULL,
    PRIMARY KEY (hosted, number)
) STRICT, WITHOUT ROWID;

-- Attempts that ended well and whose outputs are still kept here.
CREATE TABLE kept (
    seq     INTEGER PRIMARY KEY,
    hosted  INTEGER NOT NULL,
    step    INTEGER NOT NULL,
    task    INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    outputs BLOB    NOT NULL,
    UNIQUE (hosted, step, task, attempt)
) STRICT;

-- What the owner offers: no row or one.
CREATE TABLE offer (
    only      INTEGER PRIMARY KEY CHECK (only = 1),
    total     BLOB    NOT NULL,
    allow_any INTEGER NOT NULL
) STRICT;

-- Who may run tasks here.
CREATE TABLE allowed (
    seq  INTEGER PRIMARY KEY,
    peer BLOB    NOT NULL UNIQUE
) STRICT;

-- Peers to try first after a restart.
CREATE TABLE peers (
    peer         BLOB    NOT NULL PRIMARY KEY,
    addresses    BLOB    NOT NULL,
    last_seen_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
