//! The model alone, fed with what a path would say.

use super::*;

const PACKET: usize = 1500;

/// A path that delivers at `rate` and never queues.
fn feed(c: &mut Control, now: &mut Nanos, rate: f64, rounds: u32, loss: f64) {
    let rtt = 50 * MS;
    for _ in 0..rounds {
        *now += rtt;
        let sent = c.pacing() * rtt as f64 / SECOND as f64;
        let arrived = (sent * (1.0 - loss)).min(rate * rtt as f64 / SECOND as f64);
        c.on_sample(&Sample {
            now: *now,
            rate: Some(arrived * SECOND as f64 / rtt as f64),
            train: None,
            starved: false,
            rtt: Some(rtt),
            delivered: arrived as u64,
            lost: (sent - arrived) as u64,
            inflight: arrived as u64,
            round: true,
        });
    }
}

#[test]
fn the_rate_is_found_and_held() {
    let (mut c, mut now) = (Control::new(0, PACKET, None), 0);
    c.first_rtt(50 * MS);
    feed(&mut c, &mut now, 10e6, 30, 0.0);
    assert!((c.rate() - 10e6).abs() < 1e5, "{}", c.rate());
    assert!(c.pacing() < 13e6);
    assert!(c.window() as f64 > 10e6 * 0.05);
}

#[test]
fn random_loss_is_no_verdict() {
    let (mut c, mut now) = (Control::new(0, PACKET, None), 0);
    feed(&mut c, &mut now, 10e6, 200, 0.03);
    assert!(c.rate() > 9.5e6, "{}", c.rate());
}

#[test]
fn a_slower_path_is_believed_within_two_seconds() {
    let (mut c, mut now) = (Control::new(0, PACKET, None), 0);
    feed(&mut c, &mut now, 10e6, 60, 0.0);
    feed(&mut c, &mut now, 3e6, 40, 0.0);
    assert!(c.rate() < 3.3e6, "{}", c.rate());
    feed(&mut c, &mut now, 10e6, 120, 0.0);
    assert!(c.rate() > 9e6, "{}", c.rate());
}

#[test]
fn a_pause_of_the_program_is_not_the_path() {
    let (mut c, mut now) = (Control::new(0, PACKET, None), 0);
    feed(&mut c, &mut now, 10e6, 60, 0.0);
    for _ in 0..100 {
        now += 50 * MS;
        c.on_sample(&Sample {
            now,
            rate: Some(1e4),
            starved: true,
            rtt: Some(50 * MS),
            round: true,
            ..Sample::default()
        });
    }
    assert!(c.rate() > 9e6);
}

#[test]
fn the_cap_holds_and_silence_makes_careful() {
    let (mut c, mut now) = (Control::new(0, PACKET, Some(1_000_000)), 0);
    feed(&mut c, &mut now, 10e6, 30, 0.0);
    assert!(c.pacing() <= 1e6);
    c.set_cap(None);
    c.on_silence();
    assert!(c.window() <= 4 * PACKET as u64);
}
