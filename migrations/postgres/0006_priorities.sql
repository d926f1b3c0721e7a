-- What takes moments and has a person waiting goes before what takes long.
ALTER TABLE jobs ADD COLUMN priority BIGINT NOT NULL DEFAULT 0;
UPDATE jobs SET priority = 1 WHERE state <> 'ended' AND kind NOT LIKE '%"execute"%';
DROP INDEX jobs_waiting_of_tenant;
CREATE INDEX jobs_waiting_of_tenant ON jobs (tenant, priority DESC, created_at, position) WHERE state = 'waiting';
CREATE INDEX jobs_dead_of_request ON jobs (request, created_at, position) WHERE state = 'dead';
