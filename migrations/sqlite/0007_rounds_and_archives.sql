-- What is done once for all servers of a database: when it is due, who counts as at it, and how often it was begun.
CREATE TABLE schedules (
    name        TEXT NOT NULL PRIMARY KEY,
    due_at      INTEGER NOT NULL,
    turn        INTEGER NOT NULL,
    lease_until INTEGER -- NULL while nobody is at it
) STRICT;

-- Events that are in the artifact store and no rows any more. Those of a log that are rows follow them.
CREATE TABLE log_archives (
    request    TEXT NOT NULL REFERENCES requests (id),
    first_seq  INTEGER NOT NULL,
    last_seq   INTEGER NOT NULL,
    key        TEXT NOT NULL,
    sha256     TEXT NOT NULL,
    size       INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (request, last_seq)
) STRICT;

-- How many bytes the kinds of a log's events have that are rows.
CREATE TABLE log_sizes (
    request TEXT NOT NULL PRIMARY KEY REFERENCES requests (id),
    n_bytes INTEGER NOT NULL
) STRICT;
INSERT INTO log_sizes (request, n_bytes) SELECT request, sum(octet_length(kind)) FROM events GROUP BY request;

-- Whether there are events that are rows: of those requests, the ones that changed first are found without reading others.
ALTER TABLE requests ADD COLUMN has_events INTEGER NOT NULL DEFAULT 0;
UPDATE requests SET has_events = 1 WHERE id IN (SELECT request FROM log_sizes);
CREATE INDEX requests_with_events ON requests (updated_at, position) WHERE has_events;
