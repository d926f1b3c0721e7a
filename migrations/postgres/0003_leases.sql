-- Whoever does a job holds it on a lease, and renews it. NULL is a lease that has ended.
ALTER TABLE jobs ADD COLUMN lease_until BIGINT;
