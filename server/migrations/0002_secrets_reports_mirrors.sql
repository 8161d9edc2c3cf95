-- Secret attributes are left out of what is shown; a host's last report in short, so that a list of hosts reads no report;
-- upstream repositories that the mirror copies.
alter table attribute add column secret integer not null default 0;
alter table host add column outcome text;
alter table host add column reported_generation bigint;
alter table host add column reported bigint;
alter table host add column reported_kickstart text;
create table upstream (
    name text primary key,
    url text not null,
    arch text not null,
    -- newest or all.
    versions text not null,
    synced bigint
);
create index token_expires on token (expires);
create index certificate_end on certificate (not_after);
-- What each host was given last, so that a restart does not make unchanged kickstarts new ones.
create table served (host text primary key references host(name) on delete cascade, digest text not null, generation bigint not null);
