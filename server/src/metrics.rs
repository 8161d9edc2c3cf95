//! Counters for those who watch the frontend. No host is named in them.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::rollout::Rollouts;

/// The frontend's counters.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections that are open.
    pub connections: Gauge,
    /// Requests that wait for a change.
    pub waiting: Gauge,
    /// Requests answered.
    pub requests: Counter,
    /// Requests for a kickstart.
    pub polls: Counter,
    /// Agents enrolled.
    pub enrolments: Counter,
    /// Join tokens refused.
    pub enrolments_refused: Counter,
    /// TLS handshakes that failed.
    pub handshakes_failed: Counter,
    /// Reports taken.
    pub reports: Counter,
    /// Bytes of packages and their metadata that left.
    pub mirror_bytes: Counter,
    /// Requests for files of the mirror that were shown the way to a bucket.
    pub mirror_redirects: Counter,
    /// When the kickstarts were last made without a problem, in seconds since 1970.
    pub last_sync: Gauge,
    /// Rollouts that are open.
    pub rollouts: Gauge,
    /// Of those, the ones that stopped by themselves.
    pub rollouts_stopped: Gauge,
    /// Hosts that wait for their wave.
    pub rollout_held: Gauge,
    /// Hosts that have a new kickstart and have not said what came of it.
    pub rollout_released: Gauge,
    /// Hosts of open rollouts that failed, or said nothing in time.
    pub rollout_failed: Gauge,
}

impl Metrics {
    /// Counts the rollouts as they are now.
    pub fn count_rollouts(&self, rollouts: &Rollouts) {
        let (open, stopped, hosts) = rollouts.count();
        let set = |gauge: &Gauge, count: usize| gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        set(&self.rollouts, open);
        set(&self.rollouts_stopped, stopped);
        set(&self.rollout_held, hosts.held as usize);
        set(&self.rollout_released, hosts.released as usize);
        set(&self.rollout_failed, (hosts.failed + hosts.silent) as usize);
    }

    /// The metrics as text for Prometheus.
    #[must_use]
    pub fn render(&self) -> String {
        let mut registry = Registry::with_prefix("rocks");
        registry.register("connections", "Connections that are open", self.connections.clone());
        registry.register("requests_waiting", "Requests that wait for a change", self.waiting.clone());
        registry.register("requests", "Requests answered", self.requests.clone());
        registry.register("kickstart_requests", "Requests for a kickstart", self.polls.clone());
        registry.register("enrolments", "Agents enrolled", self.enrolments.clone());
        registry.register("enrolments_refused", "Enrolments refused", self.enrolments_refused.clone());
        registry.register("handshakes_failed", "TLS handshakes that failed", self.handshakes_failed.clone());
        registry.register("reports", "Reports taken", self.reports.clone());
        registry.register("mirror_bytes", "Bytes of packages and their metadata sent", self.mirror_bytes.clone());
        registry.register("mirror_redirects", "Requests shown the way to a bucket", self.mirror_redirects.clone());
        registry.register(
            "sync_last_success_timestamp_seconds",
            "When kickstarts were last made well",
            self.last_sync.clone(),
        );
        registry.register("rollouts_open", "Rollouts that are open", self.rollouts.clone());
        registry.register(
            "rollouts_stopped",
            "Rollouts that stopped by themselves and are open",
            self.rollouts_stopped.clone(),
        );
        registry.register("rollout_hosts_held", "Hosts that wait for their wave", self.rollout_held.clone());
        registry.register(
            "rollout_hosts_released",
            "Hosts that have a new kickstart and have not said what came of it",
            self.rollout_released.clone(),
        );
        registry.register(
            "rollout_hosts_failed",
            "Hosts of open rollouts that failed or said nothing in time",
            self.rollout_failed.clone(),
        );
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}
