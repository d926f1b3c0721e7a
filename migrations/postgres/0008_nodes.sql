-- The servers of an installation that take calls for the sandboxes of their machines.
CREATE TABLE nodes (
    id          TEXT NOT NULL PRIMARY KEY,
    url         TEXT,
    seen_at     BIGINT NOT NULL,
    has_stopped BOOLEAN NOT NULL
);
