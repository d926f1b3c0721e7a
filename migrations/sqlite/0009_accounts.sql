-- People who log in with a name and a password, and who is logged in. Secrets are here as hashes only.
CREATE TABLE accounts (
    "user"        TEXT NOT NULL PRIMARY KEY,
    tenant        TEXT NOT NULL,
    email         TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    role          TEXT NOT NULL,
    is_active     INTEGER NOT NULL,
    created_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX accounts_of_tenant ON accounts (tenant, "user");

CREATE TABLE logins (
    hash       TEXT NOT NULL PRIMARY KEY,
    "user"     TEXT NOT NULL REFERENCES accounts ("user"),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX logins_of_user ON logins ("user");
CREATE INDEX logins_by_end ON logins (expires_at);
