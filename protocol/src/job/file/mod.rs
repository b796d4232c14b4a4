//! x
pub struct Fault;
pub struct JobFile;
pub struct JobFileErrors;
