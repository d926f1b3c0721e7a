-- The logs of requests that changed last are found without reading the others.
CREATE INDEX requests_changed ON requests (updated_at, position);
