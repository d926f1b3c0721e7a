-- A job that failed for a reason that may pass waits until `not_before`; after too many failures it is dead, and kept.
ALTER TABLE jobs DROP CONSTRAINT jobs_state_check;
ALTER TABLE jobs ADD CONSTRAINT jobs_state_check CHECK (state IN ('waiting', 'running', 'dead', 'ended'));
ALTER TABLE jobs ADD COLUMN failures BIGINT NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN not_before BIGINT;
CREATE INDEX jobs_running_of_tenant ON jobs (tenant) WHERE state = 'running';
CREATE INDEX jobs_leases ON jobs (lease_until, position) WHERE state = 'running';
CREATE INDEX jobs_waiting_of_tenant ON jobs (tenant, created_at, position) WHERE state = 'waiting';
CREATE INDEX jobs_waiting_of_request ON jobs (request, created_at, position) WHERE state = 'waiting';
CREATE INDEX jobs_dead ON jobs (created_at, position) WHERE state = 'dead';
-- Lists of links come out of the index in their order.
CREATE INDEX links_of_tenant ON links (tenant, created_at, position);
CREATE INDEX merge_requests_of_request ON merge_requests (request, created_at, position);
