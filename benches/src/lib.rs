//! Benches share the fixtures of the tests; see `verify.rs`.
