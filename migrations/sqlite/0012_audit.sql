-- The audit: what was done and by whom, each tenant's entries in a chain. Entries are added and never changed.
CREATE TABLE audit_entries (
    tenant     TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    actor      TEXT NOT NULL,
    means      TEXT NOT NULL,
    action     TEXT NOT NULL,
    subject    TEXT NOT NULL,
    outcome    TEXT NOT NULL,
    details    TEXT NOT NULL,
    call       TEXT NOT NULL,
    hash       TEXT NOT NULL,
    PRIMARY KEY (tenant, seq)
) STRICT, WITHOUT ROWID;

-- The end of each chain. It only goes forward.
CREATE TABLE audit_heads (
    tenant TEXT NOT NULL PRIMARY KEY,
    seq    INTEGER NOT NULL,
    hash   TEXT NOT NULL,
    seal   TEXT NOT NULL
) STRICT;

CREATE TRIGGER audit_entries_stay BEFORE UPDATE ON audit_entries
BEGIN SELECT RAISE(ABORT, 'entries of the audit are never changed'); END;
CREATE TRIGGER audit_entries_remain BEFORE DELETE ON audit_entries
BEGIN SELECT RAISE(ABORT, 'entries of the audit are never removed'); END;
CREATE TRIGGER audit_heads_advance BEFORE UPDATE ON audit_heads
WHEN NEW.seq < OLD.seq OR NEW.tenant <> OLD.tenant
BEGIN SELECT RAISE(ABORT, 'the end of the audit only goes forward'); END;
CREATE TRIGGER audit_heads_remain BEFORE DELETE ON audit_heads
BEGIN SELECT RAISE(ABORT, 'the end of the audit is never removed'); END;
