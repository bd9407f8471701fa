//! What the README shows is what compiles.

const README: &str = include_str!("../../README.md");
/// Cargo builds it with the tests.
const TOOL: &str = include_str!("../../sdk/examples/tool.rs");

#[test]
fn the_tool_of_the_readme_is_the_example_that_compiles_in_at_most_12_lines() {
    let lines = TOOL.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines <= 12, "{lines} lines");
    assert!(README.contains(&format!("```rust\n{TOOL}```")), "the README shows sdk/examples/tool.rs as it is");
}
