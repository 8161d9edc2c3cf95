//! Counters for those who watch the frontend. No host is named in them.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

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
}

impl Metrics {
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
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}
