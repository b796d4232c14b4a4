-- The owner in charge: draining, and what ran here.

-- Whether the node finishes what it has and takes nothing new: no row or one.
CREATE TABLE draining (
    only INTEGER PRIMARY KEY CHECK (only = 1)
) STRICT;

-- Attempts that ended here. A row with a `minute` stands for all short attempts of one job that
-- ended alike in that minute; it names a task only while it stands for one. Rows go from the lowest
-- `seq` on, into `usage_days`.
CREATE TABLE history (
    seq           INTEGER PRIMARY KEY,
    peer          BLOB    NOT NULL,
    job           BLOB    NOT NULL,
    name          TEXT    NOT NULL,
    program       TEXT    NOT NULL,
    minute        INTEGER,
    step          INTEGER,
    task          INTEGER,
    attempt       INTEGER,
    tasks         INTEGER NOT NULL,
    started_ms    INTEGER NOT NULL,
    ended_ms      INTEGER NOT NULL,
    outcome       TEXT    NOT NULL,
    message       TEXT,
    wall_us       INTEGER NOT NULL,
    cpu_us        INTEGER NOT NULL,
    gpu_us        INTEGER NOT NULL,
    memory_mib_us INTEGER NOT NULL,
    memory_peak   INTEGER NOT NULL,
    network_bytes INTEGER NOT NULL,
    output_bytes  INTEGER NOT NULL,
    energy_mj     INTEGER
) STRICT;

CREATE UNIQUE INDEX history_minutes ON history (minute, job, outcome, peer)
    WHERE minute IS NOT NULL;

-- Sums of what left `history`, a row for each day, job and outcome.
CREATE TABLE usage_days (
    day           INTEGER NOT NULL,
    peer          BLOB    NOT NULL,
    job           BLOB    NOT NULL,
    outcome       TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    tasks         INTEGER NOT NULL,
    wall_us       INTEGER NOT NULL,
    cpu_us        INTEGER NOT NULL,
    gpu_us        INTEGER NOT NULL,
    memory_mib_us INTEGER NOT NULL,
    memory_peak   INTEGER NOT NULL,
    network_bytes INTEGER NOT NULL,
    output_bytes  INTEGER NOT NULL,
    energy_mj     INTEGER,
    PRIMARY KEY (day, peer, job, outcome)
) STRICT, WITHOUT ROWID;
