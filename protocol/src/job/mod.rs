//! Jobs: the file a person writes, and the plan that a node follows.
//!
//! `file` reads and checks `job.toml`; `array` is the arithmetic of batches; `template` fills in
//! `{key}`; [`plan`] is the job once its paths were read and its blobs named.

pub mod array;
pub mod plan;

pub use array::{Array, ArrayKey, Values};
pub use plan::{JobPlan, Placement, Policy, StepPlan};
