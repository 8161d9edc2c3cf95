//! What every transport must do, run on all of them.

mod common;

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use common::{Noise, drain, here, options, pair, pair_with, pour, transports};
use rocks_ship::transport::{Error, Tcp, Transport, Udt};

fn each(test: impl Fn(&dyn Transport)) {
    for t in transports() {
        test(&*t);
    }
}

#[test]
fn an_echo_comes_back() {
    each(|t| {
        let (mut a, mut b) = pair(t);
        let echo = std::thread::spawn(move || {
            let mut buf = [0; 1000];
            loop {
                let n = b.read(&mut buf).expect("reads");
                if n == 0 {
                    break;
                }
                b.write_all(&buf[..n]).expect("writes");
            }
            b.finish().expect("ends");
            b
        });
        let mut other = a.try_clone().expect("a second handle");
        let reader = std::thread::spawn(move || drain(&mut other).expect("reads"));
        let sent = pour(&mut a, 300_000, 1).expect("writes");
        a.finish().expect("ends");
        assert_eq!(reader.join().expect("no panic"), (300_000, sent), "{}", t.name());
        drop(echo.join().expect("no panic"));
    });
}

#[test]
fn a_large_transfer_arrives_whole() {
    each(|t| {
        let (mut a, mut b) = pair(t);
        let reader = std::thread::spawn(move || drain(&mut b).map(|d| (d, b)));
        let sent = pour(&mut a, 32 << 20, 2).expect("writes");
        a.finish().expect("ends");
        let (got, b) = reader.join().expect("no panic").expect("reads");
        assert_eq!(got, (32 << 20, sent), "{}", t.name());
        assert_eq!((a.stats().sent, b.stats().received), (32 << 20, 32 << 20));
    });
}

#[test]
fn one_direction_can_end_before_the_other() {
    each(|t| {
        let (mut a, mut b) = pair(t);
        a.write_all(b"question").expect("writes");
        let server = std::thread::spawn(move || {
            let mut text = String::new();
            b.read_to_string(&mut text).expect("reads to the end");
            std::thread::sleep(Duration::from_millis(50));
            b.write_all(format!("answer to {text}").as_bytes()).expect("still writes");
            b.finish().expect("ends");
            b
        });
        a.finish().expect("ends");
        assert!(a.write(b"more").is_err(), "{}: nothing may follow the end", t.name());
        let mut text = String::new();
        a.read_to_string(&mut text).expect("still reads");
        assert_eq!(text, "answer to question");
        drop(server.join());
    });
}

#[test]
fn a_peer_that_goes_away_is_an_error_soon() {
    each(|t| {
        let (mut a, mut b) = pair(t);
        b.write_all(b"half of").expect("writes");
        let mut got = [0; 7];
        a.read_exact(&mut got).expect("reads");
        // Something unread makes TCP reset, too; a stream that was not ended is no end.
        a.write_all(b"unread").expect("writes");
        std::thread::sleep(Duration::from_millis(50));
        drop(b);
        let begun = Instant::now();
        let end = a.read(&mut got);
        assert!(end.is_err(), "{}: {end:?}", t.name());
        assert!(begun.elapsed() < Duration::from_secs(8), "{}: {:?}", t.name(), begun.elapsed());
        let block = vec![0; 1 << 20];
        assert!((0..200).any(|_| a.write(&block).is_err()), "{}: writes fail, too", t.name());
    });
}

#[test]
fn nobody_there_is_an_error_soon() {
    for t in [Box::new(Udt::new(options())) as Box<dyn Transport>, Box::new(Tcp::new(options()))] {
        let free = t.listen(here()).expect("a port").local();
        let begun = Instant::now();
        let refused = t.connect(free).map(|_| ());
        assert!(matches!(refused, Err(Error::Refused(_) | Error::Timeout(_))), "{}: {refused:?}", t.name());
        assert!(begun.elapsed() < Duration::from_secs(11));
    }
}

#[test]
fn garbage_on_the_port_harms_nobody() {
    each(|t| {
        let listener = t.listen(here()).expect("listens");
        let thrower = UdpSocket::bind(here()).expect("a socket");
        let to = listener.local();
        let mut noise = Noise(5);
        let mut throw = |n: usize| {
            for i in 0..n {
                let mut bytes = vec![0; 1 + i * 7 % 1400];
                noise.read_exact(&mut bytes).expect("noise");
                if i % 3 == 0 && bytes.len() > 16 {
                    bytes[..16].copy_from_slice(&[0x80, (i % 9) as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                }
                let _ = thrower.send_to(&bytes, to);
            }
        };
        throw(300);
        assert!(listener.accept(Some(Duration::from_millis(100))).expect("still listens").is_none());
        let (mut a, mut b) = pair_with(t, &*listener);
        let reader = std::thread::spawn(move || drain(&mut b).map(|d| (d, b)));
        throw(300);
        let sent = pour(&mut a, 1 << 20, 3).expect("writes");
        throw(300);
        a.finish().expect("ends");
        assert_eq!(reader.join().expect("no panic").expect("reads").0, (1 << 20, sent), "{}", t.name());
    });
}

#[test]
fn many_small_writes_stay_one_stream() {
    each(|t| {
        let (mut a, mut b) = pair(t);
        let reader = std::thread::spawn(move || drain(&mut b).map(|d| (d, b)));
        let mut hash = blake3::Hasher::new();
        for i in 0..20_000u32 {
            let bytes = i.to_be_bytes();
            let n = 1 + i as usize % 4;
            a.write_all(&bytes[..n]).expect("writes");
            hash.update(&bytes[..n]);
        }
        a.finish().expect("ends");
        let got = reader.join().expect("no panic").expect("reads").0;
        assert_eq!(got, (50_000, hash.finalize()), "{}", t.name());
    });
}

#[test]
fn a_slow_reader_holds_the_writer_and_loses_nothing() {
    each(|t| {
        let (mut a, mut b) = pair(t);
        let writer = std::thread::spawn(move || {
            let sent = pour(&mut a, 24 << 20, 4).expect("writes");
            a.finish().expect("ends");
            (sent, a)
        });
        std::thread::sleep(Duration::from_millis(700));
        assert!(!writer.is_finished(), "{}: 24 MiB do not fit into the buffers", t.name());
        let got = drain(&mut b).expect("reads");
        assert_eq!(got, (24 << 20, writer.join().expect("no panic").0), "{}", t.name());
    });
}

#[test]
fn listeners_and_connections_do_not_disturb_each_other() {
    each(|t| {
        let listeners = [t.listen(here()).expect("listens"), t.listen(here()).expect("listens")];
        let pairs: Vec<_> = (0..4).map(|i| pair_with(t, &*listeners[i % 2])).collect();
        let threads: Vec<_> = pairs
            .into_iter()
            .enumerate()
            .map(|(i, (mut a, mut b))| {
                std::thread::spawn(move || {
                    let reader = std::thread::spawn(move || drain(&mut b).map(|d| (d, b)));
                    let sent = pour(&mut a, 2 << 20, 10 + i as u64).expect("writes");
                    a.finish().expect("ends");
                    assert_eq!(reader.join().expect("no panic").expect("reads").0, (2 << 20, sent));
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
    });
}
