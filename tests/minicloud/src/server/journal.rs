//! Every call, as it can be read at `/_minicloud/calls`.

use serde::Serialize;

/// One call.
#[derive(Debug, Clone, Serialize, Default)]
pub(crate) struct Call {
    /// Its number, from 1.
    pub(crate) number: u64,
    /// When it came.
    pub(crate) time: String,
    /// `ec2`, `s3`, `ebs`, `sts`.
    pub(crate) service: String,
    /// The operation: `RunInstances`, `PutObject`...
    pub(crate) action: String,
    /// The permissions that it needs: `ec2:RunInstances`, `ec2:CreateTags`...
    pub(crate) permissions: Vec<String>,
    /// The names of its parameters.
    pub(crate) parameters: Vec<String>,
    /// The IAM user whose key signed it; empty when nobody's did.
    pub(crate) user: String,
    /// Where it came from.
    pub(crate) peer: String,
    /// The answer's status; 0 when the connection was cut.
    pub(crate) status: u16,
    /// The error's code, if it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
    /// How long the answer took.
    pub(crate) milliseconds: u64,
    /// The answer's request id.
    pub(crate) request: String,
    /// Whether a fault was put into it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) fault: bool,
}

/// All calls. Old ones are forgotten, but not their number.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    calls: std::collections::VecDeque<Call>,
    number: u64,
}

/// Enough for hours of polling.
const KEPT: usize = 100_000;

impl Journal {
    pub(crate) fn add(&mut self, mut call: Call) {
        self.number += 1;
        call.number = self.number;
        if self.calls.len() >= KEPT {
            self.calls.pop_front();
        }
        self.calls.push_back(call);
    }

    /// The calls after a number.
    pub(crate) fn after(&self, number: u64) -> Vec<&Call> {
        self.calls.iter().filter(|c| c.number > number).collect()
    }

    pub(crate) fn clear(&mut self) {
        self.calls.clear();
    }
}
