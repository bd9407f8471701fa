//! Who asks, once that is proven.

use procura_verifier::ids::{AgentId, HumanId, UtcMillis, VerifierId};

use super::human::{Role, Roles};
use super::session::SignInGenerations;

/// The authenticated asker of a use case. Made only by what authenticated it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Principal {
    /// A person with a session.
    Human {
        /// The pseudonym.
        id: HumanId,
        /// What else the person may do.
        roles: Roles,
        /// When the person last proved who they are.
        auth_time: UtcMillis,
        /// The generations of their sign-in: whatever they have written requires that none is below its floor.
        generations: SignInGenerations,
    },
    /// An agent by its key.
    Agent(AgentId),
    /// Whoever may open the socket in the data folder (mode 0600).
    LocalOperator,
    /// An enrolled verifier by its key.
    Verifier(VerifierId),
}

impl Principal {
    /// The person, if it is one.
    pub const fn human(&self) -> Option<HumanId> {
        match self {
            Self::Human { id, .. } => Some(*id),
            _ => None,
        }
    }

    /// True for a person with the role, and for the local operator, who could read the keys anyway.
    pub fn has(&self, role: Role) -> bool {
        match self {
            Self::Human { roles, .. } => roles.contains(&role),
            Self::LocalOperator => true,
            Self::Agent(_) | Self::Verifier(_) => false,
        }
    }

    /// As leaves name it: a pseudonym or an id, never a person.
    pub fn label(&self) -> String {
        match self {
            Self::Human { id, .. } => id.to_string(),
            Self::Agent(id) => id.to_string(),
            Self::LocalOperator => "local-operator".to_owned(),
            Self::Verifier(id) => id.to_string(),
        }
    }
}
