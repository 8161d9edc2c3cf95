-- Rules by which instances become hosts that nobody announced. images: ids, separated by commas. count: null is no bound.
create table enrolment (
    name text primary key,
    appliance text not null references appliance(name),
    account text not null,
    region text not null,
    images text not null,
    age_seconds bigint not null,
    count bigint,
    provision text
);
-- The instances that did, each once. key: the digest of the public key that it came with. host: null when the host was removed, which
-- lets the instance in no more. ended: when the cloud said that it is terminated.
create table enrolled (
    instance text primary key,
    enrolment text not null,
    account text not null,
    region text not null,
    key text not null,
    host text references host(name) on delete set null,
    enrolled bigint not null,
    ended bigint
);
create index enrolled_host on enrolled (host);
