-- Requests and all that belongs to them.
--
-- Times are microseconds since 1970 in UTC. Ids are UUIDs in their hyphenated text form. Nested values are JSON.
-- `position` tells the order in which rows were added, which decides between rows of the same time.

-- What the store knows about itself, such as a sealed text that tells whether a key is the right one.
CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value BYTEA NOT NULL
);

CREATE TABLE requests (
    position   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    tenant     TEXT NOT NULL,
    requester  TEXT NOT NULL,
    source     TEXT NOT NULL,
    sender     TEXT NOT NULL,
    title      TEXT NOT NULL,
    prompt     TEXT NOT NULL,
    repository TEXT NOT NULL, -- no foreign key: a request outlives its link
    state      TEXT NOT NULL,
    plan       TEXT,
    version    BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX requests_of_tenant ON requests (tenant, created_at, position);

CREATE TABLE messages (
    position   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    request    TEXT NOT NULL REFERENCES requests (id),
    role       TEXT NOT NULL,
    text       TEXT NOT NULL,
    run        TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX messages_of_request ON messages (request, created_at, position);

CREATE TABLE attachments (
    position     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    request      TEXT NOT NULL REFERENCES requests (id),
    name         TEXT NOT NULL,
    content_type TEXT NOT NULL,
    size         BIGINT NOT NULL,
    artifact     TEXT NOT NULL
);
CREATE INDEX attachments_of_request ON attachments (request, position);

CREATE TABLE runs (
    position            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id                  TEXT NOT NULL UNIQUE,
    request             TEXT NOT NULL REFERENCES requests (id),
    tenant              TEXT NOT NULL,
    prompt              TEXT NOT NULL,
    status              TEXT NOT NULL,
    attempts            TEXT NOT NULL,
    cancel_requested    BOOLEAN NOT NULL,
    failure             TEXT,
    final_message       TEXT,
    thread              TEXT,
    rollout             TEXT,
    change_set          TEXT,
    exit_code           BIGINT,
    tests               TEXT,
    calls               BIGINT NOT NULL,
    input_tokens        BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL,
    output_tokens       BIGINT NOT NULL,
    reasoning_tokens    BIGINT NOT NULL,
    created_at          BIGINT NOT NULL,
    started_at          BIGINT,
    finished_at         BIGINT
);
CREATE INDEX runs_of_request ON runs (request, created_at, position);
CREATE INDEX runs_of_tenant ON runs (tenant, created_at, position);

CREATE TABLE change_sets (
    position   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    request    TEXT NOT NULL REFERENCES requests (id),
    run        TEXT NOT NULL,
    change     TEXT NOT NULL,
    verdict    TEXT NOT NULL,
    digest     TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX change_sets_of_request ON change_sets (request, position);

CREATE TABLE approvals (
    position   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    request    TEXT NOT NULL REFERENCES requests (id),
    change_set TEXT NOT NULL,
    digest     TEXT NOT NULL,
    approver   TEXT NOT NULL,
    binding    TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX approvals_of_request ON approvals (request, created_at, position);

CREATE TABLE merge_requests (
    position   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    request    TEXT NOT NULL REFERENCES requests (id),
    tenant     TEXT NOT NULL,
    change_set TEXT NOT NULL,
    proposal   TEXT NOT NULL,
    url        TEXT NOT NULL,
    status     TEXT NOT NULL,
    review     TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX merge_requests_of_tenant ON merge_requests (tenant, created_at, position);

CREATE TABLE events (
    request    TEXT NOT NULL REFERENCES requests (id),
    seq        BIGINT NOT NULL,
    run        TEXT,
    kind       TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (request, seq)
);
CREATE INDEX events_of_run ON events (run, seq) WHERE run IS NOT NULL;

CREATE TABLE jobs (
    position   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    tenant     TEXT NOT NULL,
    request    TEXT NOT NULL REFERENCES requests (id),
    kind       TEXT NOT NULL,
    attempts   BIGINT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'ended')),
    error      TEXT,
    created_at BIGINT NOT NULL,
    claimed_at BIGINT
);
CREATE INDEX jobs_waiting ON jobs (created_at, position) WHERE state = 'waiting';
-- The rule itself, and the index that the claim looks at: one running job a request.
CREATE UNIQUE INDEX jobs_running ON jobs (request) WHERE state = 'running';

CREATE TABLE links (
    position     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    tenant       TEXT NOT NULL,
    owner        TEXT NOT NULL,
    provider     TEXT NOT NULL,
    repository   TEXT NOT NULL,
    base_url     TEXT NOT NULL,
    access_token BYTEA,          -- sealed
    environment  BYTEA NOT NULL, -- JSON, sealed: its variables may hold secrets
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    UNIQUE (tenant, provider, repository)
);

CREATE TABLE api_keys (
    position     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    tenant       TEXT NOT NULL,
    "user"       TEXT NOT NULL,
    name         TEXT NOT NULL,
    hash         TEXT NOT NULL UNIQUE,
    role         TEXT NOT NULL,
    is_active    BOOLEAN NOT NULL,
    created_at   BIGINT NOT NULL,
    last_used_at BIGINT
);
CREATE INDEX api_keys_of_tenant ON api_keys (tenant, created_at, position);
