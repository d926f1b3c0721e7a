-- Whom identity providers know, and the account that each of them has here.
CREATE TABLE identities (
    issuer  TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    "user"  TEXT COLLATE "C" NOT NULL REFERENCES accounts ("user"),
    PRIMARY KEY (issuer, subject)
);
CREATE INDEX identities_of_user ON identities ("user");
