-- The audit: what was done and by whom, each tenant's entries in a chain. Entries are added and never changed.
CREATE TABLE audit_entries (
    tenant     TEXT COLLATE "C" NOT NULL,
    seq        BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    actor      TEXT NOT NULL,
    means      TEXT NOT NULL,
    action     TEXT NOT NULL,
    subject    TEXT NOT NULL,
    outcome    TEXT NOT NULL,
    details    TEXT NOT NULL,
    call       TEXT NOT NULL,
    hash       TEXT NOT NULL,
    PRIMARY KEY (tenant, seq)
);

-- The end of each chain. It only goes forward.
CREATE TABLE audit_heads (
    tenant TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    seq    BIGINT NOT NULL,
    hash   TEXT NOT NULL,
    seal   TEXT NOT NULL
);

CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'entries of the audit and its end are never removed, and entries never changed'; END $$;
CREATE TRIGGER audit_entries_stay BEFORE UPDATE OR DELETE ON audit_entries
FOR EACH ROW EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_entries_remain BEFORE TRUNCATE ON audit_entries
FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_heads_advance BEFORE UPDATE ON audit_heads
FOR EACH ROW WHEN (NEW.seq < OLD.seq OR NEW.tenant <> OLD.tenant) EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_heads_remain BEFORE DELETE ON audit_heads
FOR EACH ROW EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_heads_stay BEFORE TRUNCATE ON audit_heads
FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
