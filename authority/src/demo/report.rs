//! What the demo says: a line per step for a person, one JSON document for a program.

use std::time::Duration;

/// The steps so far and whether each came out as stated.
pub struct Report {
    json: bool,
    steps: Vec<Step>,
    commit_to_deny_ms: Vec<f64>,
    late_allows: u64,
}

#[derive(serde::Serialize)]
struct Step {
    chapter: &'static str,
    what: String,
    expected: String,
    came: String,
    ok: bool,
    ms: f64,
}

impl Report {
    /// An empty report; with `json` nothing is printed before the end.
    pub const fn new(json: bool) -> Self {
        Self { json, steps: Vec::new(), commit_to_deny_ms: Vec::new(), late_allows: 0 }
    }

    /// A heading.
    pub fn chapter(&self, title: &str) {
        if !self.json {
            println!("\n{title}");
        }
    }

    /// Records the outcome of one call on the public API.
    pub fn step(&mut self, chapter: &'static str, what: impl Into<String>, expected: impl Into<String>, came: impl Into<String>, took: Duration) {
        let (what, expected, came) = (what.into(), expected.into(), came.into());
        let ok = expected == came;
        let ms = took.as_secs_f64() * 1000.0;
        if !self.json {
            let mark = if ok { "ok  " } else { "FAIL" };
            let rest = if ok { String::new() } else { format!("   (expected {expected})") };
            println!("  {mark} {what:<66} {came:<28} {ms:>8.2} ms{rest}");
        }
        self.steps.push(Step { chapter, what, expected, came, ok, ms });
    }

    /// Words for the reader that are no step.
    pub fn note(&self, text: &str) {
        if !self.json {
            text.lines().for_each(|line| println!("       {line}"));
        }
    }

    /// Records how long after a commit a tool denied, and allows that came later than the promise.
    pub fn revoked(&mut self, ms: f64, late_allows: u64) {
        self.commit_to_deny_ms.push(ms);
        self.late_allows += late_allows;
    }

    /// Ends the report. True if every step came out as stated and nothing was late.
    pub fn finish(self) -> bool {
        let failed = self.steps.iter().filter(|s| !s.ok).count();
        let ok = failed == 0 && self.late_allows == 0 && self.commit_to_deny_ms.iter().all(|ms| *ms < 200.0);
        if self.json {
            let document = serde_json::json!({
                "ok": ok,
                "late_allows": self.late_allows,
                "commit_to_deny_ms": self.commit_to_deny_ms,
                "steps": self.steps,
            });
            println!("{document}");
        } else {
            let worst = self.commit_to_deny_ms.iter().copied().fold(0.0, f64::max);
            println!(
                "\n{} steps, {failed} not as stated. Commit to deny: {} measured, longest {worst:.1} ms; late allows: {}.",
                self.steps.len(),
                self.commit_to_deny_ms.len(),
                self.late_allows
            );
        }
        ok
    }
}
