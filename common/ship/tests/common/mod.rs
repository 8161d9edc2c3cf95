//! What the tests of transports share.

#![allow(dead_code, unreachable_pub, reason = "a module of several test binaries, each of which uses a part")]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use rocks_ship::transport::{Connection, Listener, Options, Tcp, Transport, Udt};

/// This machine, any port.
pub fn here() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// Options that make a test end soon when something hangs.
pub fn options() -> Options {
    Options { patience: Duration::from_secs(3), buffer: 4 << 20, ..Options::default() }
}

/// Every transport that was built.
pub fn transports() -> Vec<Box<dyn Transport>> {
    vec![
        Box::new(Udt::new(options())),
        Box::new(Tcp::new(options())),
        #[cfg(feature = "udt4")]
        Box::new(rocks_ship::transport::Udt4::new(options())),
    ]
}

/// Two ends of one connection.
pub fn pair(t: &dyn Transport) -> (Box<dyn Connection>, Box<dyn Connection>) {
    let listener = t.listen(here()).expect("listens");
    pair_with(t, &*listener)
}

/// Two ends through this listener.
pub fn pair_with(t: &dyn Transport, listener: &dyn Listener) -> (Box<dyn Connection>, Box<dyn Connection>) {
    std::thread::scope(|s| {
        let server = s.spawn(|| listener.accept(Some(Duration::from_secs(5))).expect("accepts").expect("a client"));
        let client = t.connect(listener.local()).expect("connects");
        (client, server.join().expect("no panic"))
    })
}

/// Bytes that do not repeat, the same for the same seed.
pub struct Noise(pub u64);

impl Read for Noise {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        for chunk in buf.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let bytes = (z ^ (z >> 31)).to_le_bytes();
            let n = chunk.len();
            chunk.copy_from_slice(&bytes[..n]);
        }
        Ok(buf.len())
    }
}

/// Writes so many bytes of noise and gives their digest.
pub fn pour(out: &mut dyn Write, bytes: usize, seed: u64) -> std::io::Result<blake3::Hash> {
    let (mut noise, mut hash, mut block) = (Noise(seed), blake3::Hasher::new(), vec![0; 1 << 18]);
    let mut left = bytes;
    while left > 0 {
        let n = left.min(block.len());
        noise.read_exact(&mut block[..n])?;
        hash.update(&block[..n]);
        out.write_all(&block[..n])?;
        left -= n;
    }
    out.flush()?;
    Ok(hash.finalize())
}

/// Reads to the end; how much, and its digest.
pub fn drain(from: &mut dyn Read) -> std::io::Result<(usize, blake3::Hash)> {
    let (mut hash, mut block, mut all) = (blake3::Hasher::new(), vec![0; 1 << 18], 0);
    loop {
        let n = from.read(&mut block)?;
        if n == 0 {
            return Ok((all, hash.finalize()));
        }
        hash.update(&block[..n]);
        all += n;
    }
}
