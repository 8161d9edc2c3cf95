-- Provisions: how far each is, as one document. The number gives them an order.
create table provision (number integer primary key, name text not null unique, status text not null, body text not null);
