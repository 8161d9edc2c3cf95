-- Everything that the administrator said and that agents told. Written so that PostgreSQL can read it too.
create table setting (name text primary key, value text not null);
create table appliance (name text primary key, node text not null, membership text not null);
create table host (
    name text primary key,
    appliance text not null references appliance(name),
    arch text not null,
    os text not null,
    rack integer not null,
    rank integer not null,
    facts text,
    enrolled bigint
);
-- scope: global, os, appliance, host; owner: '' for global, else the name of what it belongs to.
create table attribute (
    scope text not null,
    owner text not null,
    name text not null,
    value text not null,
    primary key (scope, owner, name)
);
create table roll (name text primary key, path text not null, position integer not null, enabled integer not null, trusted integer not null);
create table token (hash text primary key, host text not null references host(name) on delete cascade, expires bigint not null);
create table certificate (serial text primary key, host text not null, not_after bigint not null, revoked integer not null);
create table report (id text primary key, host text not null references host(name) on delete cascade, received bigint not null, body text not null);
create index report_of_host on report (host, received);
