-- Durable sandboxes, their snapshots, and the files that were taken out of them.
--
-- `record` is the JSON of the rest, sealed for sandboxes: their environment may hold secrets. What is searched for,
-- compared or written apart from it has a column.

CREATE TABLE sandboxes (
    position          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id                TEXT NOT NULL UNIQUE,
    tenant            TEXT NOT NULL,
    status            TEXT NOT NULL,
    version           BIGINT NOT NULL,
    created_at        BIGINT NOT NULL,
    last_activity_at  BIGINT NOT NULL,
    last_heartbeat_at BIGINT NOT NULL,
    record            BYTEA NOT NULL
);
CREATE INDEX sandboxes_of_tenant ON sandboxes (tenant, created_at, position);
CREATE INDEX live_sandboxes ON sandboxes (status) WHERE status IN ('starting', 'ready');

CREATE TABLE snapshots (
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id       TEXT NOT NULL UNIQUE,
    sandbox  TEXT NOT NULL REFERENCES sandboxes (id),
    tenant   TEXT NOT NULL,
    record   TEXT NOT NULL
);
CREATE INDEX snapshots_of_sandbox ON snapshots (sandbox, position);

CREATE TABLE sandbox_artifacts (
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id       TEXT NOT NULL UNIQUE,
    sandbox  TEXT NOT NULL REFERENCES sandboxes (id),
    tenant   TEXT NOT NULL,
    record   TEXT NOT NULL
);
CREATE INDEX artifacts_of_sandbox ON sandbox_artifacts (sandbox, position);
