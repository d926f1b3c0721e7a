-- A job that failed for a reason that may pass waits until `not_before`; after too many failures it is dead, and kept.
-- SQLite cannot change the check of a column, so the table is made anew. Nothing refers to it.
CREATE TABLE new_jobs (
    position    INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    tenant      TEXT NOT NULL,
    request     TEXT NOT NULL REFERENCES requests (id),
    kind        TEXT NOT NULL,
    attempts    INTEGER NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'dead', 'ended')),
    error       TEXT,
    created_at  INTEGER NOT NULL,
    claimed_at  INTEGER,
    lease_until INTEGER,
    failures    INTEGER NOT NULL DEFAULT 0,
    not_before  INTEGER
) STRICT;
INSERT INTO new_jobs (position, id, tenant, request, kind, attempts, state, error, created_at, claimed_at, lease_until)
    SELECT position, id, tenant, request, kind, attempts, state, error, created_at, claimed_at, lease_until FROM jobs;
DROP TABLE jobs;
ALTER TABLE new_jobs RENAME TO jobs;
-- The rule itself, and the index that the claim looks at: one running job a request.
CREATE UNIQUE INDEX jobs_running ON jobs (request) WHERE state = 'running';
CREATE INDEX jobs_running_of_tenant ON jobs (tenant) WHERE state = 'running';
CREATE INDEX jobs_leases ON jobs (lease_until, position) WHERE state = 'running';
CREATE INDEX jobs_waiting ON jobs (created_at, position) WHERE state = 'waiting';
CREATE INDEX jobs_waiting_of_tenant ON jobs (tenant, created_at, position) WHERE state = 'waiting';
CREATE INDEX jobs_waiting_of_request ON jobs (request, created_at, position) WHERE state = 'waiting';
CREATE INDEX jobs_dead ON jobs (created_at, position) WHERE state = 'dead';
-- Lists of links come out of the index in their order.
CREATE INDEX links_of_tenant ON links (tenant, created_at, position);
CREATE INDEX merge_requests_of_request ON merge_requests (request, created_at, position);
