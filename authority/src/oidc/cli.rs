//! The login of the command line: an authorization endpoint of our own, for one public client on this machine (RFC 8252).

use procura_verifier::ids::{HumanId, UtcMillis};
use rand::RngCore;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::http::is_loopback;
use crate::domain::session::{Assurance, HashedToken, SecretKind, SignInGenerations, Spend};
use crate::seal::{Sealed, Seals};
use crate::secret;

/// What `GET /login/cli` carries.
#[derive(Deserialize)]
pub struct CliRequest {
    redirect_uri: String,
    code_challenge: String,
    code_challenge_method: Option<String>,
    state: String,
}

/// A checked request of the command line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PendingCli {
    redirect_uri: Url,
    challenge: [u8; 32],
    state: String,
}

/// Why a login of the command line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CliError {
    /// Codes go to this machine only.
    #[error("expected `redirect_uri` of the form http://127.0.0.1:PORT/PATH or http://[::1]:PORT/PATH")]
    RedirectUri,
    /// PKCE is not optional and not `plain`.
    #[error("expected `code_challenge` of 43 characters of base64url, method S256")]
    Challenge,
    /// Not what we send back unchanged.
    #[error("expected `state` of 1 to 128 letters, digits, `-`, `.`, `_`, `~`")]
    State,
    /// Unknown, used, older than 60 s, or asked for with another verifier.
    #[error("expected a code of the last 60 seconds, once, with the `code_verifier` of its login")]
    Code,
}

impl TryFrom<CliRequest> for PendingCli {
    type Error = CliError;
    fn try_from(r: CliRequest) -> Result<Self, CliError> {
        let redirect_uri = Url::parse(&r.redirect_uri).map_err(|_| CliError::RedirectUri)?;
        // The text must be the normal form: what we judged is what the browser will follow.
        let is_normal = redirect_uri.as_str() == r.redirect_uri && r.redirect_uri.len() <= MAX_URI;
        let is_plain = redirect_uri.query().is_none() && redirect_uri.fragment().is_none() && redirect_uri.username().is_empty();
        // By name: `localhost` may resolve elsewhere (RFC 8252 §8.3); 127.0.0.2 may be another's listener.
        let is_ours = is_loopback(&redirect_uri) && matches!(redirect_uri.host_str(), Some("127.0.0.1" | "[::1]"));
        if !(is_normal && is_plain && is_ours && redirect_uri.password().is_none() && redirect_uri.port().is_some_and(|p| p > 0)) {
            return Err(CliError::RedirectUri);
        }
        let challenge = secret::from_base64url(&r.code_challenge).and_then(|c| c.try_into().ok());
        let challenge = challenge.filter(|_| r.code_challenge_method.as_deref().is_none_or(|m| m == "S256")).ok_or(CliError::Challenge)?;
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        if !(1..=MAX_STATE).contains(&r.state.len()) || !r.state.bytes().all(unreserved) {
            return Err(CliError::State);
        }
        Ok(Self { redirect_uri, challenge, state: r.state })
    }
}

impl PendingCli {
    /// Where the browser goes when the login failed.
    pub fn refused(&self, authority: &str) -> Url {
        self.answer("error", "access_denied", authority)
    }

    fn answer(&self, name: &str, value: &str, authority: &str) -> Url {
        let mut to = self.redirect_uri.clone();
        to.query_pairs_mut().append_pair(name, value).append_pair("state", &self.state).append_pair("iss", authority);
        to
    }
}

/// A sign-in done, on its way to the command line that asked for it: sealed, so that any replica redeems it. Good for
/// 60 s and once; what it uses up is spent in the commit that opens the session.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CliCode {
    challenge: [u8; 32],
    created: UtcMillis,
    /// Who.
    pub human: HumanId,
    /// What the provider calls them.
    pub name: Option<String>,
    /// How they signed in.
    pub assurance: Assurance,
    /// The generations of the sign-in: a kill until the code is redeemed refuses the session.
    pub generations: SignInGenerations,
}

// The name is personal.
impl std::fmt::Debug for CliCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CliCode").field("human", &self.human).finish_non_exhaustive()
    }
}

impl CliCode {
    /// The code for a session that does not exist yet.
    pub fn new(pending: &PendingCli, now: UtcMillis, human: HumanId, name: Option<String>, assurance: Assurance, generations: SignInGenerations) -> Self {
        Self { challenge: pending.challenge, created: now, human, name, assurance, generations }
    }

    /// Where the browser takes it.
    pub fn deliver(&self, seals: &Seals, rng: &mut dyn RngCore, pending: &PendingCli, authority: &str) -> Option<Url> {
        Some(pending.answer("code", &seals.seal(Sealed::CliCode, rng, self)?, authority))
    }

