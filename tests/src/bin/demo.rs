//! The main job, narrated: rolls become a kickstart, and a running lite appliance reconfigures itself.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a demonstration is there to be read")]

use std::time::{Duration, Instant};

use anyhow::Result;
use rocks_tests::world::{World, missing};

fn main() -> Result<()> {
    if let Some(why) = missing() {
        anyhow::bail!("the demonstration boots an instance: {why}");
    }
    let begun = Instant::now();
    let mut say = |what: &str| println!("\n[{:5.1} s] {what}", begun.elapsed().as_secs_f64());
    let mut world = World::new(&mut say)?;
    println!("{}", world.rocks(&["list", "roll"])?);
    say("rocks add host lite-0-0 appliance=lite; then the instance boots and enrols with that join document");
    let mut instance = world.instance("lite-0-0", "lite")?;
    instance.boot()?;
    let limit = Duration::from_secs(180);
    let wait = |world: &World, at_least: u64| {
        world.wait_report("lite-0-0", limit, |r| {
            matches!(r["outcome"].as_str(), Some("converged" | "unchanged"))
                && r["generation"].as_u64() >= Some(at_least)
        })
    };
    wait(&world, world.generation("lite-0-0")?)?;
    println!("{}", world.rocks(&["list", "host"])?);
    println!("{}", world.rocks(&["report", "host", "lite-0-0"])?);
    for (title, words) in [
        (
            "update-only: an attribute changes",
            vec!["set", "appliance", "attr", "lite", "motd", "hello from the frontend"],
        ),
        ("install-new: Vim and its configuration", vec!["set", "appliance", "attr", "lite", "vim", "yes"]),
        ("install-new: Java and its configuration", vec!["set", "appliance", "attr", "lite", "java", "yes"]),
        ("the lite appliance becomes a compute appliance", vec!["set", "host", "appliance", "lite-0-0", "compute"]),
    ] {
        say(&format!("{title}\n$ rocks {}", words.join(" ")));
        let (before, clock) = (world.generation("lite-0-0")?, Instant::now());
        world.rocks(&words)?;
        wait(&world, before + 1)?;
        println!("{}", world.rocks(&["report", "host", "lite-0-0"])?);
        println!("applied {:.2} s after the change", clock.elapsed().as_secs_f64());
    }
    say("what the instance says of itself: rocks-agent status");
    println!("{}", instance.exec(&["rocks-agent", "status"])?.both());
    println!("{}", world.rocks(&["list", "host"])?);
    if std::env::var_os("DEMO_KEEP").is_some() {
        eprintln!(
            "kept running; try: ROCKS_SOCKET={}/run/admin.sock rocks list host   (end with Enter)",
            world.state().display()
        );
        std::io::stdin().read_line(&mut String::new())?;
    }
    say("done; everything is cleaned up");
    Ok(())
}
