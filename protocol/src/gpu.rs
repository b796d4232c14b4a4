//! GPUs: what a machine has, and what a task asks for, whole or in part.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// One GPU as its driver names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Gpu {
    /// The driver's UUID, for example `GPU-6b2a...`; what Docker is asked for.
    pub uuid: String,
    /// The product name, for example `NVIDIA GeForce RTX 4090`.
    pub model: String,
    /// Total memory, in bytes.
    pub memory: Bytes,
    /// How much of it is meant, in thousandths: 1000 is the whole GPU.
    #[serde(default = "whole_gpu")]
    pub milli: u16,
    /// Whether its owner lets several tasks share it.
    #[serde(default)]
    pub shared: bool,
}

/// A whole GPU, in thousandths.
pub const WHOLE_GPU: u16 = 1_000;

const fn whole_gpu() -> u16 {
    WHOLE_GPU
}

impl Gpu {
    /// A whole GPU that is not shared.
    #[must_use]
    pub const fn whole(uuid: String, model: String, memory: Bytes) -> Self {
        Self {
            uuid,
            model,
            memory,
            milli: WHOLE_GPU,
            shared: false,
        }
    }

    /// The memory that goes with this share of it, in bytes: a ceiling that its tasks are told.
    #[must_use]
    pub fn memory_share(&self) -> Bytes {
        share(self.memory, self.milli)
    }
}

/// `milli` thousandths of `memory`.
fn share(memory: Bytes, milli: u16) -> Bytes {
    let bytes = u128::from(memory.0) * u128::from(milli) / u128::from(WHOLE_GPU);
    Bytes(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// GPUs that a task asks for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GpuRequest {
    /// How many.
    pub count: u16,
    /// How much of each, in thousandths; less than 1000 only of GPUs that are shared.
    #[serde(default = "whole_gpu")]
    pub milli: u16,
    /// The least memory that each, or the part of it, must have, in bytes.
    pub memory: Option<Bytes>,
    /// A pattern that each one's model must match, `*` standing for any text, case ignored.
    pub model: Option<String>,
}

impl Default for GpuRequest {
    /// None.
    fn default() -> Self {
        Self {
            count: 0,
            milli: WHOLE_GPU,
            memory: None,
            model: None,
        }
    }
}

impl GpuRequest {
    /// Whether one GPU would do, as much of it as is there.
    #[must_use]
    pub fn matches(&self, gpu: &Gpu) -> bool {
        let part = share(gpu.memory, self.milli);
        gpu.milli >= self.milli
            && (self.milli == WHOLE_GPU || gpu.shared)
            && self.memory.is_none_or(|least| part >= least)
            && self
                .model
                .as_deref()
                .is_none_or(|pattern| wildcard(pattern, &gpu.model))
    }
}

/// Whether `text` matches `pattern`, `*` standing for any run of characters, ASCII case ignored.
/// The greedy two-pointer algorithm: linear in memory, no recursion, so hostile patterns are harmless.
pub(crate) fn wildcard(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            retry = Some((p, t));
            p += 1;
        } else if p < pattern.len() && pattern[p].eq_ignore_ascii_case(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star, from)) = retry {
            p = star + 1;
            t = from + 1;
            retry = Some((star, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, text, expected) in [
            ("RTX*", "rtx 4090", true),
            ("*", "", true),
            ("*40*0", "RTX 4090", true),
            ("RTX", "RTX 4090", false),
            ("", "x", false),
        ] {
            assert_eq!(wildcard(pattern, text), expected, "{pattern} {text}");
        }
    }
}
