-- Requests of one state come out of an index in the order of the list, a page at a time.
CREATE INDEX requests_of_state ON requests (tenant, state, created_at, position);
