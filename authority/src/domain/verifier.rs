//! A tool's enrolled judge: who may deliver receipts, acknowledge and ask.

use procura_verifier::claims::Audience;
use procura_verifier::ids::{Key, UtcMillis, VerifierId};

/// A verifier as enrolled. Its key is in the log's leaf, not in the key list: replay takes it from there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verifier {
    /// Its id.
    pub id: VerifierId,
    /// The key that signs its receipts and acknowledgements.
    pub key: Key,
    /// The service and instance it judges for.
    pub audience: Audience,
    /// When it was enrolled.
    pub enrolled: UtcMillis,
    /// When it was retired: nothing that it signs is taken from then on.
    pub retired: Option<UtcMillis>,
}
