-- What is done once for all servers of a database: when it is due, who counts as at it, and how often it was begun.
CREATE TABLE schedules (
    name        TEXT NOT NULL PRIMARY KEY,
    due_at      INTEGER NOT NULL,
    turn        INTEGER NOT NULL,
    lease_until INTEGER -- NULL while nobody is at it
) STRICT;
