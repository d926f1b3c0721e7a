-- What is done once for all servers of a database: when it is due, who counts as at it, and how often it was begun.
CREATE TABLE schedules (
    name        TEXT NOT NULL PRIMARY KEY,
    due_at      BIGINT NOT NULL,
    turn        BIGINT NOT NULL,
    lease_until BIGINT -- NULL while nobody is at it
);

-- Events that are in the artifact store and no rows any more. Those of a log that are rows follow them.
CREATE TABLE log_archives (
    request    TEXT NOT NULL REFERENCES requests (id),
    first_seq  BIGINT NOT NULL,
    last_seq   BIGINT NOT NULL,
    key        TEXT NOT NULL,
    sha256     TEXT NOT NULL,
    size       BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (request, last_seq)
);

-- How many bytes the kinds of a log's events have that are rows.
CREATE TABLE log_sizes (
    request TEXT NOT NULL PRIMARY KEY REFERENCES requests (id),
    n_bytes BIGINT NOT NULL
);
INSERT INTO log_sizes (request, n_bytes) SELECT request, sum(octet_length(kind)) FROM events GROUP BY request;

-- Whether there are events that are rows: of those requests, the ones that changed first are found without reading others.
ALTER TABLE requests ADD COLUMN has_events BOOLEAN NOT NULL DEFAULT false;
UPDATE requests SET has_events = true WHERE id IN (SELECT request FROM log_sizes);
CREATE INDEX requests_with_events ON requests (updated_at, position) WHERE has_events;
