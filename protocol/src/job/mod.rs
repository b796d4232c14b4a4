//! Jobs: the file a person writes, and the plan that a node follows.
//!
//! [`file`] reads and checks `job.toml`; [`array`] is the arithmetic of batches; [`template`] finds
//! `{key}` and [`filling`] fills it; [`plan`] is the job once its paths were read and its blobs named; [`form`] and [`render`]
//! make one task ready to run. [`limits`] bounds all of it, on both sides of the wire.

pub mod array;
pub mod file;
pub mod filling;
pub mod form;
pub mod limits;
pub mod nearest;
pub mod pattern;
pub mod plan;
pub mod render;
pub mod template;

pub use array::{Array, ArrayKey, Values};
pub use file::{Fault, JobFile, JobFileErrors};
pub use form::{FormError, TaskForm, input_list_bytes};
pub use nearest::nearest;
pub use pattern::OutputPattern;
pub use plan::{JobPlan, Login, Placement, Policy, StepPlan};
pub use render::{RenderError, RenderedTask, render};
