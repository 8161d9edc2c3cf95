-- What was predicted for a provision, and what came of it: kept when the provision is forgotten. `run` is null until it has ended well.
create table run (number integer primary key, provision text not null, forecast text not null, run text);
