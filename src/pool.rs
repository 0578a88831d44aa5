//! The pool of one upstream's endpoints.

pub mod endpoint;
