-- Who enrols looks for what its host has, and whoever is revoked is looked for at every change.
create index certificate_of_host on certificate (host);
create index certificate_revoked on certificate (serial) where revoked = 1;
create index token_of_host on token (host);
