-- The servers of an installation that take calls for the sandboxes of their machines.
CREATE TABLE nodes (
    id          TEXT NOT NULL PRIMARY KEY,
    url         TEXT,
    seen_at     INTEGER NOT NULL,
    has_stopped INTEGER NOT NULL
) STRICT;
