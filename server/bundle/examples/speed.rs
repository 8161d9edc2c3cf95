//! How fast images are bundled and taken apart: `cargo run --release -p rocks-bundle --example speed -- IMAGE [LEVEL...]`.
#![expect(clippy::print_stdout, reason = "figures are printed")]

use std::error::Error;
use std::fs::File;
use std::io::{Cursor, Read};
use std::time::Instant;

use rocks_bundle::{Certificate, Job, Map, Order, Part, Plain, PrivateKey, bundle, unbundle};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let path = args.next().ok_or("which image?")?;
    let mut levels = args.map(|level| level.to_string_lossy().parse()).collect::<Result<Vec<u32>, _>>()?;
    if levels.is_empty() {
        levels = vec![9, 6, 1];
    }
    let certificate = Certificate::read(include_bytes!("../tests/keys/new.cert.pem"))?;
    let key = PrivateKey::read(include_bytes!("../tests/keys/new.key.pem"))?;
    let image = File::open(path)?;
    let map = Map::of_file(&image)?;
    let job = Job::new("image".parse()?, "123456789012".parse()?, &certificate, &key, &certificate);
    for level in levels {
        let rate = |since: Instant| map.data_bytes() as f64 / 1e6 / since.elapsed().as_secs_f64();
        let (mut parts, started) = (Vec::new(), Instant::now());
        let mut sink = |part: Part| {
            parts.push(part.bytes);
            Ok(())
        };
        let manifest = bundle(&mut &image, &map, &Job { level, ..job.clone() }, &mut sink, &mut |_| {})?;
        let there = rate(started);
        let mut source = |index: usize, _: &str| -> std::io::Result<Box<dyn Read>> {
            Ok(Box::new(Cursor::new(std::mem::take(&mut parts[index]))))
        };
        let started = Instant::now();
        unbundle(&manifest, &Order::new(&key), &mut source, &mut Plain(std::io::sink()), &mut |_| {})?;
        let share = manifest.image().bundled_size as f64 / map.data_bytes() as f64 * 100.0;
        println!(
            "gzip -{level}: bundle {there:.0} MB/s, to {share:.1}% of the data; unbundle {:.0} MB/s",
            rate(started)
        );
    }
    Ok(())
}
