//! (placeholder until the branch `feed` is merged)

pub mod message;
