-- How changes reach hosts. The appliance '' stands for all that have none of their own.
create table strategy (appliance text primary key, body text not null);
-- Rollouts: what holds for all of their hosts as one document, and each host as a row of its own, so that a report costs one row.
create table rollout (number integer primary key, name text not null unique, appliance text not null, status text not null, body text not null);
create table rollout_host (
    rollout integer not null references rollout(number) on delete cascade,
    position integer not null,
    host text not null,
    state text not null,
    former text not null,
    target text not null,
    changed text not null,
    reason text,
    excused integer not null,
    primary key (rollout, position)
);
-- Kickstarts, compressed, by the digests of their texts: what hosts of appliances with a strategy are served, and what they may be given back.
create table body (digest text primary key, gzip bytea not null);
-- The appliance that a host was of when it was given its kickstart: one that moves to another does not wait.
alter table served add column appliance text;
