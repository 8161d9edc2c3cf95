//! Both ends prove who they are, and nobody else gets in or reads along.

mod common;

use std::io::{Read, Write};
use std::sync::Arc;

use common::{drain, options, pair, pour};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rocks_ship::transport::{
    Caller, Door, SecureStream, Tcp, Transport, Udt, client_config, secure_client, secure_server, server_config,
};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

struct Authority {
    params: CertificateParams,
    key: KeyPair,
    cert: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate").der().clone();
        Self { params, key, cert }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.cert.clone()).expect("an authority");
        roots
    }

    fn issue(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let issuer = Issuer::from_params(&self.params, &self.key);
        let cert = params.signed_by(&key, &issuer).expect("a certificate");
        (vec![cert.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }
}

type Ends = (std::io::Result<SecureStream>, std::io::Result<SecureStream>);

fn handshake(t: &dyn Transport, client: &Authority, server: &Authority, name: &str) -> Ends {
    let (a, b) = pair(t);
    let (chain, key) = server.issue("receiver.rocks");
    let theirs = server_config(server.roots(), chain, key).expect("a server's configuration");
    let (chain, key) = client.issue("sender.rocks");
    // A client of another authority knows the server's: what is tested is that the server looks.
    let ours = client_config(server.roots(), chain, key).expect("a client's configuration");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let other = std::thread::spawn(move || secure_server(b, &theirs));
    let client = secure_client(a, &Arc::clone(&ours), name);
    (client, other.join().expect("no panic"))
}

fn transports() -> [Box<dyn Transport>; 2] {
    [Box::new(Udt::new(options())), Box::new(Tcp::new(options()))]
}

#[test]
fn a_stream_between_known_ends_arrives_whole() {
    for t in transports() {
        let ca = Authority::new();
        let (a, b) = handshake(&*t, &ca, &ca, "receiver.rocks");
        let (mut a, mut b) = (a.expect("a client"), b.expect("a server"));
        assert!(a.peer_certificates().is_some() && b.peer_certificates().is_some());
        let begun = std::time::Instant::now();
        let reader = std::thread::spawn(move || drain(&mut b).map(|d| (d, b)));
        let sent = pour(&mut a, 16 << 20, 9).expect("writes");
        a.finish().expect("ends");
        let (got, mut b) = reader.join().expect("no panic").expect("reads");
        assert_eq!(got, (16 << 20, sent));
        b.write_all(b"verified").and_then(|()| b.finish()).expect("answers");
        let mut word = String::new();
        a.read_to_string(&mut word).expect("reads");
        assert_eq!(word, "verified");
        println!("{}: 16 MiB in {:?}", t.name(), begun.elapsed());
    }
}

#[test]
fn a_stranger_is_not_let_in() {
    for t in transports() {
        let (ca, other) = (Authority::new(), Authority::new());
        let (a, b) = handshake(&*t, &other, &ca, "receiver.rocks");
        let admitted = a.and_then(|mut a| a.finish());
        assert!(admitted.is_err(), "{}: the client knows that it was not let in", t.name());
        assert!(b.is_err(), "{}: the server lets nobody in", t.name());
        let (a, b) = handshake(&*t, &ca, &ca, "somebody.else");
        assert!(a.is_err() && b.is_err(), "{}: the server must be the one that was meant", t.name());
    }
}

#[test]
fn whoever_reads_to_the_end_may_leave_at_once() {
    for t in transports() {
        for round in 0..10 {
            let ca = Authority::new();
            let (a, b) = handshake(&*t, &ca, &ca, "receiver.rocks");
            let (mut a, mut b) = (a.expect("a client"), b.expect("a server"));
            let reader = std::thread::spawn(move || drain(&mut b).map(|d| d.0));
            pour(&mut a, 300_000, round).expect("writes");
            a.finish().expect("a confirmed end");
            assert_eq!(reader.join().expect("no panic").expect("reads"), 300_000);
        }
    }
}

#[test]
fn what_a_peer_said_before_it_left_is_read_even_if_it_took_nothing_any_more() {
    let authority = Authority::new();
    let (ours, theirs) = handshake(&Udt::new(options()), &authority, &authority, "receiver.rocks");
    let (mut ours, mut theirs) = (ours.expect("let in"), theirs.expect("let in"));
    // It hears something, says why it stops, waits until that has arrived, and leaves.
    let peer = std::thread::spawn(move || {
        ours.read_exact(&mut [0; 4]).expect("heard");
        ours.write_all(b"no room").expect("said");
        ours.finish().expect("arrived");
    });
    let noise = vec![7; 1 << 20];
    while theirs.write_all(&noise).is_ok() {}
    let mut why = [0; 7];
    theirs.read_exact(&mut why).expect("read");
    assert_eq!(&why, b"no room");
    peer.join().expect("no panic");
}

#[test]
fn a_stream_that_just_stops_is_an_error() {
    for t in transports() {
        let ca = Authority::new();
        let (a, b) = handshake(&*t, &ca, &ca, "receiver.rocks");
        let (mut a, mut b) = (a.expect("a client"), b.expect("a server"));
        a.write_all(b"half of it").and_then(|()| a.flush()).expect("writes");
        let mut got = [0; 10];
        b.read_exact(&mut got).expect("reads");
        drop(a);
        assert!(b.read(&mut got).is_err(), "{}", t.name());
    }
}

#[test]
fn a_silent_stranger_keeps_nobody_out() {
    use std::time::Duration;
    let authority = Authority::new();
    for t in [&Udt::new(options()) as &dyn Transport, &Tcp::new(options())] {
        let (chain, key) = authority.issue("receiver.rocks");
        let theirs = server_config(authority.roots(), chain, key).expect("a server's configuration");
        let listener = t.listen(common::here()).expect("listens");
        let door = Door::new(listener, Box::new(move |connection| secure_server(connection, &theirs)));
        // They connect, and that is all that they do.
        let silent: Vec<_> = (0..3).map(|_| t.connect(door.local()).expect("connected")).collect();
        let (chain, key) = authority.issue("sender.rocks");
        let ours = client_config(authority.roots(), chain, key).expect("a client's configuration");
        let to = door.local();
        let name = ServerName::try_from("receiver.rocks").expect("a name");
        let client = std::thread::scope(|scope| {
            let calling = scope.spawn(|| secure_client(t.connect(to).expect("connected"), &ours, name.clone()));
            let caller = door.next(Duration::from_secs(3)).expect("a door").expect("a caller");
            assert!(matches!(caller, Caller::Admitted(_)), "{caller:?}");
            calling.join().expect("no panic").expect("let in")
        });
        drop((silent, client));
        drop(door);
        t.listen(to).expect("the port is free again");
    }
}
