//! How a token is narrowed, as options: shared by `token attenuate` and `token link`.

use std::path::PathBuf;

use procura_verifier::claims::{Capability, DataClass, Limit, Name, Pattern, Restriction};
use procura_verifier::ids::UtcMillis;

use super::delegate::capabilities;
use super::outcome::Usage;
use super::units::seconds;
use crate::domain::limit_text::at_most;

/// What is to be narrowed.
#[derive(clap::Args, Debug)]
pub struct Narrow {
    /// End it so much from now, such as 10m
    #[arg(long = "for", value_parser = seconds, conflicts_with = "until")]
    lasting: Option<u64>,
    /// End it then, such as 2026-12-31T17:00:00Z
    #[arg(long, value_parser = moment)]
    until: Option<u64>,
    /// Only at this service; may be given several times
    #[arg(long = "service")]
    services: Vec<Name>,
    /// Only data up to this class
    #[arg(long, value_parser = class)]
    class_max: Option<DataClass>,
    /// Only this tool, with --action and --resource
    #[arg(long, requires_all = ["action", "resource"])]
    tool: Option<Name>,
    /// Only this action
    #[arg(long, requires = "tool")]
    action: Option<Name>,
    /// Only these resources: exactly one, or all below a prefix (acct/eu/*)
    #[arg(long, requires = "tool")]
    resource: Option<Pattern>,
    /// A limit such as amount=120.00EUR; with --tool for that capability, without it for all; may be given several times
    #[arg(long = "at-most", value_parser = at_most)]
    at_most: Vec<Limit>,
    /// Only these capabilities: a JSON file with a list
    #[arg(long, conflicts_with_all = ["tool", "at_most"])]
    capabilities: Option<PathBuf>,
}

impl Narrow {
    /// The restrictions for a block.
    pub fn restrictions(&self, now: UtcMillis) -> anyhow::Result<Vec<Restriction>> {
        let mut all = Vec::new();
        all.extend(self.lasting.map(|secs| Restriction::Until(now.secs().saturating_add(secs))));
        all.extend(self.until.map(Restriction::Until));
        if !self.services.is_empty() {
            let mut services = self.services.clone();
            services.sort_unstable();
            services.dedup();
            all.push(Restriction::Audiences(services));
        }
        all.extend(self.class_max.map(Restriction::ClassMax));
        match (&self.tool, &self.action, &self.resource, &self.capabilities) {
            (Some(tool), Some(action), Some(resource), _) => {
                all.push(Restriction::Capabilities(vec![Capability::new(tool.clone(), action.clone(), resource.clone(), self.at_most.clone())?]));
            }
            (.., Some(file)) => {
                let mut listed = capabilities(file)?;
                listed.sort_unstable();
                all.push(Restriction::Capabilities(listed));
            }
            _ => all.extend(self.at_most.iter().cloned().map(Restriction::Limit)),
        }
        if all.len() > Restriction::MAX_PER_BLOCK {
            return Err(Usage(format!("{} restrictions at once, expected at most {}", all.len(), Restriction::MAX_PER_BLOCK)).into());
        }
        all.iter().try_for_each(Restriction::check)?;
        Ok(all)
    }
}

fn class(text: &str) -> Result<DataClass, String> {
    serde_json::from_value(text.into()).map_err(|_| format!("expected public, internal, confidential or restricted, got `{text}`"))
}

fn moment(text: &str) -> Result<u64, String> {
    let read = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
    let secs = read.ok().and_then(|t| u64::try_from(t.unix_timestamp()).ok());
    secs.ok_or_else(|| format!("expected a time such as 2026-12-31T17:00:00Z, got `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_classes_are_read_in_their_own_form_only() {
        assert_eq!(moment("1970-01-01T00:01:00Z"), Ok(60));
        assert!(["tomorrow", "2026-12-31", "1969-12-31T23:59:59Z", ""].iter().all(|t| moment(t).is_err()));
        assert_eq!(class("internal"), Ok(DataClass::Internal));
        assert!(["Internal", "secret", ""].iter().all(|t| class(t).is_err()));
    }
}
