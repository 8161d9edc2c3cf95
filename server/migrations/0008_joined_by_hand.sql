-- When the administrator was given a join document for a host: the machine that takes it is none that a provision or a rule launched,
-- and its end is the administrator's business. null: never.
alter table host add column by_hand bigint;
