//! The login of the command line: an authorization endpoint of our own, for one public client on this machine (RFC 8252).

use std::sync::{Mutex, PoisonError};

use procura_verifier::ids::{HumanId, UtcMillis};
use rand::RngCore;
use reqwest::Url;
use secrecy::ExposeSecret as _;
use serde::Deserialize;

use super::http::is_loopback;
use super::session::Session;
use crate::expiring::Expiring;
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

/// Codes on their way to a command line: at most 1,000, 60 s each, good once.
pub struct CliCodes(Mutex<Expiring<[u8; 32], Waiting>>);

struct Waiting {
    challenge: [u8; 32],
    session: Session,
}

impl Default for CliCodes {
    fn default() -> Self {
        Self(Mutex::new(Expiring::new(MAX_CODES)))
    }
}

impl CliCodes {
    /// Draws a code for a session that does not exist yet; gives where the browser takes it.
    pub fn issue(&self, now: UtcMillis, rng: &mut dyn RngCore, pending: &PendingCli, session: Session, authority: &str) -> Url {
        let code = secret::draw(rng);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(now, secret::digest(code.expose_secret()), Waiting { challenge: pending.challenge, session }, now.plus(CODE_LIFE_MS));
        pending.answer("code", code.expose_secret(), authority)
    }

    /// Spends the codes of a human: part of a kill.
    pub fn forget(&self, human: HumanId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove_if(|waiting| waiting.session.human == human);
    }

    /// What the code stands for. It is spent by the first try, also with a wrong verifier: whoever else saw the
    /// code in a browser's history or a proxy's log has no verifier, and learns nothing by trying.
    pub fn redeem(&self, now: UtcMillis, code: &str, verifier: &str) -> Result<Session, CliError> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).take(now, &secret::digest(code));
        let Waiting { challenge, session } = taken.ok_or(CliError::Code)?;
        if (43..=128).contains(&verifier.len()) && secret::same(&challenge, &secret::digest(verifier)) { Ok(session) } else { Err(CliError::Code) }
    }
}

const MAX_CODES: usize = 1000;
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
    fn a_code_is_good_once_for_sixty_seconds_with_its_verifier() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let codes = CliCodes::default();
        let session = Session { human: HumanId::from_bytes([1; 16]), name: None, auth_time: None, acr: None, amr: vec![] };
        let pending = PendingCli::try_from(request("http://127.0.0.1:8400/callback")).unwrap();
        let mut issue = || {
            let url = codes.issue(UtcMillis(0), &mut rng, &pending, session.clone(), "https://authority.example");
            url.query_pairs().find(|(n, _)| n == "code").unwrap().1.into_owned()
        };
        let code = issue();
        assert_eq!(codes.redeem(UtcMillis(59_999), &code, VERIFIER), Ok(session.clone()));
        assert_eq!(codes.redeem(UtcMillis(59_999), &code, VERIFIER), Err(CliError::Code), "replay");
        let code = issue();
        assert_eq!(codes.redeem(UtcMillis(60_000), &code, VERIFIER), Err(CliError::Code), "late");
        let code = issue();
        assert_eq!(codes.redeem(UtcMillis(0), &code, &VERIFIER.replace('a', "b")), Err(CliError::Code));
        assert_eq!(codes.redeem(UtcMillis(0), &code, VERIFIER), Err(CliError::Code), "spent by the wrong verifier");
    }
}
