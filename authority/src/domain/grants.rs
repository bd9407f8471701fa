//! What each human may delegate: a configured table, until the policy of a later issue.

use procura_verifier::claims::{Capability, DataClass, Limit, Possession};

use super::delegation::Terms;
use super::human::{Roles, Subject};

/// The row of one human.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Whose row.
    pub human: Subject,
    /// What the human may do besides delegating.
    #[serde(default)]
    pub roles: Roles,
    /// The maxima: what is delegated must lie inside one of them.
    #[serde(default)]
    pub capabilities: Vec<Capability>,
    /// Longest life of a token, in seconds.
    #[serde(default)]
    pub max_ttl_secs: u64,
    /// Most links.
    #[serde(default)]
    pub max_depth: u8,
    /// Ceiling on the class of data.
    #[serde(default)]
    pub class_max: DataClass,
}

/// Why a human may not delegate this. Names the rule and the maximum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

impl Grant {
    /// Nothing but a sign-in: the row of a human whom the table does not name.
    const fn empty(human: Subject) -> Self {
        Self { human, roles: Roles::new(), capabilities: Vec::new(), max_ttl_secs: 0, max_depth: 0, class_max: DataClass::Public }
    }

    /// Refuses terms beyond this human's own authority.
    pub fn may_delegate(&self, terms: &Terms) -> Result<(), Refusal> {
        terms.capabilities.iter().try_for_each(|c| self.holds(c))?;
        let refuse = |text| Err(Refusal(text));
        if terms.ttl_secs > self.max_ttl_secs {
            return refuse(format!("a token life of {} s is beyond your maximum: {} s", terms.ttl_secs, self.max_ttl_secs));
        }
        if terms.depth > self.max_depth {
            return refuse(format!("a link depth of {} is beyond your maximum: {}", terms.depth, self.max_depth));
        }
        if terms.class_max > self.class_max {
            return refuse(format!("data of class {:?} is beyond your maximum: {:?}", terms.class_max, self.class_max));
        }
        // Weaker settings need a policy that names them; the configured table cannot.
        if terms.possession == Possession::Bearer || terms.hops == procura_verifier::claims::Hops::Any || terms.freshness_ms > 150 {
            return refuse("bearer use, unregistered hops and a freshness bound beyond 150 ms are beyond your maximum: no rule allows them".to_owned());
        }
        Ok(())
    }

    fn holds(&self, asked: &Capability) -> Result<(), Refusal> {
        if self.capabilities.iter().any(|mine| mine.includes(asked)) {
            return Ok(());
        }
        let Some(nearest) = self.capabilities.iter().find(|mine| mine.covers_scope_of(asked)) else {
            let maxima: Vec<_> = self.capabilities.iter().map(ToString::to_string).collect();
            let maximum = if maxima.is_empty() { "nothing".to_owned() } else { maxima.join("; ") };
            return Err(Refusal(format!("{}:{} on {} is beyond your maximum: {maximum}", asked.tool(), asked.action(), asked.resource())));
        };
        let broken = nearest.limits().iter().find(|mine| !asked.limits().iter().any(|theirs| mine.allows_all_of(theirs)));
        // The asked limit of the same kind on the same argument, or its absence, is what goes too far.
        let what = broken.map_or_else(String::new, |mine| {
            let same = |l: &&Limit| l.arg() == mine.arg() && std::mem::discriminant::<Limit>(l) == std::mem::discriminant(mine);
            asked.limits().iter().find(same).map_or_else(|| format!("no such limit on {}", mine.arg()), ToString::to_string)
        });
        Err(Refusal(format!("{what} is beyond your maximum: {nearest}")))
    }
}

/// The whole table.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Grants(Vec<Grant>);

impl Grants {
    /// The table with these rows. Two rows of one human are a mistake of the operator: the first is all that counts.
    pub const fn new(rows: Vec<Grant>) -> Self {
        Self(rows)
    }

    /// What a human may delegate; nothing for one whom the table does not name.
    pub fn of(&self, human: &Subject) -> Grant {
        self.0.iter().find(|g| g.human == *human).cloned().unwrap_or_else(|| Grant::empty(human.clone()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::domain::delegation::tests::terms;

    pub(crate) fn alice() -> Grant {
        serde_json::from_str(
            r#"{"human":{"issuer":"https://idp","subject":"alice"},"max_ttl_secs":3600,"max_depth":2,"class_max":"confidential","capabilities":[
                {"tool":"payments","action":"transfer","resource":"acct/*","limits":[{"kind":"at_most","arg":"amount","max":100000,"unit":"EUR"}]}]}"#,
        )
        .unwrap()
    }

    fn asking(capability: &str) -> Terms {
        Terms { capabilities: vec![serde_json::from_str(capability).unwrap()], ..terms() }
    }

    #[test]
    fn a_refusal_names_the_rule_and_the_maximum() {
        assert_eq!(alice().may_delegate(&terms()), Ok(()));
        let said = |t: Terms| alice().may_delegate(&t).unwrap_err().to_string();
        assert_eq!(
            said(asking(
                r#"{"tool":"payments","action":"transfer","resource":"acct/eu/*","limits":[{"kind":"at_most","arg":"amount","max":250000,"unit":"EUR"}]}"#
            )),
            "amount at most 2500.00 EUR is beyond your maximum: payments:transfer on acct/*, amount at most 1000.00 EUR"
        );
        assert_eq!(
            said(asking(r#"{"tool":"payments","action":"transfer","resource":"acct/eu/*","limits":[]}"#)),
            "no such limit on amount is beyond your maximum: payments:transfer on acct/*, amount at most 1000.00 EUR"
        );
        assert_eq!(
            said(asking(r#"{"tool":"payments","action":"refund","resource":"acct/eu/*","limits":[]}"#)),
            "payments:refund on acct/eu/* is beyond your maximum: payments:transfer on acct/*, amount at most 1000.00 EUR"
        );
        assert_eq!(said(Terms { ttl_secs: 3601, ..terms() }), "a token life of 3601 s is beyond your maximum: 3600 s");
        assert_eq!(said(Terms { depth: 3, ..terms() }), "a link depth of 3 is beyond your maximum: 2");
        assert!(said(Terms { hops: procura_verifier::claims::Hops::Any, ..terms() }).contains("unregistered hops"));
    }

    #[test]
    fn a_human_without_a_row_may_delegate_nothing() {
        let nobody = Subject { issuer: "https://idp".into(), subject: "bob".into() };
        assert!(Grants::new(vec![alice()]).of(&nobody).may_delegate(&terms()).is_err());
        assert_eq!(Grants::new(vec![alice()]).of(&alice().human), alice());
    }
}
