-- The digest of the public key that a join token was taken with: who did not hear the answer gets another certificate
-- for the same key until the token ends. null: nobody has taken it.
alter table token add column key text;
