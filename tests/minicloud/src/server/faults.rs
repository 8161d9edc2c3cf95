//! Faults that tests put into calls.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::ApiError;

/// A fault. What is not said holds for every call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    /// The operation, or a pattern with `*`.
    pub(crate) action: String,
    /// The service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<String>,
    /// Parameters that the call must have, with patterns for their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) r#where: BTreeMap<String, String>,
    /// Spares the first so many calls.
    #[serde(default)]
    pub(crate) after: u64,
    /// How many calls it strikes; without, all that come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u64>,
    /// The error that is answered, and its message and status if others than usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    /// How long the call has to wait.
    #[serde(default)]
    pub(crate) delay_ms: u64,
    /// Cuts the connection before anything is done, or when it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) drop: Option<Cut>,
}

/// When the connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cut {
    /// The call has no effect.
    Before,
    /// The call has its effect, and nobody learns of it.
    After,
}

impl Fault {
    fn strikes(&self, service: &str, action: &str, parameters: &[(String, String)]) -> bool {
        let like = crate::access::like;
        let has = |name: &str, pattern: &str| parameters.iter().any(|(n, v)| n == name && like(pattern, v));
        like(&self.action, action)
            && self.service.as_ref().is_none_or(|s| s == service)
            && self.r#where.iter().all(|(name, pattern)| has(name, pattern))
    }

    /// The error that it answers with.
    pub(crate) fn error(&self) -> Option<ApiError> {
        let code = self.code.clone()?;
        let message = self.message.clone().unwrap_or_else(|| format!("{code} (a fault that a test put here)"));
        let error = ApiError::new(code, message);
        Some(match self.status {
            Some(status) => error.with_status(status),
            None => error,
        })
    }
}

/// The faults there are.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    all: Vec<Fault>,
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) {
        self.all.push(fault);
    }

    pub(crate) fn all(&self) -> &[Fault] {
        &self.all
    }

    pub(crate) fn clear(&mut self) {
        self.all.clear();
    }

    /// The fault that strikes a call, used up by that.
    pub(crate) fn strike(&mut self, service: &str, action: &str, parameters: &[(String, String)]) -> Option<Fault> {
        let mut struck = None;
        for fault in self.all.iter_mut().filter(|f| f.strikes(service, action, parameters)) {
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            if let Some(count) = &mut fault.count {
                if *count == 0 {
                    continue;
                }
                *count -= 1;
            }
            struck = Some(fault.clone());
            break;
        }
        self.all.retain(|f| f.count != Some(0));
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_spares_strikes_and_is_used_up() {
        let mut faults = Faults::default();
        let fault = serde_json::json!({"action": "Describe*", "where": {"VolumeId.1": "vol-*"}, "after": 1, "count": 2, "code": "Unavailable"});
        faults.add(serde_json::from_value(fault).expect("a fault"));
        let volume = [("VolumeId.1".to_owned(), "vol-1".to_owned())];
        assert!(faults.strike("ec2", "DescribeVolumes", &[]).is_none());
        let struck: Vec<bool> = (0..4).map(|_| faults.strike("ec2", "DescribeVolumes", &volume).is_some()).collect();
        assert_eq!(struck, [false, true, true, false]);
        assert!(faults.all().is_empty());
        assert!(serde_json::from_value::<Fault>(serde_json::json!({"action": "*", "odd": 1})).is_err());
    }
}
