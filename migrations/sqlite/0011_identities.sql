-- Whom identity providers know, and the account that each of them has here.
CREATE TABLE identities (
    issuer  TEXT NOT NULL,
    subject TEXT NOT NULL,
    "user"  TEXT NOT NULL REFERENCES accounts ("user"),
    PRIMARY KEY (issuer, subject)
) STRICT;
CREATE INDEX identities_of_user ON identities ("user");
