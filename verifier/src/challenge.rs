//! What an agent signs to show, at registration, that it holds the key it names.

use sha2::{Digest as _, Sha256};

use crate::ids::{Key, Tenant};

/// The bytes to sign for a nonce the authority drew.
///
/// The nonce enters only under a tagged hash: whoever draws it cannot make the agent sign a link, a call proof
/// or an assertion, whatever bytes it asks for. Tenant and key stand beside it, so an answer fits no other tenant
/// and no other key. (The tenant is the only part of variable length, hence no two inputs share a form.)
pub fn message(tenant: &Tenant, nonce: &[u8; 32], key: &Key) -> Vec<u8> {
    let hash: [u8; 32] = Sha256::new().chain_update(TAG).chain_update(tenant.as_str()).chain_update(nonce).chain_update(key.as_bytes()).finalize().into();
    [PREFIX, &hash].concat()
}

const PREFIX: &[u8] = b"procura-challenge/1\0";
const TAG: &[u8] = b"procura-challenge-tag/1\0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_changes_with_each_part() {
        let tenant = |t: &str| t.parse::<Tenant>().expect("a tenant");
        let key = |n| Key::from_bytes([n; 32]);
        let m = message(&tenant("acme"), &[1; 32], &key(2));
        assert!(m.starts_with(b"procura-challenge/1\0"));
        assert_eq!(m.len(), 20 + 32);
        assert_ne!(m, message(&tenant("acme2"), &[1; 32], &key(2)));
        assert_ne!(m, message(&tenant("acme"), &[3; 32], &key(2)));
        assert_ne!(m, message(&tenant("acme"), &[1; 32], &key(3)));
    }
}
