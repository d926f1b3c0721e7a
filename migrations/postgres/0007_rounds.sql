-- What is done once for all servers of a database: when it is due, who counts as at it, and how often it was begun.
CREATE TABLE schedules (
    name        TEXT NOT NULL PRIMARY KEY,
    due_at      BIGINT NOT NULL,
    turn        BIGINT NOT NULL,
    lease_until BIGINT -- NULL while nobody is at it
);
