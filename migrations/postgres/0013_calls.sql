-- Calls that their callers gave a key, under a hash of both. What a call brought and how it was answered are sealed.
CREATE TABLE calls (
    name        TEXT NOT NULL PRIMARY KEY,
    fingerprint BYTEA NOT NULL,
    attempt     TEXT NOT NULL,
    makes       TEXT NOT NULL,
    outcome     BYTEA,
    lease_until BIGINT,
    expires_at  BIGINT NOT NULL
);
CREATE INDEX calls_by_end ON calls (expires_at);