    /// What a code of ours stands for while it is young, and what redeeming it uses up.
    pub fn open(seals: &Seals, now: UtcMillis, code: &str) -> Result<(Self, Spend), CliError> {
        let opened: Self = seals.open(Sealed::CliCode, code).ok_or(CliError::Code)?;
        let until = opened.created.plus(CODE_LIFE_MS);
        if now < until { Ok((opened, (HashedToken::of(SecretKind::CliCode, code.as_bytes()), until))) } else { Err(CliError::Code) }
    }

    /// True for the `code_verifier` of the login that asked. Who is not it has spent the code all the same: whoever else
    /// saw it in a browser's history or a proxy's log has no verifier, and learns nothing by trying.
    pub fn is_asked_by(&self, verifier: &str) -> bool {
        (43..=128).contains(&verifier.len()) && secret::same(&self.challenge, &secret::digest(verifier))
    }
}

const CODE_LIFE_MS: u64 = 60_000;
const MAX_URI: usize = 256;
const MAX_STATE: usize = 128;

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    const VERIFIER: &str = "a-verifier-of-at-least-forty-three-characters";

    fn request(redirect_uri: &str) -> CliRequest {
        CliRequest {
            redirect_uri: redirect_uri.into(),
            code_challenge: secret::base64url(&secret::digest(VERIFIER)),
            code_challenge_method: Some("S256".into()),
            state: "s-1".into(),
        }
    }

    #[test]
    fn codes_go_to_a_numbered_loopback_port_only() {
        for good in ["http://127.0.0.1:8400/callback", "http://[::1]:8400/callback"] {
            assert!(PendingCli::try_from(request(good)).is_ok(), "{good}");
        }
        for bad in [
            "http://127.0.0.2:8400/callback",
            "http://evil.example:8400/callback",
            "http://localhost:8400/callback",
            "http://127.0.0.1.evil.example:8400/callback",
            "http://127.0.0.1:8400@evil.example/callback",
            "http://user@127.0.0.1:8400/callback",
            "http://127.0.0.1/callback",
            "http://127.0.0.1:0/callback",
            "http://127.1:8400/callback",
            "http://0.0.0.0:8400/callback",
            "https://127.0.0.1:8400/callback",
            "http://127.0.0.1:8400/callback?next=x",
            "http://127.0.0.1:8400/callback#x",
            "http://127.0.0.1:8400",
            "http://[::ffff:127.0.0.1]:8400/callback",
            "http:\\\\127.0.0.1:8400/callback",
            "procura://127.0.0.1:8400/callback",
            "",
        ] {
            assert_eq!(PendingCli::try_from(request(bad)).err(), Some(CliError::RedirectUri), "{bad}");
        }
    }

    #[test]
    fn the_challenge_is_s256_and_the_state_is_there() {
        let good = "http://127.0.0.1:8400/callback";
        let plain = CliRequest { code_challenge_method: Some("plain".into()), ..request(good) };
        assert_eq!(PendingCli::try_from(plain).err(), Some(CliError::Challenge));
        let short = CliRequest { code_challenge: "abc".into(), ..request(good) };
        assert_eq!(PendingCli::try_from(short).err(), Some(CliError::Challenge));
        for state in ["", "a b", &"s".repeat(129)] {
            let bad = CliRequest { state: state.into(), ..request(good) };
            assert_eq!(PendingCli::try_from(bad).err(), Some(CliError::State));
        }
    }

    #[test]
    fn a_code_is_good_for_sixty_seconds_with_its_verifier() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let folder = tempfile::tempdir().unwrap();
        let seals = Seals::new(&crate::seal::SessionSecret::open(folder.path(), &mut rng).unwrap(), &"acme".parse().unwrap());
        let pending = PendingCli::try_from(request("http://127.0.0.1:8400/callback")).unwrap();
        let human = HumanId::from_bytes([1; 16]);
        let code = CliCode::new(&pending, UtcMillis(0), human, Some("Alice".into()), Assurance::default(), SignInGenerations::default());
        let url = code.deliver(&seals, &mut rng, &pending, "https://authority.example").unwrap();
        let text = url.query_pairs().find(|(n, _)| n == "code").unwrap().1.into_owned();
        let (opened, spends) = CliCode::open(&seals, UtcMillis(59_999), &text).unwrap();
        assert_eq!((&opened, spends.1), (&code, UtcMillis(60_000)));
        assert!(opened.is_asked_by(VERIFIER));
        for other in [&VERIFIER.replace('a', "b"), "", &VERIFIER.repeat(3)] {
            assert!(!opened.is_asked_by(other), "{other}");
        }
        assert_eq!(CliCode::open(&seals, UtcMillis(60_000), &text), Err(CliError::Code), "late");
        assert_eq!(CliCode::open(&seals, UtcMillis(0), "guess"), Err(CliError::Code));
    }
}
