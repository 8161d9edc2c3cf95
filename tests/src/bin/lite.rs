//! `lite`: makes the lite appliance under test, or finds it in the cache, and prints where it is.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a small command's output")]

use std::time::Instant;

fn main() -> anyhow::Result<()> {
    let begun = Instant::now();
    let lite = rocks_tests::lite::Lite::get(&mut |what| eprintln!("{:6.1} s  {what}", begun.elapsed().as_secs_f64()))?;
    eprintln!("{:6.1} s  ready", begun.elapsed().as_secs_f64());
    println!("tree        {}", lite.tree().display());
    println!("repository  {}", lite.repository().display());
    println!("key         {}", lite.gpg_key().display());
    Ok(())
}
